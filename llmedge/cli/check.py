"""`llmedge check`."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmedge.cli.options import ModelArgument, ShowFlags, grouped, model_path
from llmedge.cli.output import Table, note, show_results, write
from llmedge.core.errors import JudgementError, NotFoundError, UnsupportedError, UsageError
from llmedge.core.units import format_mb, format_mib

if TYPE_CHECKING:
    from llmedge.check.verdict import Demands, Verdict
    from llmedge.device.profile import Profile
    from llmedge.device.speed import Interval
    from llmedge.gguf.reader import Header


@dataclass(frozen=True, slots=True)
class CheckFlags:
    """For what a model is judged, and what is asked of it."""

    target: Annotated[
        list[str] | None,
        typer.Option(
            help="A device or class of `llmedge devices list`, or a TOML file; several times for "
            "several. This machine by default.",
            show_default=False,
        ),
    ] = None
    ctx: Annotated[int, typer.Option(min=1, max=1 << 27, help="Tokens of context.")] = 4096
    type_k: Annotated[str, typer.Option(help="Type of the cache's keys.")] = "f16"
    type_v: Annotated[str, typer.Option(help="Type of the cache's values.")] = "f16"
    ubatch: Annotated[
        int, typer.Option(min=1, max=1 << 20, help="Tokens of a prompt computed at once.")
    ] = 512
    min_tg: Annotated[float, typer.Option(min=0, help="Least tokens generated a second.")] = 0.0
    min_words: Annotated[
        str, typer.Option(help="Least words a second by language: hi=3,ta=2.", show_default=False)
    ] = ""
    max_ttft: Annotated[
        float | None,
        typer.Option(
            min=0, help="Most seconds until a prompt of 300 tokens is answered.", show_default=False
        ),
    ] = None
    max_battery: Annotated[
        float | None,
        typer.Option(
            min=0, help="Most percent of the battery for 1,000 tokens.", show_default=False
        ),
    ] = None
    strict: Annotated[bool, typer.Option("--strict", help="`tight` fails, too.")] = False
    all_variants: Annotated[
        bool, typer.Option("--all-variants", help="Show the model in other mixes, too.")
    ] = False
    junit: Annotated[
        bool, typer.Option("--junit", help="Print JUnit's XML, for continuous integration.")
    ] = False

    @property
    def words(self) -> dict[str, float]:
        """Least words a second by language."""
        found: dict[str, float] = {}
        for part in filter(None, self.min_words.split(",")):
            code, _, number = part.partition("=")
            try:
                found[code.strip()] = float(number)
            except ValueError:
                raise UsageError(
                    f"--min-words has {part!r}", "write it like --min-words hi=3,ta=2"
                ) from None
        return found


@grouped
def check_command(*, model: ModelArgument, flags: CheckFlags, show: ShowFlags) -> int:
    """Say whether a model runs on devices that are not here: memory, speed, battery."""
    from llmedge.check.verdict import check
    from llmedge.gguf.reader import read_header
    from llmedge.store.reference import model_name

    with contextlib.ExitStack() as stack:
        try:
            path = model_path(model)
            header = read_header(path)
        except NotFoundError as error:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="llmedge-"))
            header = _remote_header(model, Path(folder), error)
            path = header.path
        name = model_name(path)
        demands, profiles = _demands(header, path, flags), _profiles(flags.target or [])
        found = [check(header, name, profile, demands) for profile in profiles]
        others = _others(header, name, profiles, demands) if flags.all_variants else []
    shown = [*found, *others]
    if flags.junit:
        write(_junit(found, strict=flags.strict))
    else:
        show_results("check", shown, _table(shown), show.chosen)
    failed = [item for item in found if not _passes(item, strict=flags.strict)]
    for item in found:
        hint = f"; {item.instead} would pass" if item.instead else ""
        note(f"{item.target}: {item.verdict}: {item.reason}{hint}")
    return JudgementError.exit_code if failed else 0


def _remote_header(model: str, folder: Path, own: NotFoundError) -> Header:
    """Return the header of a file on the Hub; what is nothing there was not found before either."""
    from llmedge.core.settings import load_settings, read_hf_token
    from llmedge.hub.client import Hub
    from llmedge.pull.header import fetch_header
    from llmedge.store.reference import HubReference, parse_reference

    reference, settings = parse_reference(model), load_settings()
    if not isinstance(reference, HubReference) or settings.is_hf_offline:
        raise own
    with Hub(settings.hf_endpoint, read_hf_token()) as hub:
        header = fetch_header(hub, reference, folder)
    size, came = format_mb(header.file_bytes), format_mb(header.data_offset)
    note(f"{reference}: {size}, judged by its header of {came}; nothing else was fetched")
    return header


def _passes(item: Verdict, *, strict: bool) -> bool:
    return item.verdict == "fits" if strict else item.passes


def _profiles(targets: list[str]) -> list[Profile]:
    from llmedge.check.this_machine import this_machine
    from llmedge.core.settings import load_settings
    from llmedge.device.profile import find_profile

    folder = load_settings().home / "devices"
    return [find_profile(target, folder) for target in targets] or [this_machine()]


def _demands(header: Header, path: Path, flags: CheckFlags) -> Demands:
    from llmedge.check.verdict import Demands
    from llmedge.gguf.memory import KvCacheOptions

    cache = KvCacheOptions(flags.ctx, flags.type_k, flags.type_v, flags.ubatch)
    has_library = find_spec("llama_cpp") is not None
    reserved = None
    if has_library:
        from llmedge.runtime.dry_run import compute_buffer_bytes

        reserved = compute_buffer_bytes(header, cache)
    words = flags.words
    if words and not has_library:
        raise UnsupportedError(
            "words a second need llama.cpp's tokenizer", "leave --min-words away: use --min-tg"
        )
    return Demands(
        cache,
        flags.min_tg,
        words,
        flags.max_ttft,
        flags.max_battery,
        _tokens_per_word(path, list(words)),
        reserved,
    )


def _tokens_per_word(path: Path, codes: list[str]) -> dict[str, float]:
    if not codes:
        return {}
    from llmedge.measure.corpus import udhr_corpus
    from llmedge.measure.fertility import model_fertility

    corpora = {udhr_corpus(code): code for code in codes}
    found = model_fertility(path, corpora)
    return {corpora[text]: item.tokens_per_word for text, item in found.items() if item}


def _others(header: Header, name: str, profiles: list[Profile], demands: Demands) -> list[Verdict]:
    from llmedge.check.verdict import check_variants

    return [
        verdict
        for profile in profiles
        for _, _, verdict in check_variants(header, name, profile, demands)
    ]


def _range(interval: Interval | None) -> str:
    if interval is None:
        return "?"
    return f"{interval.value:.1f} ({interval.low:.1f}-{interval.high:.1f})"


def _table(found: list[Verdict]) -> Table:
    columns = ("model", "target", "verdict", "needs>", "floor>", "budget>", "tokens/s>", "hot>")
    rows = [
        (
            item.model,
            item.target,
            item.verdict,
            format_mib(item.resident_bytes),
            format_mib(item.floor_bytes),
            format_mib(item.budget_bytes),
            _range(item.tg_per_s),
            f"{item.tg_sustained_per_s.value:.1f}" if item.tg_sustained_per_s else "?",
            f"{item.time_to_first_token_s:.1f} s" if item.time_to_first_token_s else "?",
            f"{item.battery_percent:.2f} %" if item.battery_percent is not None else "?",
            item.evidence,
        )
        for item in found
    ]
    return Table((*columns, "first token>", "battery/1000>", "evidence"), rows)


def _junit(found: list[Verdict], *, strict: bool) -> str:
    from xml.etree import ElementTree as Xml

    failed = [item for item in found if not _passes(item, strict=strict)]
    suite = Xml.Element(
        "testsuite", name="llmedge check", tests=str(len(found)), failures=str(len(failed))
    )
    for item in found:
        case = Xml.SubElement(suite, "testcase", classname=item.target, name=item.model)
        if item in failed:
            Xml.SubElement(case, "failure", message=f"{item.verdict}: {item.reason}")
    return Xml.tostring(suite, encoding="unicode") + "\n"
