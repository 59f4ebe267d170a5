"""What a variant has lost, on held-out text, as a plan is judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.core.errors import IntegrityError, UsageError
from llmedge.gguf.reader import read_header
from llmedge.measure.comparison import CompareOptions, compare, paired_difference
from llmedge.measure.corpus import KINDS, shipped_corpus
from llmedge.runtime.chat_template import ChatTemplate
from llmedge.runtime.context import ContextOptions
from llmedge.runtime.model import ModelOptions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from llmedge.core.progress import Progress
    from llmedge.core.settings import Settings
    from llmedge.gguf.reader import Header
    from llmedge.measure.comparison import Comparison

_N_CTX = 512
_N_CHUNKS = 16  # of all texts together


@dataclass(frozen=True, slots=True)
class Judgement:
    """A variant against its source on held-out text.

    Attributes:
        mean_kld: KL divergence in nats, texts weighed as asked for.
        klds: The same by text.
        top1_agreement: Share of equal first choices, weighed alike.
        chunk_klds: Mean of each chunk of each text, in order, scaled so that their plain mean is
            the weighed one.
    """

    mean_kld: float
    klds: Mapping[str, float]
    top1_agreement: float
    chunk_klds: tuple[float, ...]

    def less(self, other: Judgement) -> tuple[float, float, float]:
        """Return how much more this one loses: the mean over chunks, and its 95 % interval."""
        return paired_difference(self.chunk_klds, other.chunk_klds)


def judged_kinds(header: Header, weights: Mapping[str, float]) -> dict[str, float]:
    """Return the kinds of held-out text that stand for what counts, with their weights.

    Conversations in one language count for the language; conversations at all only for a model that
    can chat, with a template that works. A user's own text has nothing held out.
    """
    can_chat = _can_chat(header)
    found: dict[str, float] = {}
    for name, weight in weights.items():
        kind = name.removeprefix("chat-")
        if kind in KINDS and (can_chat or kind != "chat"):
            found[kind] = found.get(kind, 0.0) + weight
    return found


def _can_chat(header: Header) -> bool:
    source = header.text("tokenizer.chat_template")
    if not source:
        return False
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello!"}]
    try:
        ChatTemplate(source).render(turns, add_generation_prompt=False)
    except IntegrityError:
        return False
    except UsageError:  # it is particular about such turns, not broken
        return True
    return True


class Judge:
    """Compares variants with what they were made from.

    Args:
        reference: The file to compare with.
        weights: How much each kind of text counts.
        settings: Where it is remembered that a file loads.
        progress: Shows the comparison.
        n_threads: Threads to compute with.
    """

    def __init__(
        self,
        reference: Path,
        weights: Mapping[str, float],
        settings: Settings,
        progress: Progress,
        n_threads: int,
    ) -> None:
        self._reference = reference
        shipped = judged_kinds(read_header(reference), weights)
        heaviest = sorted(shipped, key=lambda kind: -shipped[kind])[:_N_CHUNKS] or ["en"]
        self._weights = {shipped_corpus(kind): shipped.get(kind, 1.0) for kind in heaviest}
        self._settings = settings
        self._progress = progress
        self._options = CompareOptions(
            max_chunks=max(1, _N_CHUNKS // len(heaviest)),
            model=ModelOptions(),
            context=ContextOptions(n_ctx=_N_CTX, n_threads=n_threads),
        )

    def judge(self, *variants: Path) -> list[Judgement]:
        """Compare variants, in order.

        Raises:
            IntegrityError: A file is damaged.
            ResourceError: Memory ran out.
        """
        corpora = list(self._weights)
        found = compare(
            self._reference, variants, corpora, self._options, self._settings, self._progress
        )
        return [self._judgement([found[path, corpus] for corpus in corpora]) for path in variants]

    def _judgement(self, comparisons: Sequence[Comparison]) -> Judgement:
        divergences = [comparison.divergence for comparison in comparisons]
        return Judgement(
            mean_kld=self._mean([divergence.mean_kld for divergence in divergences]),
            klds={
                corpus.name: divergence.mean_kld
                for corpus, divergence in zip(self._weights, divergences, strict=True)
            },
            top1_agreement=self._mean([divergence.top1_agreement for divergence in divergences]),
            chunk_klds=self._weighed(comparisons),
        )

    def _weighed(self, comparisons: Sequence[Comparison]) -> tuple[float, ...]:
        n_chunks = sum(len(comparison.chunk_klds) for comparison in comparisons)
        total = sum(self._weights.values())
        return tuple(
            kld * weight / total / len(comparison.chunk_klds) * n_chunks
            for comparison, weight in zip(comparisons, self._weights.values(), strict=True)
            for kld in comparison.chunk_klds
        )

    def _mean(self, values: Sequence[float]) -> float:
        weights = self._weights.values()
        weighed = sum(value * weight for value, weight in zip(values, weights, strict=True))
        return weighed / sum(weights)
