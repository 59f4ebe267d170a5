"""`llmedge choose`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llmedge.cli.bench_table import contention_note, format_rate
from llmedge.cli.options import (
    ModelsArgument,
    RunFlags,
    ShowFlags,
    grouped,
    model_path,
)
from llmedge.cli.output import (
    Table,
    make_progress,
    note,
    show_results,
    terminal_width,
    write,
)
from llmedge.cli.source import source_path
from llmedge.core.errors import UsageError
from llmedge.core.units import format_mb, format_mib

if TYPE_CHECKING:
    from llmedge.core.settings import Settings
    from llmedge.recipe.choose import Candidate, Choice, ChooseOptions
    from llmedge.recipe.pareto import Rule


_SVG = b"<svg"


@dataclasses.dataclass(frozen=True, slots=True)
class RuleFlags:
    """Which variant to recommend."""

    max_kld: Annotated[
        float, typer.Option(min=0, help="Most KL divergence that is good enough, in nats.")
    ] = 0.1
    min_top1: Annotated[
        float, typer.Option(min=0, max=1, help="Least share of equal first choices.")
    ] = 0.8
    prefer: Annotated[
        Literal["size", "speed"], typer.Option(help="What decides between those good enough.")
    ] = "size"

    def rule(self) -> Rule:
        """Return the rule."""
        from llmedge.recipe.pareto import Rule

        return Rule(self.max_kld, self.min_top1, self.prefer)


@dataclasses.dataclass(frozen=True, slots=True)
class MeasureFlags:
    """What to measure where no record is found."""

    lang: Annotated[
        str, typer.Option(help="Shipped texts, by language: en,hi. The worst one counts.")
    ] = "en"
    chunks: Annotated[
        int | None,
        typer.Option(min=1, help="Most chunks of each text; all by default.", show_default=False),
    ] = None
    n_prompt: Annotated[int, typer.Option(min=1, help="Tokens of prompt processing.")] = 512
    n_gen: Annotated[int, typer.Option(min=1, help="Tokens of token generation.")] = 128
    repetitions: Annotated[
        int, typer.Option("--repetitions", "-r", min=1, help="How often each is measured.")
    ] = 5
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Measure again what is on record already.")
    ] = False

    def options(self, rule: Rule, run: RunFlags, settings: Settings) -> ChooseOptions:
        """Return what to measure, and how to choose."""
        from llmedge.bench.suite import BenchOptions
        from llmedge.evaluate.report import EvaluateOptions
        from llmedge.measure.corpus import shipped_corpus
        from llmedge.recipe.choose import ChooseOptions

        corpora = tuple(shipped_corpus(code.strip()) for code in self.lang.split(","))
        context = run.context_options(settings.threads, default_ctx=512)
        model = run.model_options()
        needed = max(run.ctx or 0, self.n_prompt, self.n_gen)
        bench = BenchOptions(
            self.n_prompt,
            self.n_gen,
            self.repetitions,
            model,
            dataclasses.replace(context, n_ctx=needed),
            contended="flag",
        )
        return ChooseOptions(
            EvaluateOptions(corpora, self.chunks, model, context), bench, rule, fresh=self.fresh
        )


@grouped
def choose_command(
    models: ModelsArgument,
    reference: Annotated[
        str,
        typer.Option(
            help="What the variants were made from: a GGUF file; of a name, the largest variant.",
            metavar="MODEL",
        ),
    ],
    svg: Annotated[
        Path | None, typer.Option(help="Draw into this file, too.", show_default=False)
    ] = None,
    *,
    limits: RuleFlags,
    measure: MeasureFlags,
    run: RunFlags,
    show: ShowFlags,
) -> None:
    """Draw variants by loss, size and speed, and recommend one.

    What is on record for these very files and settings is taken, the rest is measured.
    """
    from llmedge.core.settings import load_settings
    from llmedge.recipe.choose import choose

    if svg is not None and svg.suffix.lower() != ".svg":
        raise UsageError(f"{svg} is not named like a drawing", "--svg choice.svg")
    if svg is not None:
        _require_drawing(svg)
    settings = load_settings()
    options = measure.options(limits.rule(), run, settings)
    paths = [model_path(model) for model in models]
    choice = choose(paths, source_path(reference), options, settings, make_progress())
    if svg is not None:
        _write_svg(choice, svg)
    if show.chosen == "table":
        _draw(choice)
    show_results("choose", choice.candidates, _table(choice), show.chosen)
    _tell(choice)


def _require_drawing(path: Path) -> None:
    """Make sure that a drawing replaces nothing but a drawing."""
    from llmedge.store.atomic import require_new

    require_new(path, overwrite=True)
    if path.exists() and path.read_bytes()[: len(_SVG)] != _SVG:
        raise UsageError(f"{path} is in the way: it is no drawing", "choose another name")


def _write_svg(choice: Choice, path: Path) -> None:
    from llmedge.recipe.choose import judged_points
    from llmedge.recipe.scatter_svg import render_svg
    from llmedge.store.atomic import write_bytes

    texts = ", ".join(choice.texts)
    drawing = render_svg(
        judged_points(choice), choice.rule, reference=choice.reference, texts=texts
    )
    write_bytes(path, drawing.encode("utf-8"))


def _draw(choice: Choice) -> None:
    from llmedge.cli.scatter import LEGEND, draw_scatter
    from llmedge.recipe.choose import judged_points

    write(f"{draw_scatter(judged_points(choice), terminal_width())}{LEGEND}\n\n")


def _tell(choice: Choice) -> None:
    for candidate in choice.candidates:
        if not candidate.bench.is_trusted:
            note(contention_note(candidate.bench))
        if candidate.is_reference:
            note(f"{candidate.model} is the reference itself: shown, and not recommended")
    chosen = choice.recommended
    if not choice.is_within_limits:
        note("none of the variants is as good as the limits want")
    note(
        f"recommended: {chosen.model} ({chosen.reason})\n"
        f"{choice.n_measured} figures were measured now, {choice.n_recorded} were on record"
        + ("; --fresh measures them again" if choice.n_recorded else "")
    )


def _table(choice: Choice) -> Table:
    from llmedge.recipe.plot import keys

    columns = "key variant size> bits/weight> KLD> top-1> pp_tokens/s> tg_tokens/s> peak> flags"
    return Table(
        [name.replace("_", " ") for name in columns.split()],
        [
            (key, *_cells(candidate))
            for key, candidate in zip(keys(), choice.candidates, strict=False)
        ],
    )


def _cells(candidate: Candidate) -> tuple[str, ...]:
    from llmedge.recipe.plot import kld_text

    flags = {
        "recommended": candidate.is_recommended,
        "front": candidate.is_on_front,
        "contended": not candidate.bench.is_trusted,
    }
    return (
        candidate.model,
        format_mb(candidate.file_bytes),
        f"{candidate.bits_per_weight:.2f}",
        kld_text(candidate.kld),
        f"{candidate.top1:.1%}",
        format_rate(candidate.bench.prompt),
        format_rate(candidate.bench.generation),
        format_mib(candidate.bench.resident_bytes),
        ", ".join(flag for flag, is_set in flags.items() if is_set),
    )
