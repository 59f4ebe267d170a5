"""`llmedge bench`, with `bench diff` and `bench import` beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from llmedge.cli.bench_table import BenchFormat, show_bench, tell, tell_best
from llmedge.cli.options import ModelsArgument, RunFlags, ShowFlags, grouped, model_path
from llmedge.cli.output import Table, make_progress, note, show_results
from llmedge.core.errors import UsageError

if TYPE_CHECKING:
    from llmedge.bench.compare import Comparison
    from llmedge.bench.suite import BenchOptions
    from llmedge.core.settings import Settings


class _Group(TyperGroup):
    """What is no subcommand is a model: `bench MODEL` is `bench run MODEL`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - Typer hides it
        """Put the missing name in."""
        is_named = bool(args) and args[0] in self.commands
        return super().parse_args(ctx, args if is_named else ["run", *args])


app = typer.Typer(cls=_Group)


@app.callback()
def bench_command() -> None:
    """Measure speed, latency, load time, memory and energy on this machine."""


@dataclasses.dataclass(frozen=True, slots=True)
class MeasureFlags:
    """What is measured."""

    on: Annotated[str, typer.Option(help="Where: host is this machine.")] = "host"
    suite: Annotated[
        Literal["quick", "full", "sustained"],
        typer.Option(
            help="quick: llama-bench's lengths; full: at three depths, five times; sustained: "
            "then ten minutes without a pause."
        ),
    ] = "quick"
    n_prompt: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of prompt processing; 512.", show_default=False),
    ] = None
    n_gen: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of token generation; 128.", show_default=False),
    ] = None
    depth: Annotated[
        str | None,
        typer.Option(
            help="Tokens in the kv cache before, as 0,1024; the suite's by default.",
            show_default=False,
        ),
    ] = None
    repetitions: Annotated[
        int | None,
        typer.Option(
            "--repetitions", "-r", min=1, help="How often each is measured.", show_default=False
        ),
    ] = None
    duration: Annotated[
        float | None,
        typer.Option(
            min=1, help="Seconds of the sustained run; 600 in its suite.", show_default=False
        ),
    ] = None
    lang: Annotated[
        str, typer.Option(help="Languages to tell words per second in; '' for none.")
    ] = "en,hi"
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=V1,V2",
            help="Try values of threads, batch, ubatch, type-k, type-v, flash-attn or load-mode; "
            "of several, every combination. The best is named.",
            show_default=False,
        ),
    ] = None
    contended: Annotated[
        Literal["refuse", "flag"],
        typer.Option(
            help="A disturbed measurement: try it again and refuse it, or keep it, marked."
        ),
    ] = "refuse"

    def options(self, run: RunFlags, settings: Settings) -> BenchOptions:
        """Return what to measure; the context holds it."""
        from llmedge.bench.suite import SUITES, BenchOptions, parse_sweep

        suite = SUITES[self.suite]
        depths = suite.depths if self.depth is None else _parse_depths(self.depth)
        n_prompt, n_gen = self.n_prompt or suite.n_prompt, self.n_gen or suite.n_gen
        longest = max(depths) + max(n_prompt, n_gen)
        return BenchOptions(
            n_prompt=n_prompt,
            n_gen=n_gen,
            repetitions=self.repetitions or suite.repetitions,
            model=run.model_options(),
            context=run.context_options(settings.threads, default_ctx=longest),
            depths=depths,
            sustained_s=suite.sustained_s if self.duration is None else self.duration,
            contended=self.contended,
            is_cold=True,
            is_trained_only=self.depth is None,
            languages=tuple(code.strip() for code in self.lang.split(",") if code.strip()),
            sweep=parse_sweep(self.sweep or ()),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class BenchShowFlags:
    """How results are printed."""

    format: Annotated[BenchFormat, typer.Option(help="How to print the results on stdout.")] = (
        "table"
    )
    json: Annotated[bool, typer.Option("--json", help="Short for --format json.")] = False


@app.command("run")
@grouped
def run_command(
    models: ModelsArgument,
    *,
    measure: MeasureFlags,
    run: RunFlags,
    show: BenchShowFlags,
) -> None:
    """Measure models here: `llmedge bench MODEL` is short for it."""
    from llmedge.bench.place import parse_place
    from llmedge.bench.run import bench
    from llmedge.core.settings import load_settings

    settings = load_settings()
    options = measure.options(run, settings)
    paths = [model_path(model) for model in models]
    outcome = bench(paths, options, settings, make_progress(), parse_place(measure.on))
    tell(outcome.results)
    tell_best(outcome.results, [name for name, _ in options.sweep])
    show_bench(outcome.results, "json" if show.json else show.format)
    outcome.require_trust()


@app.command("diff")
@grouped
def diff_command(
    before: Annotated[Path, typer.Argument(help="Results as JSON, JSON lines or llama-bench's.")],
    after: Annotated[Path, typer.Argument(help="Results likewise.")],
    gate: Annotated[
        str | None,
        typer.Option(
            help="Fail (exit 7) where anything is slower by more than this.", show_default=False
        ),
    ] = None,
    ignore: Annotated[
        str,
        typer.Option(
            help="Conditions that may differ, as n_threads,load_mode; all for any.",
            show_default=False,
        ),
    ] = "",
    *,
    show: ShowFlags,
) -> None:
    """Compare two sets of results taken under the same conditions."""
    from llmedge.bench.compare import compare, parse_gate
    from llmedge.bench.files import read_results

    limit = None if gate is None else parse_gate(gate)
    ignored = [name.strip() for name in ignore.split(",") if name.strip()]
    comparison = compare(read_results(before), read_results(after), ignored)
    for name, (one, other) in comparison.differing.items():
        note(f"{name} differs: {one} and {other}")
    if comparison.n_unmatched:
        note(f"{comparison.n_unmatched} cells are in one of the two only")
    show_results("bench-diff", comparison.changes, _diff_table(comparison), show.chosen)
    if limit is not None:
        comparison.require_gate(limit)


@app.command("import")
@grouped
def import_command(
    file: Annotated[Path, typer.Argument(help="What llama-bench printed with -o json or jsonl.")],
    *,
    show: BenchShowFlags,
) -> None:
    """Keep llama-bench's results among the records."""
    from llmedge.bench.files import import_llama_bench
    from llmedge.core.settings import load_settings

    results, n_left_out = import_llama_bench(file, load_settings())
    if n_left_out:
        note(f"{n_left_out} rows mix prompt and generation and were left out")
    show_bench(results, "json" if show.json else show.format)


def _parse_depths(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 9 for part in parts):
        raise UsageError(f"--depth is {text!r}, no list of numbers", "--depth 0,1024")
    return tuple(dict.fromkeys(map(int, parts)))


def _diff_table(comparison: Comparison) -> Table:
    rows: Sequence[tuple[str, ...]] = [
        (
            change.model,
            change.test,
            f"{change.before:.1f}",
            f"{change.after:.1f}",
            f"{change.share:+.1%}",
            f"±{change.noise:.1%}",
            "" if not change.is_real else "faster" if change.share > 0 else "slower",
        )
        for change in comparison.changes
    ]
    return Table(["model", "test", "before>", "after>", "change>", "noise>", "verdict"], rows)
