"""What a model predicts at some positions, and how far another's prediction is from it.

Exponentials are taken in single precision and added up in double, a few rows at a time. Against
double precision throughout that costs 1e-8 nats at a position and takes a fifth of the time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROWS_AT_ONCE = 8  # a few MB even for 262k tokens: they stay in the processor's cache
_CODED_NATS = np.float32(16)  # what a base file keeps below the most likely token


class LogitRows:
    """Predictions as a model's logits.

    Args:
        logits: `(n, n_vocab)`; must stay valid as long as this is used.

    Attributes:
        most_likely: The most likely tokens, `(n,)`.
        log_sums: Logarithms of the sums of the logits' exponentials, `(n,)`.
        single_log_sums: The same as llama.cpp's tool rounds them, in single precision.
    """

    def __init__(self, logits: NDArray[np.float32]) -> None:
        self.logits = logits
        self.most_likely = logits.argmax(axis=1)
        self._maxima = logits[_each(self.most_likely), self.most_likely]
        self._weights = logits - self._maxima[:, None]
        np.exp(self._weights, out=self._weights)
        self._sums = self._weights.sum(axis=1, dtype=np.float64)
        self.log_sums = self._maxima + np.log(self._sums)
        self.single_log_sums = self._maxima + np.log(self._sums).astype(np.float32)

    def nlls(self, variant: LogitRows, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return tokens' negative log likelihoods, the variant's and these: `(2, n)`."""
        rows = _each(tokens), tokens
        return np.stack(
            [variant.log_sums - variant.logits[rows], self.log_sums - self.logits[rows]]
        )

    def kld(self, variant: LogitRows) -> NDArray[np.float64]:
        """Return the KL divergence of the variant from these predictions, `(n,)`, in nats."""
        terms = self.logits - variant.logits
        terms *= self._weights
        means = terms.sum(axis=1, dtype=np.float64) / self._sums
        # Rounding may leave a sum a hair below its bound of 0.
        return np.maximum(0.0, means - (self.log_sums - variant.log_sums))

    def ranks(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many other tokens are more likely than these, one a position."""
        own = self.logits[_each(tokens), tokens]
        return np.count_nonzero(self.logits > own[:, None], axis=1)


class CodedRows:
    """Predictions as a base file keeps them: logarithms of probabilities in 16 bits.

    Sums are taken in the order and precision of llama.cpp's tool, so that their digits agree.

    Args:
        codes: `(n, n_vocab)`; the logarithms are `scale * code + floor`.
        scales: `(n,)`.
        floors: `(n,)`.

    Attributes:
        most_likely: The most likely tokens, `(n,)`.

    Source: llama.cpp tools/perplexity/perplexity.cpp, `log_softmax` with a base.
    """

    def __init__(
        self,
        codes: NDArray[np.uint16],
        scales: NDArray[np.float32],
        floors: NDArray[np.float32],
    ) -> None:
        self._log_p = codes.astype(np.float32)
        self._log_p *= scales[:, None]
        self._log_p += floors[:, None]
        self.most_likely = self._log_p.argmax(axis=1)
        self._p = np.exp(self._log_p)
        self._p[self._log_p <= -_CODED_NATS] = 0

    @property
    def totals(self) -> NDArray[np.float64]:
        """Sums of the probabilities, `(n,)`; close to 1 in a sound file."""
        return self._p.sum(axis=1, dtype=np.float64)

    def nlls(self, variant: LogitRows, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return tokens' negative log likelihoods, the variant's and these: `(2, n)`."""
        rows = _each(tokens), tokens
        found = [variant.single_log_sums - variant.logits[rows], -self._log_p[rows]]
        return np.stack(found).astype(np.float64)

    def kld(self, variant: LogitRows) -> NDArray[np.float64]:
        """Return the KL divergence of the variant from these predictions, `(n,)`, in nats.

        Tokens 16 nats below certainty are left out, which may leave it a little below 0.
        """
        terms = self._log_p - variant.logits
        terms += variant.single_log_sums[:, None]
        terms *= self._p
        return terms.sum(axis=1, dtype=np.float64)


class Predictions(Protocol):
    """A reference's predictions: `LogitRows` or `CodedRows`."""

    most_likely: NDArray[np.int64]

    def nlls(self, variant: LogitRows, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return tokens' negative log likelihoods, the variant's and these: `(2, n)`."""
        ...

    def kld(self, variant: LogitRows) -> NDArray[np.float64]:
        """Return the KL divergence of the variant from these predictions, `(n,)`, in nats."""
        ...


def encode(logits: NDArray[np.float32]) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
    """Return the codes of logits, `(n, n_vocab)`, and their scales and floors, `(n, 2)`.

    Source: llama.cpp tools/perplexity/perplexity.cpp, `log_softmax` with `log_prob`.
    """
    maxima = logits.max(axis=1)
    lowest = np.maximum(logits.min(axis=1), maxima - _CODED_NATS)
    exponentials = np.exp(logits - maxima[:, None])
    log_sums = np.log(exponentials.sum(axis=1, dtype=np.float64)).astype(np.float32)
    scales = (maxima - lowest) / np.float32(65535)
    steps = np.divide(1, scales, out=np.zeros_like(scales), where=scales > 0)
    codes = np.rint((logits - lowest[:, None]) * steps[:, None])
    np.clip(codes, 0, 65535, out=codes)
    return codes.astype(np.uint16), np.stack([scales, lowest - maxima - log_sums], axis=1)


def _each(tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.arange(len(tokens))
