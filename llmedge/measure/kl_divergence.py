"""What one model's predictions lose against another's: KL divergence, agreement, perplexity.

Everything is computed a few rows of logits at a time and kept as sums: memory does not grow with
the text, but for the quantiles' four bytes a position, which are bounded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llmedge.core.errors import UntrustworthyError
from llmedge.measure.predictions import ROWS_AT_ONCE, LogitRows, Predictions
from llmedge.measure.quantiles import Quantiles

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Divergence:
    """A variant against its reference on one text; errors are standard errors.

    Attributes:
        n_tokens: Positions that were compared.
        mean_kld: Mean KL divergence from the reference, in nats.
        mean_kld_error: Its error.
        median_kld: Median KL divergence.
        kld_p99: What 99 % of the positions stay below.
        kld_p999: What 99.9 % of the positions stay below.
        max_kld: The worst position.
        top1_agreement: Share of positions where both find the same token most likely.
        top1_agreement_error: Its error.
        top5_agreement: Share of positions where the reference's most likely token is one of the
            variant's five most likely.
        top5_agreement_error: Its error.
        rms_delta_p: Root mean square change of the true token's probability.
        rms_delta_p_error: Its error.
        perplexity: The variant's.
        perplexity_error: Its error.
        reference_perplexity: The reference's.
        reference_perplexity_error: Its error.
        log_perplexity_ratio: Mean of ln(variant's perplexity / reference's).
        log_perplexity_ratio_error: Its error, far less than those of the two perplexities: both
            models meet the same hard positions.

    Source: llama.cpp tools/perplexity/perplexity.cpp, `kl_divergence`, for all but top 5.
    """

    n_tokens: int
    mean_kld: float
    mean_kld_error: float
    median_kld: float
    kld_p99: float
    kld_p999: float
    max_kld: float
    top1_agreement: float
    top1_agreement_error: float
    top5_agreement: float
    top5_agreement_error: float
    rms_delta_p: float
    rms_delta_p_error: float
    perplexity: float
    perplexity_error: float
    reference_perplexity: float
    reference_perplexity_error: float
    log_perplexity_ratio: float
    log_perplexity_ratio_error: float

    @property
    def perplexity_ratio(self) -> float:
        """The variant's perplexity over the reference's."""
        return self.perplexity / self.reference_perplexity


class DivergenceMeter:
    """Adds up the comparison of a variant with its reference."""

    def __init__(self) -> None:
        self._kld, self._chunks = _Mean(), dict[int, _Mean]()
        self._max_kld = -math.inf
        self._quantiles = Quantiles()
        self._top1, self._top5 = _Mean(), _Mean()
        self._delta_p_squares = _Mean()
        self._nll, self._reference_nll, self._nll_change = _Mean(), _Mean(), _Mean()

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

        Raises:
            UntrustworthyError: Logits are not finite.
        """
        for start in range(0, len(next_tokens), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            self.add_rows(LogitRows(reference[rows]), LogitRows(variant[rows]), next_tokens[rows])

    def add_rows(
        self,
        reference: Predictions,
        variant: LogitRows,
        next_tokens: NDArray[np.int64],
        *,
        chunk: int = 0,
    ) -> None:
        """Add a few positions whose reference is prepared once for several variants.

        Args:
            reference: The reference's predictions.
            variant: The variant's at the same positions.
            next_tokens: The tokens that really follow, `(n,)`.
            chunk: The chunk of text that they lie in.

        Raises:
            UntrustworthyError: Logits are not finite.
        """
        kld = reference.kld(variant)
        nll, reference_nll = reference.nlls(variant, next_tokens)
        if not np.isfinite(kld.sum() + nll.sum()):
            raise UntrustworthyError(
                "a model computes logits that are not finite", "convert its checkpoint again"
            )
        self._kld.add(kld)
        self._chunks.setdefault(chunk, _Mean()).add(kld)
        self._max_kld = max(self._max_kld, float(kld.max()))
        self._quantiles.add(kld)
        self._top1.add(reference.most_likely == variant.most_likely)
        self._top5.add(variant.ranks(reference.most_likely) < 5)
        self._delta_p_squares.add(np.square(np.exp(-nll) - np.exp(-reference_nll)))
        self._nll.add(nll)
        self._reference_nll.add(reference_nll)
        self._nll_change.add(nll - reference_nll)

    @property
    def chunk_klds(self) -> tuple[float, ...]:
        """Mean KL divergence of each chunk, in order."""
        return tuple(self._chunks[chunk].mean for chunk in sorted(self._chunks))

    def result(self) -> Divergence:
        """Return the comparison so far.

        Raises:
            ValueError: Nothing was added.
        """
        if self._kld.n == 0:
            raise ValueError("no position was added")
        # No divergence is below zero; the rounding of equal predictions is.
        median, p99, p999, highest = (
            max(0.0, kld) for kld in (*self._quantiles.quantiles((0.5, 0.99, 0.999)), self._max_kld)
        )
        rms = math.sqrt(self._delta_p_squares.mean)
        perplexity = _perplexity(self._nll.mean)
        reference_perplexity = _perplexity(self._reference_nll.mean)
        return Divergence(
            n_tokens=self._kld.n,
            mean_kld=max(0.0, self._kld.mean),
            mean_kld_error=self._kld.error,
            median_kld=median,
            kld_p99=min(p99, highest),
            kld_p999=min(p999, highest),
            max_kld=highest,
            top1_agreement=self._top1.mean,
            top1_agreement_error=self._top1.error,
            top5_agreement=self._top5.mean,
            top5_agreement_error=self._top5.error,
            rms_delta_p=rms,
            rms_delta_p_error=0.5 / rms * self._delta_p_squares.error if rms else 0.0,
            perplexity=perplexity,
            perplexity_error=perplexity * self._nll.error,
            reference_perplexity=reference_perplexity,
            reference_perplexity_error=reference_perplexity * self._reference_nll.error,
            log_perplexity_ratio=self._nll_change.mean,
            # The same as from the errors of both and their covariance, and it does not cancel.
            log_perplexity_ratio_error=self._nll_change.error,
        )


class _Mean:
    """A mean and its standard error, from sums."""

    def __init__(self) -> None:
        self.n = 0
        self._sum = 0.0
        self._square_sum = 0.0

    def add(self, values: NDArray[np.float64] | NDArray[np.bool_]) -> None:
        self.n += len(values)
        self._sum += float(values.sum(dtype=np.float64))
        self._square_sum += float(np.square(values, dtype=np.float64).sum())

    @property
    def mean(self) -> float:
        return self._sum / self.n

    @property
    def error(self) -> float:
        """The standard error; 0 for ten values or fewer, which say nothing about their spread."""
        variance = self._square_sum / self.n - self.mean**2
        return math.sqrt(variance / (self.n - 1)) if self.n > 10 and variance > 0 else 0.0


def _perplexity(mean_nll: float) -> float:
    # A model that is broken beyond measure keeps a number that JSON can carry.
    return math.exp(min(mean_nll, 700.0))
