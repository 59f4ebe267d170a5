"""`llmedge devices`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmedge.cli.options import ShowFlags, grouped
from llmedge.cli.output import Table, note, show_results, write
from llmedge.core.units import format_mib

app = typer.Typer()


@app.callback(invoke_without_command=True)
def devices_command(context: typer.Context) -> None:
    """What is known of devices: phones, boards, laptops and classes of them."""
    if context.invoked_subcommand is None:
        write(context.get_help() + "\n")


def _folder() -> Path:
    from llmedge.core.settings import load_settings

    return load_settings().home / "devices"


@app.command("list")
@grouped
def list_command(*, show: ShowFlags) -> None:
    """List the devices that `check` can judge for."""
    from llmedge.device.profile import all_profiles

    found = list(all_profiles(_folder()).values())
    rows = [
        (
            each.name,
            each.title,
            str(each.facts["soc"].value),
            format_mib(each.budget.safe_bytes),
            "calibrated" if each.is_calibrated else "predicted",
            str(len(each.unsourced)),
        )
        for each in found
    ]
    columns = ("device", "what it is", "chip", "budget>", "speed", "unsourced>")
    show_results("devices", found, Table(columns, rows), show.chosen)


@app.command("show")
@grouped
def show_command(
    name: Annotated[str, typer.Argument(help="A device, or a TOML file.")], *, show: ShowFlags
) -> None:
    """Show every fact of a device and where it comes from."""
    from llmedge.device.profile import find_profile

    found = find_profile(name, _folder())
    rows = [
        (key, str(fact.value), fact.source or "(nobody shows it)")
        for key, fact in found.facts.items()
    ]
    show_results("devices", [found], Table(("fact", "value", "source"), rows), show.chosen)


@app.command("add")
def add_command(
    name: Annotated[str, typer.Argument(help="What to call it.")],
    *,
    soc: Annotated[str, typer.Option(help="Its chip, as `devices list` names them.")],
    ram: Annotated[str, typer.Option(help="Its memory, such as 4GiB.")],
    system: Annotated[str, typer.Option("--os", help="android, ios or linux.")] = "android",
    source: Annotated[str, typer.Option(help="Where you have this from.")] = "",
) -> None:
    """Add a device of your own."""
    import json

    lines = [
        f"[{json.dumps(name)}]",
        f"os = {json.dumps(system)}",
        f"ram = [{json.dumps(ram)}, {json.dumps(source)}]",
        f"soc = [{json.dumps(soc)}, {json.dumps(source)}]",
    ]
    _store("\n".join(lines) + "\n")


@app.command("import")
def import_command(
    file: Annotated[Path, typer.Argument(help="A TOML file of devices.")],
) -> None:
    """Take devices over from a file, once it is shown to be valid."""
    from llmedge.device.profile import load_profiles

    load_profiles(file)
    _store(file.read_text(encoding="utf-8"))


def _store(text: str) -> None:
    """Check devices and put them where `check` finds them."""
    import tempfile

    from llmedge.core.errors import UsageError
    from llmedge.device.profile import load_profiles

    with tempfile.TemporaryDirectory(prefix="llmedge-") as scratch:
        tried = Path(scratch) / "devices.toml"
        tried.write_text(text, encoding="utf-8")
        names = sorted(load_profiles(tried))
    if not names or not all(set(name) <= _NAME for name in names):
        raise UsageError(f"{names} are no names of devices", "use a-z, 0-9 and -")
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{names[0]}.toml").write_text(text, encoding="utf-8")
    note(f"added {', '.join(names)}; llmedge check MODEL --target {names[0]}")


_NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")
