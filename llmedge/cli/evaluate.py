"""`llmedge evaluate`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmedge.cli.options import ModelsArgument, RunFlags, ShowFlags, grouped, model_path
from llmedge.cli.output import Table, make_progress, show_results
from llmedge.core.units import format_mb

if TYPE_CHECKING:
    from llmedge.evaluate.report import Evaluation
    from llmedge.measure.corpus import Corpus


@dataclasses.dataclass(frozen=True, slots=True)
class TextFlags:
    """What to measure on."""

    lang: Annotated[str, typer.Option(help="Shipped texts, by language: en,hi.")] = "en"
    text: Annotated[
        list[Path] | None,
        typer.Option(help="A UTF-8 text instead; may be repeated.", show_default=False),
    ] = None
    chunks: Annotated[
        int | None, typer.Option(min=1, help="Most chunks of each text.", show_default=False)
    ] = None

    def corpora(self) -> tuple[Corpus, ...]:
        """Return the texts."""
        from llmedge.measure.corpus import file_corpus, shipped_corpus

        if self.text:
            return tuple(file_corpus(path) for path in self.text)
        return tuple(shipped_corpus(code.strip()) for code in dict.fromkeys(self.lang.split(",")))


@grouped
def evaluate_command(
    models: ModelsArgument,
    reference: Annotated[
        str, typer.Option(help="What the variants were made from.", metavar="MODEL")
    ],
    *,
    texts: TextFlags,
    run: RunFlags,
    show: ShowFlags,
) -> None:
    """Measure what quantizing cost: KL divergence, agreement, perplexity.

    A text is read in chunks of --ctx tokens; the second half of each is compared.
    """
    from llmedge.core.settings import load_settings
    from llmedge.evaluate.report import EvaluateOptions, evaluate

    settings = load_settings()
    context = run.context_options(settings.threads, default_ctx=512)
    options = EvaluateOptions(texts.corpora(), texts.chunks, run.model_options(), context)
    paths = [model_path(model) for model in models]
    results = evaluate(paths, model_path(reference), options, settings, make_progress())
    show_results("evaluate", results, _table(results), show.chosen)


def _table(results: list[Evaluation]) -> Table:
    columns = "model text size> bits/weight> KLD> ±> KLD_99.9%> top-1> perplexity> of_reference>"
    return Table(
        [name.replace("_", " ") for name in columns.split()],
        [
            (
                result.model,
                result.text,
                format_mb(result.file_bytes),
                f"{result.bits_per_weight:.2f}",
                f"{result.divergence.mean_kld:.4f}",
                f"{result.divergence.mean_kld_error:.4f}",
                f"{result.divergence.kld_p999:.3f}",
                f"{result.divergence.top1_agreement:.1%}",
                f"{result.divergence.perplexity:.2f}",
                f"{result.divergence.reference_perplexity:.2f}",
            )
            for result in results
        ],
    )
