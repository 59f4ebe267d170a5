"""Matrices of small numbers with a grid of scales: a scale for each block of rows and columns.

One scale for a tensor, for a row, for a group of columns or for a tile are all such grids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llmedge.convert.packed_parts import Part, ceil_div
from llmedge.convert.rows import Rows
from llmedge.core.errors import IntegrityError

if TYPE_CHECKING:
    from llmedge.convert.packed_parts import Ledger
    from llmedge.convert.rows import Floats, Index


@dataclass(frozen=True, slots=True)
class Grid:
    """How a matrix is cut into blocks; those at its lower and right edge may be smaller.

    Attributes:
        matrix: `(n_rows, n_columns)` of the matrix.
        block: Rows and columns of a block.
        groups: The block of each column, where blocks are not of columns side by side.
    """

    matrix: tuple[int, int]
    block: tuple[int, int]
    groups: Part | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Blocks below each other and side by side."""
        return (
            ceil_div(self.matrix[0], self.block[0]),
            ceil_div(self.matrix[1], self.block[1]),
        )

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Say whether a tensor has an entry for each block; trailing axes of one may be missing."""
        n_rows, n_columns = self.shape
        return shape in (
            (n_rows, n_columns),
            *([(n_rows,)] if n_columns == 1 else []),
            *([()] if n_rows == n_columns == 1 else []),
        )

    def take(self, ledger: Ledger, name: str, dtypes: tuple[str, ...]) -> Part:
        """Take the tensor that has an entry for each block.

        Raises:
            IntegrityError: It is missing or has another shape.
            UnsupportedError: It has another type.
        """
        part = ledger.take(name, dtypes)
        if not self.fits(part.shape):
            raise IntegrityError(
                f"tensor {name} has the shape {list(part.shape)}, not {list(self.shape)}: "
                f"the weight is {list(self.matrix)} in blocks of {list(self.block)}"
            )
        return part

    def read(self, part: Part, start: int, stop: int) -> Floats:
        """Return the entries that rows `[start, stop)` of the matrix need."""
        first, last = start // self.block[0], ceil_div(stop, self.block[0])
        if len(part.shape) == 2:
            return part.floats(first, last)
        return part.all_floats().reshape(self.shape)[first:last]

    def spread(self, entries: Floats, start: int, stop: int) -> Floats:
        """Give each weight of rows `[start, stop)` the entry of its block.

        Returns:
            `(stop - start, n_columns)`, or one column where a block is as wide as the matrix.
        """
        rows = np.arange(start, stop) // self.block[0] - start // self.block[0]
        if self.shape[1] == 1:
            return entries[rows]
        return np.take(entries[rows], self._columns(), axis=1)

    def _columns(self) -> Index:
        if self.groups is None:
            return np.arange(self.matrix[1], dtype=np.int64) // self.block[1]
        groups = self.groups.all_integers()
        if (groups == -1).any():  # how a layer says that its columns were left in order
            return np.arange(self.matrix[1], dtype=np.int64) // self.block[1]
        if groups.min() < 0 or groups.max() >= self.shape[1]:
            raise IntegrityError(
                f"{self.groups.name} names group {groups.min()} to {groups.max()} of "
                f"{self.shape[1]}"
            )
        return groups


def scaled_rows(weight: Part, grid: Grid, scale: Part, zero: Part | None = None) -> Rows:
    """Return `(weight - zero) * scale` of a stored matrix of numbers."""

    def read(start: int, stop: int) -> Floats:
        values = weight.floats(start, stop)
        if zero is not None:
            values -= grid.spread(grid.read(zero, start, stop), start, stop)
        values *= grid.spread(grid.read(scale, start, stop), start, stop)
        return values

    return Rows(grid.matrix, read)
