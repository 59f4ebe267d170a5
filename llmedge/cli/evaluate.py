"""`llmedge evaluate`."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llmedge.cli.evaluate_chat import ChatFlags, evaluate_chat
from llmedge.cli.options import (
    ModelsArgument,
    RunFlags,
    ShowFlags,
    grouped,
    model_path,
)
from llmedge.cli.output import Table, make_progress, note, show_results
from llmedge.cli.source import source_path
from llmedge.core.errors import UsageError
from llmedge.core.units import format_mb

if TYPE_CHECKING:
    from llmedge.core.settings import Settings
    from llmedge.evaluate.report import Evaluation
    from llmedge.measure.corpus import Corpus


@dataclasses.dataclass(frozen=True, slots=True)
class ReferenceFlags:
    """What to compare with."""

    reference: Annotated[
        str | None,
        typer.Option(
            help="What the variants were made from: a GGUF file; of a name, the largest variant.",
            metavar="MODEL",
            show_default=False,
        ),
    ] = None
    base: Annotated[
        Path | None,
        typer.Option(
            help="A KL base file in its place: the reference is not loaded.", show_default=False
        ),
    ] = None
    save_base: Annotated[
        Path | None,
        typer.Option(
            help="Leave the reference's predictions on the one text as a KL base file.",
            show_default=False,
        ),
    ] = None

    def check(self) -> None:
        """Make sure that there is one reference.

        Raises:
            UsageError: There is none, or two.
        """
        if (self.reference is None) == (self.base is None):
            raise UsageError(
                "evaluate compares with one reference", "give --reference MODEL or --base FILE"
            )
        if self.base is not None and self.save_base is not None:
            raise UsageError("--save-base needs the reference itself", "give --reference MODEL")


@dataclasses.dataclass(frozen=True, slots=True)
class TextFlags:
    """What to measure on."""

    lang: Annotated[
        str | None,
        typer.Option(help="Shipped texts: en,hi, or all. By default en.", show_default=False),
    ] = None
    texts: Annotated[
        Literal["heldout", "udhr"],
        typer.Option(
            help="Which of them: texts of many kinds, or the Universal Declaration of Human Rights."
        ),
    ] = "heldout"
    text: Annotated[
        list[Path] | None,
        typer.Option(help="A UTF-8 text instead; may be repeated.", show_default=False),
    ] = None
    chunks: Annotated[
        int | None,
        typer.Option(min=1, help="Most chunks of each text; all by default.", show_default=False),
    ] = None

    def corpora(self) -> tuple[Corpus, ...]:
        """Return the texts.

        Raises:
            UsageError: None is shipped of that kind, or texts are named in two ways.
            NotFoundError: A text is not there.
        """
        from llmedge.measure import corpus

        if self.text:
            self.refuse_shipped("--text")
            return tuple(corpus.file_corpus(path) for path in self.text)
        is_udhr = self.texts == "udhr"
        known = corpus.UDHR_LANGUAGES if is_udhr else tuple(corpus.KINDS)
        lang = self.lang or "en"
        codes = known if lang == "all" else [code.strip() for code in lang.split(",")]
        make = corpus.udhr_corpus if is_udhr else corpus.shipped_corpus
        return tuple(make(code) for code in dict.fromkeys(codes))

    def refuse_shipped(self, flag: str) -> None:
        """Make sure that no shipped text was asked for as well.

        Raises:
            UsageError: One was.
        """
        if self.lang is not None or self.texts != "heldout":
            raise UsageError(f"{flag} leaves no place for shipped texts", "leave out --lang")


@grouped
def evaluate_command(
    models: ModelsArgument,
    *,
    details: Annotated[
        bool, typer.Option("--details", help="Show every statistic, with its standard error.")
    ] = False,
    against: ReferenceFlags,
    texts: TextFlags,
    chat: ChatFlags,
    run: RunFlags,
    show: ShowFlags,
) -> None:
    """Measure what quantizing cost, or check answers.

    It is said in KL divergence, share of equal first choices and perplexity. A text is read in
    chunks of --ctx tokens; the second half of each is compared. With --chat no reference is
    needed: chrF of the answers, their script, and whether they are whole.
    """
    from llmedge.core.settings import load_settings

    paths = [model_path(model) for model in models]
    if chat.chat:
        evaluate_chat(paths, texts.lang or "en", chat, run, show)
        return
    chat.refuse_without_chat()
    against.check()
    settings = load_settings()
    if against.base is not None:
        results = _with_base(paths, against.base, texts, run, settings)
    else:
        results = _with_reference(paths, against, texts, run, settings)
    show_results("evaluate", results, _table(results, _DETAILS if details else _USUAL), show.chosen)


def _with_reference(
    paths: list[Path], against: ReferenceFlags, texts: TextFlags, run: RunFlags, settings: Settings
) -> list[Evaluation]:
    from llmedge.evaluate.report import EvaluateOptions, evaluate

    options = EvaluateOptions(
        texts.corpora(),
        texts.chunks,
        run.model_options(),
        run.context_options(settings.threads, default_ctx=512),
        against.save_base,
    )
    reference = source_path(against.reference or "")
    for path in paths:
        if path.samefile(reference):
            note(f"{path.name} is the reference itself: it loses nothing")
    return evaluate(paths, reference, options, settings, make_progress())


def _with_base(
    paths: list[Path], base: Path, texts: TextFlags, run: RunFlags, settings: Settings
) -> list[Evaluation]:
    from llmedge.evaluate.report import CompareOptions, evaluate_with_base

    texts.refuse_shipped("--base")
    if texts.text or run.ctx is not None:
        raise UsageError(
            "a base file brings its own text and length of chunks", "leave out --text and --ctx"
        )
    context = run.context_options(settings.threads)
    options = CompareOptions(texts.chunks, run.model_options(), context)
    return evaluate_with_base(paths, base, options, settings, make_progress())


def _table(results: list[Evaluation], columns: Sequence[_Column]) -> Table:
    """Show a row a variant and text, and one for the mean where there are several texts."""
    rows: list[list[str]] = []
    for _, group in itertools.groupby(results, key=lambda result: result.model):
        evaluations = list(group)
        rows += [[column.of_one(result) for column in columns] for result in evaluations]
        if len(evaluations) > 1:
            rows.append([column.of_all(evaluations) for column in columns])
    used = [index for index in range(len(columns)) if any(row[index] for row in rows)]
    return Table(
        [columns[index].heading for index in used], [[row[index] for index in used] for row in rows]
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Column:
    """A column: its heading, a cell, and the cell of a variant's mean over texts."""

    heading: str
    of_one: Callable[[Evaluation], str]
    of_all: Callable[[list[Evaluation]], str] = lambda _: ""


def _same(heading: str, cell: Callable[[Evaluation], str]) -> _Column:
    """Make a column that is the same for all texts."""
    return _Column(heading, cell, lambda results: cell(results[0]))


def _mean(heading: str, form: str, name: str) -> _Column:
    """Make a column of a figure whose mean gives each text the same weight."""

    def value(result: Evaluation) -> float:
        return getattr(result.divergence, name)

    return _Column(
        heading,
        lambda result: format(value(result), form),
        lambda results: format(sum(map(value, results)) / len(results), form),
    )


def _error(heading: str, form: str, name: str) -> _Column:
    """Make a column of a standard error; that of a mean follows from its parts'."""

    def value(result: Evaluation) -> float:
        return getattr(result.divergence, name)

    return _Column(
        heading,
        lambda result: format(value(result), form),
        lambda results: format(math.hypot(*map(value, results)) / len(results), form),
    )


def _plain(heading: str, form: str, name: str) -> _Column:
    """Make a column of a figure that has no mean over texts."""
    return _Column(heading, lambda result: format(getattr(result.divergence, name), form))


def _optional(heading: str, cell: Callable[[Evaluation], float | None]) -> _Column:
    """Make a column of a figure that may be missing."""

    def show(result: Evaluation) -> str:
        value = cell(result)
        return "" if value is None else f"{value:.2f}"

    return _Column(heading, show)


_NAMES = (
    _same("model", lambda result: result.model),
    _Column("text", lambda result: result.text, lambda _: "mean"),
)
_WORDS = (
    _optional("tokens/word>", lambda result: result.fertility and result.fertility.tokens_per_word),
    _optional("words/s>", lambda result: result.words_per_s),
)
_USUAL = (
    *_NAMES,
    _same("size>", lambda result: format_mb(result.file_bytes)),
    _same("bits/weight>", lambda result: f"{result.bits_per_weight:.2f}"),
    _mean("KLD>", ".4f", "mean_kld"),
    _error("±>", ".4f", "mean_kld_error"),
    _plain("KLD 99.9%>", ".3f", "kld_p999"),
    _mean("top-1>", ".1%", "top1_agreement"),
    _plain("perplexity>", ".2f", "perplexity"),
    _plain("of reference>", ".2f", "reference_perplexity"),
    *_WORDS,
)
_DETAILS = (
    *_NAMES,
    _plain("positions>", "d", "n_tokens"),
    _mean("KLD>", ".6f", "mean_kld"),
    _error("±>", ".6f", "mean_kld_error"),
    _plain("median>", ".6f", "median_kld"),
    _plain("99%>", ".6f", "kld_p99"),
    _plain("99.9%>", ".6f", "kld_p999"),
    _plain("max>", ".6f", "max_kld"),
    _mean("top-1>", ".3%", "top1_agreement"),
    _error("±>", ".3%", "top1_agreement_error"),
    _mean("top-5>", ".3%", "top5_agreement"),
    _error("±>", ".3%", "top5_agreement_error"),
    _mean("RMS Δp>", ".3%", "rms_delta_p"),
    _error("±>", ".3%", "rms_delta_p_error"),
    _plain("perplexity>", ".6f", "perplexity"),
    _plain("±>", ".6f", "perplexity_error"),
    _plain("of reference>", ".6f", "reference_perplexity"),
    _plain("±>", ".6f", "reference_perplexity_error"),
    _mean("ln ratio>", ".6f", "log_perplexity_ratio"),
    _error("±>", ".6f", "log_perplexity_ratio_error"),
    *_WORDS,
    _optional("bytes/token>", lambda result: result.fertility and result.fertility.bytes_per_token),
)
