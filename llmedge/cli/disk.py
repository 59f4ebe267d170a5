"""`llmedge du` and `llmedge verify`: what the files take, and whether they are sound."""

from __future__ import annotations

from typing import Annotated

import typer

from llmedge.cli.options import ShowFlags, grouped
from llmedge.cli.output import Table, make_progress, note, show_results
from llmedge.core.errors import IntegrityError
from llmedge.core.units import format_mb


@grouped
def du_command(*, show: ShowFlags) -> None:
    """Show what takes the disk: variants, the Hub's cache, unfinished files."""
    from llmedge.core.settings import load_settings
    from llmedge.store.disk_use import disk_use

    found = disk_use(load_settings())
    rows = [
        (
            each.kind,
            format_mb(each.n_bytes),
            str(each.n_files),
            "yes" if each.is_reclaimable else "",
            str(each.path),
        )
        for each in found
    ]
    columns = ("kind", "size>", "files>", "may be deleted", "folder")
    show_results("disk use", found, Table(columns, rows), show.chosen)
    total = sum(each.n_bytes for each in found)
    spare = sum(each.n_bytes for each in found if each.is_reclaimable)
    note(f"{format_mb(total)} in all, {format_mb(spare)} of it may be deleted")


@grouped
def verify_command(
    *,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL…]",
            help="name:Q4_K_M, ORG/NAME, ./file.gguf; without any, all that is here.",
            show_default=False,
        ),
    ] = None,
    show: ShowFlags,
) -> int:
    """Hold files against the hashes that were noted when they were made or pulled."""
    from llmedge.core.settings import load_settings
    from llmedge.store.reference import parse_reference
    from llmedge.store.soundness import candidates, examine

    asked = candidates(load_settings(), [parse_reference(model) for model in models or []])
    if not asked:
        note("there is nothing to verify: the store and the cache are empty")
    progress = make_progress()
    found = [examine(each, progress) for each in asked]
    rows = [(each.name, each.state, format_mb(each.n_bytes), each.reason) for each in found]
    show_results("verify", found, Table(("file", "state", "size>", "reason"), rows), show.chosen)
    damaged = [each for each in found if each.state == "damaged"]
    for each in damaged:
        note(f"{each.name} is damaged: delete {each.path}, and pull or make it again")
    return IntegrityError.exit_code if damaged else 0
