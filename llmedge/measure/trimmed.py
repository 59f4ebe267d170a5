"""A model beside the same model with fewer tokens: what both say, and what only the first could.

The two read the same text, each in its own ids. Everything is kept as sums: memory does not grow
with the text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llmedge.core.errors import EngineError, IntegrityError
from llmedge.runtime.batch import Batch
from llmedge.runtime.context import Context, DecodeResult

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

_ROWS = 16  # rows that are turned into probabilities at once: a few MB even for 262k tokens
# Positions that are only read: without a text before it, a model may begin in any language.
N_READ = 32


@dataclass(frozen=True, slots=True)
class TrimLoss:
    """What was found on one text.

    Attributes:
        n_tokens: Positions at which the original was asked.
        mean_dropped: Mean probability that the original gives to tokens that were dropped.
        max_dropped: The same at the worst position.
        n_compared: Positions at which both were asked.
        max_difference: Largest difference of a kept token's logit; 0 when nothing was compared.
    """

    n_tokens: int
    mean_dropped: float
    max_dropped: float
    n_compared: int
    max_difference: float


class TrimMeter:
    """Adds up what trimming changed on one text.

    Args:
        n_vocab: The original's tokens.
        kept: Those that stay, ascending.
    """

    def __init__(self, n_vocab: int, kept: Sequence[int]) -> None:
        self._kept = np.asarray(kept, dtype=np.int64)
        self._is_dropped = np.ones(n_vocab, dtype=bool)
        self._is_dropped[self._kept] = False
        self._mass: NDArray[np.float64] = np.zeros(n_vocab)
        self._n_tokens = self._n_compared = 0
        self._max_dropped = self._max_difference = 0.0

    def compare(self, original: NDArray[np.float32], trimmed: NDArray[np.float32]) -> None:
        """Add positions that both models have read.

        Args:
            original: The original's logits, `(n, n_vocab)`.
            trimmed: The trimmed model's at the same positions, `(n, n_kept)`.

        Raises:
            IntegrityError: A logit is not a finite number.
        """
        for start in range(0, len(original), _ROWS):
            rows = slice(start, start + _ROWS)
            difference = float(np.abs(original[rows, self._kept] - trimmed[rows]).max())
            if not math.isfinite(difference):
                raise _not_finite()
            self._max_difference = max(self._max_difference, difference)
        self._n_compared += len(original)

    def weigh(self, first: int, original: NDArray[np.float32]) -> None:
        """Add positions of a chunk at which the original was asked.

        Args:
            first: Place of the first of them in the chunk.
            original: The original's logits, `(n, n_vocab)`.

        Raises:
            IntegrityError: A logit is not a finite number.
        """
        judged = original[max(0, N_READ - first) :]
        for start in range(0, len(judged), _ROWS):
            dropped = _softmax(judged[start : start + _ROWS]) * self._is_dropped
            if not np.isfinite(dropped).all():
                raise _not_finite()
            self._mass += dropped.sum(axis=0)
            self._max_dropped = max(self._max_dropped, float(dropped.sum(axis=1).max()))
        self._n_tokens += len(judged)

    def result(self) -> TrimLoss:
        """Return what was found so far."""
        mean = float(self._mass.sum()) / max(1, self._n_tokens)
        return TrimLoss(
            self._n_tokens, mean, self._max_dropped, self._n_compared, self._max_difference
        )

    def dropped_mass(self) -> dict[int, float]:
        """Return the mean probability of each token that was dropped, where it has any."""
        (tokens,) = np.nonzero(self._mass)
        return {int(token): float(self._mass[token]) / self._n_tokens for token in tokens}


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the probabilities, `(n, n_vocab)`, in double precision."""
    weights = logits.astype(np.float64)
    weights -= weights.max(axis=1, keepdims=True)
    np.exp(weights, out=weights)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


def _not_finite() -> IntegrityError:
    return IntegrityError("a logit is not a finite number", "convert the model again")


def decode_chunk(
    contexts: Sequence[Context], tokens: Sequence[Sequence[int]]
) -> Iterator[tuple[int, list[NDArray[np.float32]]]]:
    """Decode a chunk in one or both models and yield the logits of every position.

    Args:
        contexts: The models; the chunk fits into each of them.
        tokens: The chunk in the ids of each model, of the same length.

    Yields:
        The first position's place in the chunk, and views of the logits, one a model; valid until
        the next step.

    Raises:
        EngineError: llama.cpp failed.
    """
    n_rows = min(context.n_batch for context in contexts)
    with Batch(n_rows) as batch:
        for context in contexts:
            context.clear()
        for start in range(0, len(tokens[0]), n_rows):
            for context, ids in zip(contexts, tokens, strict=True):
                part = ids[start : start + n_rows]
                batch.fill(part, start, n_logits=len(part))
                if context.decode(batch) is not DecodeResult.OK:
                    raise EngineError("the context is too small for the chunk")
            yield start, [context.logits() for context in contexts]
