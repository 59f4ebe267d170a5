"""`llmedge pull`."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from llmedge.cli.options import ShowFlags, grouped
from llmedge.cli.output import Table, make_progress, note, show_results
from llmedge.core.errors import NetworkError, NotFoundError, UsageError
from llmedge.core.units import format_mb, format_seconds, parse_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    from llmedge.core.settings import Settings
    from llmedge.pull.line import Line
    from llmedge.pull.run import PullReport, Selection
    from llmedge.recipe.up import Snapshot
    from llmedge.store.checkpoint import FolderCheckpoint
    from llmedge.store.reference import HubReference

_MIN_RATE = 1000  # a server gives up on a client that takes less


@dataclass(frozen=True, slots=True)
class LineFlags:
    """How the line may be used."""

    limit_rate: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Bytes per second: 500k, 2MB.", show_default=False),
    ] = None
    at: Annotated[
        str | None,
        typer.Option(
            metavar="HOURS",
            help="Move bytes in these hours only: 23:00-06:00.",
            show_default=False,
        ),
    ] = None

    def pull_flags(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> PullFlags:
        """Return how to pull what a command needs."""
        return PullFlags(list(include), list(exclude), self.limit_rate, self.at)


@dataclass(frozen=True, slots=True)
class PullFlags:
    """What to pull, and how."""

    include: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB",
            help="Only such files; safe ones by default. May be repeated.",
            show_default=False,
        ),
    ] = None
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="No such files. May be repeated.", show_default=False),
    ] = None
    limit_rate: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Bytes per second: 500k, 2MB.", show_default=False),
    ] = None
    at: Annotated[
        str | None,
        typer.Option(
            metavar="HOURS",
            help="Move bytes in these hours only: 23:00-06:00.",
            show_default=False,
        ),
    ] = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be fetched, fetch nothing.")
    ] = False

    def line(self, tell: Callable[[str], None]) -> Line:
        """Return the line as these flags want it.

        Raises:
            UsageError: A rate or hours that cannot be meant.
        """
        from llmedge.pull.line import Line
        from llmedge.pull.window import parse_window

        rate = parse_bytes(self.limit_rate) if self.limit_rate is not None else None
        if rate is not None and rate < _MIN_RATE:
            raise UsageError(f"--limit-rate {self.limit_rate} is below 1 kB a second", "500k, 2MB")
        window = parse_window(self.at) if self.at is not None and not self.dry_run else None
        return Line(rate=rate, window=window, tell=tell)

    def selection(self) -> Selection:
        """Return what to take of a repository."""
        from llmedge.pull.run import Selection

        return Selection(tuple(self.include or ()), tuple(self.exclude or ()))


@grouped
def pull_command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="ORG/NAME, ORG/NAME@REV, ORG/NAME:Q4_K_M", show_default=False
        ),
    ],
    *,
    flags: PullFlags,
    show: ShowFlags,
) -> None:
    """Fetch a model from the Hugging Face Hub into its standard cache.

    Resumed where it was after a cut line or a kill, and every file held against its hash. HF_TOKEN,
    HF_HOME, HF_HUB_CACHE, HF_ENDPOINT and HF_HUB_OFFLINE mean what they mean elsewhere.
    """
    from llmedge.core.settings import load_settings
    from llmedge.store.reference import HubReference, parse_reference

    reference, settings = parse_reference(model), load_settings()
    if not isinstance(reference, HubReference):
        raise UsageError(f"{model!r} is nothing on the hub", "llmedge pull ORG/NAME:Q4_K_M")
    report = fetch(reference, settings, flags)
    if show.chosen == "table":
        _note(report, reference)
    show_results("pull", [report], _table(report), show.chosen)


def fetch(reference: HubReference, settings: Settings, flags: PullFlags) -> PullReport:
    """Pull a reference, plan to, or find it in the cache where HF_HUB_OFFLINE forbids to ask.

    Raises:
        NetworkError: The hub is out of reach, refuses or must not be asked.
        NotFoundError: There is no such repository, revision or variant.
    """
    pull = _look_up if settings.is_hf_offline else _pull
    return pull(reference, settings, flags)


@dataclass(frozen=True)
class HubSource:
    """The Hub, as the flags and HF_HUB_OFFLINE want it."""

    settings: Settings
    flags: PullFlags

    def look(self, reference: HubReference) -> Snapshot:
        """Return what a reference stands for, without fetching it."""
        return _snapshot(fetch(reference, self.settings, replace(self.flags, dry_run=True)))

    def fetch(self, reference: HubReference) -> Snapshot:
        """Fetch what a reference stands for, as far as it is not here."""
        report = fetch(reference, self.settings, self.flags)
        size, came = format_mb(report.n_bytes), format_mb(report.network_bytes)
        note(f"{report.repo}@{report.commit[:12]}: {size}, {came} came over the line")
        note(f"license: {report.license or 'not stated'}")
        return _snapshot(report)


@contextlib.contextmanager
def remote_checkpoint(model: str, settings: Settings) -> Generator[tuple[Path, FolderCheckpoint]]:
    """Give a checkpoint on the Hub: a folder with all but its weights, and the weights as read.

    Raises:
        UsageError: It is no repository's name.
        NetworkError: The Hub is out of reach, refuses or must not be asked.
        NotFoundError: There is no such repository, or it has no safetensors.
    """
    from llmedge.core.settings import read_hf_token
    from llmedge.hub.client import Hub
    from llmedge.pull.line import Line
    from llmedge.pull.remote_file import RangeFile
    from llmedge.pull.select import select_files
    from llmedge.store.checkpoint import FolderCheckpoint
    from llmedge.store.reference import HubReference, parse_reference

    reference = parse_reference(model)
    if not isinstance(reference, HubReference) or reference.variant is not None:
        raise UsageError(f"{model!r} is no checkpoint on the hub", "ORG/NAME or ORG/NAME@REV")
    if settings.is_hf_offline:
        raise NetworkError("HF_HUB_OFFLINE forbids --remote", "unset it, or pull beforehand")
    report = fetch(reference, settings, PullFlags(exclude=["*.safetensors"]))
    with Hub(settings.hf_endpoint, read_hf_token()) as hub:
        repository, line = hub.describe(report.repo, report.commit), Line(tell=note)
        weights = {
            file.path: RangeFile(hub, repository, file, line)
            for file in select_files(repository)
            if file.path.endswith(".safetensors")
        }
        note(f"{report.repo}@{report.commit[:12]}: weights are read in pieces and not kept;")
        note("  each is held to its place and length, none to the hash of its file")
        with FolderCheckpoint(report.folder, weights) as checkpoint:
            yield report.folder, checkpoint
        note(f"{format_mb(line.network_bytes)} of weights came over the line")


def _snapshot(report: PullReport) -> Snapshot:
    from llmedge.recipe.up import Snapshot

    oids = {file.path: file.oid for file in report.files}
    return Snapshot(report.commit, report.folder, tuple(oids), oids)


def _pull(reference: HubReference, settings: Settings, flags: PullFlags) -> PullReport:
    from llmedge.core.settings import read_hf_token
    from llmedge.hub.client import Hub
    from llmedge.pull.run import Pull

    line = flags.line(note)
    with Hub(settings.hf_endpoint, read_hf_token()) as hub:
        pull = Pull(hub, settings.hf_cache, reference, line, flags.selection())
        return pull.plan() if flags.dry_run else pull.run(make_progress())


def _look_up(reference: HubReference, settings: Settings, flags: PullFlags) -> PullReport:
    from llmedge.pull.run import cached_report

    try:
        return cached_report(settings.hf_cache, reference, flags.selection())
    except NotFoundError as error:
        message = f"{error.message}, and HF_HUB_OFFLINE forbids to ask the hub"
        raise NetworkError(message, "unset HF_HUB_OFFLINE, and run the same again") from None


def _note(report: PullReport, reference: HubReference) -> None:
    size, missing = format_mb(report.n_bytes), format_mb(report.missing_bytes)
    place = f"{report.repo}@{report.commit[:12]}"
    if report.is_plan:
        note(f"{place}: {size} in {len(report.files)} files, {missing} to fetch")
        return
    took = format_seconds(report.duration_s)
    came = f"{format_mb(report.network_bytes)} came over the line in {took}"
    retries = f", {report.n_retries} times taken up again" if report.n_retries else ""
    note(f"{place}: {size} in {len(report.files)} files; {came}{retries}")
    note(f"license: {report.license or 'not stated'}; files: {report.folder}")
    has_gguf = any(file.path.endswith(".gguf") for file in report.files)
    note(f"next: llmedge {'serve' if has_gguf else 'convert'} {reference}")


def _table(report: PullReport) -> Table:
    rows = [
        (
            file.path,
            format_mb(file.n_bytes),
            format_mb(file.missing_bytes) if file.missing_bytes else "here",
            file.oid[:12],
        )
        for file in report.files
    ]
    return Table(("file", "size>", "to fetch>" if report.is_plan else "fetched>", "hash"), rows)
