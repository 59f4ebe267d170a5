"""What one model's predictions lose against another's: KL divergence, agreement, perplexity.

Everything is computed from logits in double precision, a few rows at a time, and kept as sums:
memory does not grow with the text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llmedge.measure.quantiles import QuantileSketch

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ROWS = 16  # rows that are turned into probabilities at once: a few MB even for 262k tokens


@dataclass(frozen=True, slots=True)
class Divergence:
    """A variant against its reference on one text.

    Attributes:
        n_tokens: Positions that were compared.
        mean_kld: Mean KL divergence from the reference, in nats.
        mean_kld_error: Its standard error.
        median_kld: Median KL divergence.
        kld_p999: What 99.9 % of the positions stay below.
        max_kld: The worst position.
        top1_agreement: Share of positions where both find the same token most likely.
        rms_delta_p: Root mean square change of the true token's probability.
        perplexity: The variant's.
        reference_perplexity: The reference's.
    """

    n_tokens: int
    mean_kld: float
    mean_kld_error: float
    median_kld: float
    kld_p999: float
    max_kld: float
    top1_agreement: float
    rms_delta_p: float
    perplexity: float
    reference_perplexity: float

    @property
    def perplexity_ratio(self) -> float:
        """The variant's perplexity over the reference's."""
        return self.perplexity / self.reference_perplexity


class DivergenceMeter:
    """Adds up the comparison of a variant with its reference."""

    def __init__(self) -> None:
        self._n = 0
        self._kld_sum = 0.0
        self._kld_square_sum = 0.0
        self._kld_max = 0.0
        self._agreements = 0
        self._delta_p_square_sum = 0.0
        self._nll_sum = 0.0
        self._reference_nll_sum = 0.0
        self._sketch = QuantileSketch()

    def add(
        self,
        reference: NDArray[np.float32],
        variant: NDArray[np.float32],
        next_tokens: NDArray[np.int64],
    ) -> None:
        """Add positions.

        Args:
            reference: The reference's logits, `(n, n_vocab)`.
            variant: The variant's logits at the same positions, `(n, n_vocab)`.
            next_tokens: The tokens that really follow, `(n,)`.
        """
        for start in range(0, len(next_tokens), _ROWS):
            rows = slice(start, start + _ROWS)
            self._add_rows(reference[rows], variant[rows], next_tokens[rows])

    def result(self) -> Divergence:
        """Return the comparison so far.

        Raises:
            ValueError: Nothing was added.
        """
        if self._n == 0:
            raise ValueError("no position was added")
        n, mean = self._n, self._kld_sum / self._n
        variance = max(0.0, self._kld_square_sum / n - mean**2)
        return Divergence(
            n_tokens=n,
            mean_kld=mean,
            mean_kld_error=math.sqrt(variance / n),
            median_kld=self._sketch.quantile(0.5),
            kld_p999=min(self._sketch.quantile(0.999), self._kld_max),
            max_kld=self._kld_max,
            top1_agreement=self._agreements / n,
            rms_delta_p=math.sqrt(self._delta_p_square_sum / n),
            perplexity=_perplexity(self._nll_sum / n),
            reference_perplexity=_perplexity(self._reference_nll_sum / n),
        )

    def _add_rows(
        self,
        reference: NDArray[np.float32],
        variant: NDArray[np.float32],
        next_tokens: NDArray[np.int64],
    ) -> None:
        log_p, log_q = log_softmax(reference), log_softmax(variant)
        # Rounding may leave a sum a hair below its bound of 0.
        kld = np.maximum(0.0, np.sum(np.exp(log_p) * (log_p - log_q), axis=1))
        at = (np.arange(len(next_tokens)), next_tokens)
        delta_p = np.exp(log_q[at]) - np.exp(log_p[at])
        self._n += len(next_tokens)
        self._kld_sum += float(kld.sum())
        self._kld_square_sum += float(np.square(kld).sum())
        self._kld_max = max(self._kld_max, float(kld.max()))
        self._agreements += int(np.sum(reference.argmax(axis=1) == variant.argmax(axis=1)))
        self._delta_p_square_sum += float(np.square(delta_p).sum())
        self._nll_sum -= float(log_q[at].sum())
        self._reference_nll_sum -= float(log_p[at].sum())
        self._sketch.add(kld)


def _perplexity(mean_nll: float) -> float:
    # A model that is broken beyond measure keeps a number that JSON can carry.
    return math.exp(min(mean_nll, 700.0))


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the logarithms of the probabilities, `(n, n_vocab)`, in double precision."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted
