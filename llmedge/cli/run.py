"""`llmedge run` and `llmedge report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llmedge.cli.options import ShowFlags, ThreadsOption, grouped
from llmedge.cli.output import Table, make_progress, note, show_results
from llmedge.cli.pull import HubSource, LineFlags
from llmedge.core.units import format_mb, format_mib, format_seconds

if TYPE_CHECKING:
    from llmedge.core.settings import Settings
    from llmedge.recipe.load import LoadedRecipe
    from llmedge.recipe.run import RunOptions
    from llmedge.store.run_records import RunRecord, StageRecord

_STAGE = Literal["pull", "convert", "quantize", "evaluate", "bench", "check"]


@dataclass(frozen=True, slots=True)
class RunFlagsOfRecipe:
    """What of a recipe to run."""

    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Say something else than the recipe: serve.ctx=2048. May be repeated.",
            show_default=False,
        ),
    ] = None
    only: Annotated[
        _STAGE | None,
        typer.Option(help="Only this stage, and what it works on.", show_default=False),
    ] = None
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the commit of the run before; ask no Hub."),
    ] = False
    keep_failed: Annotated[
        bool, typer.Option("--keep-failed", help="Keep the files when a gate is missed.")
    ] = False
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace variants that something else made.")
    ] = False
    threads: ThreadsOption = None

    def run_options(self) -> RunOptions:
        """Return how to run."""
        from llmedge.recipe.run import RunOptions

        return RunOptions(
            only=self.only,
            resume=self.resume,
            keep_failed=self.keep_failed,
            overwrite=self.overwrite,
            n_threads=self.threads,
        )


@grouped
def run_command(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A file, or a shipped recipe's name.")
    ],
    *,
    flags: RunFlagsOfRecipe,
    line: LineFlags,
    show: ShowFlags,
) -> None:
    """Run a recipe: pull, convert, quantize, evaluate, bench, check; then keep what passed.

    A stage whose inputs have not changed is not done again: killed at any moment, the same command
    goes on. Where a gate is missed, nothing goes into the store.
    """
    from llmedge.core.settings import load_settings
    from llmedge.recipe.gates import require_passed
    from llmedge.recipe.load import find_recipe, load_recipe

    loaded = load_recipe(find_recipe(recipe), flags.set_ or ())
    record, path = run_recipe(loaded, flags.run_options(), line, load_settings())
    note(f"record: {path}")
    note(f"next: llmedge report {record.recipe} -o report.html")
    show_results("run", [record], _table(record), show.chosen)
    require_passed(record)


@grouped
def report_command(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A recipe's name (its newest run), or a record.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The page.", show_default=True)
    ] = Path("report.html"),
    *,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the page.")] = False,
) -> None:
    """Write a run as one page: tables and drawings that a phone shows, nothing from elsewhere."""
    from llmedge.core.settings import load_settings
    from llmedge.recipe.report_html import render_report
    from llmedge.store.atomic import require_new, write_bytes
    from llmedge.store.run_records import find_run, read_run

    path = find_run(load_settings(), run)
    require_new(output, overwrite=overwrite, others=(path,))
    write_bytes(output, render_report(read_run(path)).encode())
    note(f"{path} -> {output}")


def run_recipe(
    loaded: LoadedRecipe, options: RunOptions, line: LineFlags, settings: Settings
) -> tuple[RunRecord, Path]:
    """Run a recipe and show its stages; return its record and the record's file.

    Raises:
        LlmedgeError: Whatever a stage raises.
    """
    from llmedge.recipe.run import Tools, run

    source = loaded.recipe.source
    hub = HubSource(settings, line.pull_flags(source.include, source.exclude))
    note(f"{loaded.recipe.name} ({loaded.recipe.title}, {loaded.recipe.license})")
    record, path = run(loaded, options, Tools(hub, settings, make_progress(), _Tree(), note))
    failed = [item for item in record.variants if item.missed]
    words = {"passed": "passed; in the store", "failed": "judged and failed"}
    for item in failed:
        for reason in item.missed:
            note(f"│  {item.variant}: {reason}")
    note(f"└─ {words.get(record.status, 'done as far as asked for')}")
    if loaded.recipe.notice:
        note(f"whoever ships it must say: {loaded.recipe.notice}")
    return record, path


class _Tree:
    """Stages as they end, as a tree that grows downwards."""

    def __init__(self) -> None:
        self._stage = ""

    def stage(self, record: StageRecord, found: str) -> None:
        """Add a leaf."""
        if record.stage != self._stage:
            self._stage = record.stage
            note(f"├─ {record.stage}")
        took = "kept" if record.is_kept else format_seconds(record.seconds)
        note(f"│  ├─ {record.what}: {found} ({took})")


def _table(record: RunRecord) -> Table:
    rows: list[tuple[str, ...]] = []
    for item in record.variants:
        worst = max(item.quality, key=lambda quality: quality.mean_kld, default=None)
        speed = item.speed
        rows.append(
            (
                f"{record.recipe}:{item.variant}",
                format_mb(item.file_bytes),
                f"{item.bits_per_weight:.2f}",
                f"{worst.mean_kld:.4f} ({worst.text})" if worst else "",
                f"{speed.tg_per_s:.1f}" if speed else "",
                format_mib(speed.resident_bytes) if speed else "",
                ", ".join(f"{item.device}: {item.verdict}" for item in item.devices),
                "missed" if item.missed else "in the store" if item.is_registered else "",
            )
        )
    columns = ("variant", "size>", "bits/weight>", "worst KLD>", "tg tokens/s>", "memory>")
    return Table((*columns, "devices", "verdict"), rows)
