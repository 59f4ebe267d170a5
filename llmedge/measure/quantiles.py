"""Quantiles of a stream in fixed memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SMALLEST = 1e-9
_LARGEST = 1e4


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
