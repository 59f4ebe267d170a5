"""How likely a token was: log probabilities over the whole vocabulary, before any filter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class LogProbs:
    """One step of a text.

    Attributes:
        chosen: The chosen token's.
        top: The likeliest tokens with theirs, the likeliest first; equals by their ids.
    """

    chosen: float
    top: tuple[tuple[int, float], ...]


def log_probs(logits: NDArray[np.float32], token: int, n_top: int = 0) -> LogProbs:
    """Return the natural logarithms of the probabilities that the model gives.

    Args:
        logits: One row, `(n_vocab,)`, as the model gave it; only read. Minus infinity is a token
            that cannot come.
        token: The token that was chosen.
        n_top: How many of the likeliest to return.
    """
    largest = logits.max()
    if not np.isfinite(largest):
        # Only infinite or broken logits: no token is likelier than another.
        return LogProbs(float("-inf"), ())
    # The one copy of the row; summed pairwise and with eight digits more than it needs.
    shares = logits - largest
    np.exp(shares, out=shares)
    log_sum = float(largest) + float(np.log(shares.sum(dtype=np.float64)))
    n_top = min(n_top, len(logits))
    top: list[int] = []
    if n_top > 0:
        # A search, not a sort: the shares are a scratch row by now.
        candidates = np.argpartition(shares, -n_top)[-n_top:]
        top = sorted(candidates.tolist(), key=lambda index: (-logits[index], index))
    return LogProbs(
        float(logits[token]) - log_sum,
        tuple((index, float(logits[index]) - log_sum) for index in top),
    )
