"""`llmedge bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from llmedge.cli.options import ModelsArgument, RunFlags, ShowFlags, grouped, model_path
from llmedge.cli.output import Table, make_progress, note, show_results
from llmedge.core.units import format_mb, format_mib

if TYPE_CHECKING:
    from llmedge.bench.record import BenchResult, Rate


@grouped
def bench_command(
    models: ModelsArgument,
    n_prompt: Annotated[int, typer.Option(min=1, help="Tokens of prompt processing.")] = 512,
    n_gen: Annotated[int, typer.Option(min=1, help="Tokens of token generation.")] = 128,
    repetitions: Annotated[
        int, typer.Option("--repetitions", "-r", min=1, help="How often each is measured.")
    ] = 5,
    *,
    run: RunFlags,
    show: ShowFlags,
) -> None:
    """Measure tokens per second, load time and memory on this machine."""
    from llmedge.bench.run import BenchOptions, bench
    from llmedge.core.settings import load_settings

    settings = load_settings()
    context = run.context_options(settings.threads, default_ctx=max(n_prompt, n_gen))
    options = BenchOptions(n_prompt, n_gen, repetitions, run.model_options(), context)
    paths = [model_path(model) for model in models]
    results = bench(paths, options, settings, make_progress())
    for result in results:
        if result.is_contended:
            note(contention_note(result))
    show_results("bench", results, _table(results), show.chosen)


def contention_note(result: BenchResult) -> str:
    """Say what disturbed a measurement."""
    return (
        f"{result.model}: the machine was busy with something else (other processes took "
        f"{result.load.other_cpu:.0%} of a core, the hypervisor {result.load.steal:.0%}): "
        "do not compare this result"
    )


def _table(results: list[BenchResult]) -> Table:
    columns = "model size> threads> pp_tokens/s> tg_tokens/s> load_s> peak> anonymous> flags"
    return Table(
        [name.replace("_", " ") for name in columns.split()],
        [
            (
                result.model,
                format_mb(result.file_bytes),
                str(result.fingerprint.n_threads),
                format_rate(result.prompt),
                format_rate(result.generation),
                f"{result.load_s:.2f}",
                format_mib(result.peak_resident_bytes),
                "?"
                if result.peak_anonymous_bytes is None
                else format_mib(result.peak_anonymous_bytes),
                "contended" if result.is_contended else "",
            )
            for result in results
        ],
    )


def format_rate(rate: Rate) -> str:
    """Format a rate with its standard deviation, where there are several samples."""
    spread = f" ± {rate.standard_deviation:.1f}" if len(rate.samples) > 1 else ""
    return f"{rate.mean:.1f}{spread}"
