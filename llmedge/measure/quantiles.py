"""Quantiles of a stream in bounded memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_N_EXACT = 1 << 22  # values that are kept: 16 MiB
_FIRST_ROOM = 1 << 10
_SMALLEST = 1e-9
_LARGEST = 1e4


class Quantiles:
    """Quantiles of a stream: exact up to four million values, right to 0.5 % beyond.

    Args:
        n_exact: How many values are kept, in single precision.
    """

    def __init__(self, n_exact: int = _N_EXACT) -> None:
        self._n_exact = n_exact
        self._values = np.empty(min(_FIRST_ROOM, n_exact), dtype=np.float32)
        self._n = 0
        self._sketch: QuantileSketch | None = None

    def add(self, values: NDArray[np.float64]) -> None:
        """Add values, `(n,)`."""
        if self._sketch is None and self._n + len(values) > self._n_exact:
            self._sketch = QuantileSketch()
            self._sketch.add(self._values[: self._n].astype(np.float64))
            self._values = self._values[:0]
        if self._sketch is not None:
            self._sketch.add(values)
            return
        end = self._n + len(values)
        if end > len(self._values):
            room = np.empty(min(self._n_exact, max(end, 2 * len(self._values))), dtype=np.float32)
            room[: self._n] = self._values[: self._n]
            self._values = room
        self._values[self._n : end] = values
        self._n = end

    def quantiles(self, shares: Sequence[float]) -> list[float]:
        """Return the values below which these shares lie; zeros for an empty stream.

        Between two values they are interpolated, in llama.cpp's precision.

        Source: llama.cpp tools/perplexity/perplexity.cpp, `percentile`.
        """
        if self._sketch is not None:
            return [self._sketch.quantile(share) for share in shares]
        if self._n == 0:
            return [0.0] * len(shares)
        ordered = np.sort(self._values[: self._n])
        return [_interpolate(ordered, share) for share in shares]


class QuantileSketch:
    """Counts positive values in logarithmic bins; quantiles are right to a relative error.

    Values below 1e-9 count as 0, values above 1e4 as 1e4.

    Args:
        relative_error: Half the width of a bin.

    Source: Masson, Rim and Lee, "DDSketch", VLDB 2019, with fixed bounds.
    """

    def __init__(self, relative_error: float = 0.005) -> None:
        self._growth = (1 + relative_error) / (1 - relative_error)
        n_bins = math.ceil(math.log(_LARGEST / _SMALLEST) / math.log(self._growth)) + 1
        self._counts: NDArray[np.int64] = np.zeros(n_bins + 1, dtype=np.int64)

    def add(self, values: NDArray[np.float64]) -> None:
        """Add values, of any shape."""
        clipped = np.clip(values.ravel(), _SMALLEST, _LARGEST)
        bins = np.ceil(np.log(clipped / _SMALLEST) / math.log(self._growth)).astype(np.int64)
        bins[values.ravel() < _SMALLEST] = 0
        self._counts += np.bincount(bins, minlength=len(self._counts))

    def quantile(self, share: float) -> float:
        """Return the value below which this share lies; 0 for an empty stream."""
        total = int(self._counts.sum())
        if total == 0:
            return 0.0
        rank = min(total - 1, math.floor(share * (total - 1) + 0.5))
        index = int(np.searchsorted(np.cumsum(self._counts), rank, side="right"))
        if index == 0:
            return 0.0
        return 2 * _SMALLEST * self._growth**index / (1 + self._growth)


def _interpolate(ordered: NDArray[np.float32], share: float) -> float:
    place = np.float32(share) * np.float32(len(ordered) - 1)
    index = int(place)
    after = place - np.float32(index)
    following = ordered[min(index + 1, len(ordered) - 1)]
    return float((1 - after) * ordered[index] + after * following)
