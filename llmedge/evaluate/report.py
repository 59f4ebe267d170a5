"""Variants against their reference, text by text: what quantizing cost, named and recorded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import llmedge
from llmedge.evaluate.fingerprint import EvaluationFingerprint, take_evaluation_fingerprint
from llmedge.gguf.reader import read_header
from llmedge.measure.comparison import CompareOptions, compare, compare_with_base
from llmedge.measure.fertility import Fertility, model_fertility, newest_tg_rate
from llmedge.runtime.context import ContextOptions
from llmedge.runtime.library import library_info
from llmedge.runtime.model import ModelOptions
from llmedge.store.catalog import model_id
from llmedge.store.manifest import utc_now
from llmedge.store.records import append_record

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from llmedge.core.progress import Progress
    from llmedge.core.settings import Settings
    from llmedge.measure.corpus import Corpus
    from llmedge.measure.kl_divergence import Divergence

SCHEMA = "llmedge.evaluate/1"


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """What to measure on, and how.

    Attributes:
        corpora: The texts.
        max_chunks: Chunks of each text; `None` takes all.
        model: How to load the models.
        context: How to run them; see `CompareOptions`.
        save_base: Where to leave the reference's predictions on the one text, for
            `evaluate_with_base` and llama.cpp's tool; `None` leaves none.
    """

    corpora: tuple[Corpus, ...]
    max_chunks: int | None = None
    model: ModelOptions = ModelOptions()
    context: ContextOptions = ContextOptions(n_ctx=512)
    save_base: Path | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One variant on one text.

    Attributes:
        model: The variant's id.
        reference: The reference's id, or its base file's name.
        text: The text's name: a language's code, or a file's name.
        file_bytes: The variant's size.
        bits_per_weight: The variant's, over all tensors.
        reference_bits_per_weight: The reference's; `None` where a base file stands for it.
        divergence: What was measured.
        fertility: What the vocabulary makes of the text's language, where it has words.
        tg_tokens_per_s: From the variant's newest bench record, if it has one.
    """

    model: str
    reference: str
    text: str
    file_bytes: int
    bits_per_weight: float
    reference_bits_per_weight: float | None
    divergence: Divergence
    fertility: Fertility | None
    tg_tokens_per_s: float | None

    @property
    def words_per_s(self) -> float | None:
        """Words of the text's language that the variant writes in a second on this machine."""
        if self.fertility is None or self.tg_tokens_per_s is None:
            return None
        return self.tg_tokens_per_s / self.fertility.tokens_per_word


def evaluate(
    variants: Sequence[Path],
    reference: Path,
    options: EvaluateOptions,
    settings: Settings,
    progress: Progress,
) -> list[Evaluation]:
    """Compare variants with their reference, and record the result.

    Returns:
        One evaluation a variant and text, by variant.

    Raises:
        UsageError: A variant has another vocabulary than the reference, or a text is unfit.
        IntegrityError: A file is damaged.
        ResourceError: Memory or disk ran out.
        UntrustworthyError: A model computes no finite logits.
    """
    found = compare(
        reference,
        variants,
        options.corpora,
        CompareOptions(options.max_chunks, options.model, options.context),
        settings,
        progress,
        save_base=options.save_base,
    )
    header = read_header(reference)
    facts = _Facts(settings, model_id(settings, reference), round(header.bits_per_weight, 4))
    fertility = model_fertility(reference, {corpus for _, corpus in found})
    evaluations = [
        facts.evaluation(path, corpus.name, comparison.divergence, fertility[corpus])
        for (path, corpus), comparison in found.items()
    ]
    for evaluation, (path, corpus) in zip(evaluations, found, strict=True):
        fingerprint = take_evaluation_fingerprint(
            path, reference, corpus, options.context, options.max_chunks
        )
        _record(evaluation, fingerprint, settings)
    return evaluations


def evaluate_with_base(
    variants: Sequence[Path],
    base: Path,
    options: CompareOptions,
    settings: Settings,
    progress: Progress,
) -> list[Evaluation]:
    """Compare variants with the predictions in a base file, and record the result.

    Raises:
        NotFoundError: There is no such file.
        UsageError: A variant has a vocabulary of another size than the reference's.
        IntegrityError: A file is damaged.
        ResourceError: Memory ran out.
        UntrustworthyError: A model computes no finite logits.
    """
    found = compare_with_base(base, variants, options, settings, progress)
    facts = _Facts(settings, base.name, None)
    evaluations = [
        facts.evaluation(path, base.stem, comparison.divergence, None)
        for path, comparison in found.items()
    ]
    for evaluation in evaluations:
        _record(evaluation, None, settings)
    return evaluations


@dataclass(frozen=True, slots=True)
class _Facts:
    """What all evaluations against one reference have in common."""

    settings: Settings
    reference: str
    reference_bits_per_weight: float | None

    def evaluation(
        self, path: Path, text: str, divergence: Divergence, fertility: Fertility | None
    ) -> Evaluation:
        header, model = read_header(path), model_id(self.settings, path)
        return Evaluation(
            model=model,
            reference=self.reference,
            text=text,
            file_bytes=header.file_bytes,
            bits_per_weight=round(header.bits_per_weight, 4),
            reference_bits_per_weight=self.reference_bits_per_weight,
            divergence=divergence,
            fertility=fertility,
            tg_tokens_per_s=newest_tg_rate(self.settings, model, header.file_bytes),
        )


def _record(
    evaluation: Evaluation, fingerprint: EvaluationFingerprint | None, settings: Settings
) -> None:
    record = {
        "schema": SCHEMA,
        "created": utc_now(),
        "tools": {"llmedge": llmedge.__version__, "llama_cpp": library_info().label},
        **asdict(evaluation),
        "fingerprint": None if fingerprint is None else asdict(fingerprint),
    }
    append_record(settings, "evaluate", record)
