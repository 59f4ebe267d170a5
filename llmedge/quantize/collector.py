"""Sums of the squares of what enters each weight: what an importance matrix is made of.

Knows nothing of files and texts: products come in, sums come out.

Source: `collect_imatrix` in tools/imatrix/imatrix.cpp of llama.cpp. Its counts and, to the last
bit, its sums are what comes out here: rows are added as it adds them, one after the other in F32.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from llmedge.core.errors import IntegrityError
from llmedge.gguf.imatrix_file import ImatrixEntry, ImatrixSums

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from llmedge.runtime.observer import LoadedWeight, Product


class Collector:
    """A watcher that adds up.

    Args:
        names: The weights to collect for: those of the file. The graph also multiplies the kv
            cache and what it computed itself.
        start: What an earlier run collected.
    """

    def __init__(self, names: Collection[str], start: ImatrixSums | None = None) -> None:
        self._names = frozenset(names)
        self._sums: dict[str, NDArray[np.float32]] = {}
        self._counts: dict[str, NDArray[np.int64]] = {}
        for name, entry in start.entries.items() if start else ():
            self._sums[name] = entry.sums.astype(np.float32)
            self._counts[name] = entry.counts.copy()

    def wants(self, weight: LoadedWeight, n_rows: int) -> bool:
        """Want every weight of the file, however few rows enter it: none may be lost."""
        del n_rows
        return weight.name in self._names

    def see(self, product: Product) -> None:
        """Add a product's inputs.

        Raises:
            IntegrityError: They are not finite.
        """
        name, n_in = product.weight.name, product.inputs.shape[-1]
        n_matrices = math.prod(product.weight.shape[2:])
        if name not in self._sums:
            # The matrices of a stack that is used whole see the same tokens and share one count.
            n_counts = 1 if product.experts is None else n_matrices
            self._sums[name] = np.zeros((n_counts, n_matrices * n_in // n_counts), np.float32)
            self._counts[name] = np.zeros(n_counts, np.int64)
        sums = self._sums[name].reshape(n_matrices, n_in)
        if product.experts is None:
            _add_rows(sums, product.inputs, product.weight.shape[2])
            self._counts[name] += product.inputs.size // n_in // n_matrices
        else:
            self._counts[name] += _add_by_expert(sums, product.inputs[0], product.experts)
        if not np.isfinite(sums).all():
            raise IntegrityError(
                f"what enters {name} is not finite: the model does not compute numbers",
                "get the model again, or convert the original checkpoint again",
            )

    def sums(self, datasets: tuple[str, ...], n_chunks: int, chunk_tokens: int) -> ImatrixSums:
        """Return what was collected so far; the arrays go on growing."""
        entries = {
            name: ImatrixEntry(sums, self._counts[name]) for name, sums in self._sums.items()
        }
        return ImatrixSums(datasets, n_chunks, chunk_tokens, entries)


def _add_rows(sums: NDArray[np.float32], inputs: NDArray[np.float32], n_wide: int) -> None:
    """Add the rows that enter a matrix, or each matrix of a stack that is used whole.

    Args:
        sums: `(n_matrices, n_in)`.
        inputs: `(ne3, ne2, n_rows, n_in)`; ne2 and ne3 are multiples of the stack's: groups of
            heads that share a matrix, or sequences.
        n_wide: The stack's ne2.
    """
    n_high = len(sums) // n_wide
    for i3, i2 in np.ndindex(inputs.shape[:2]):
        _add_squares(sums[i3 % n_high * n_wide + i2 % n_wide], inputs[i3, i2])


def _add_by_expert(
    sums: NDArray[np.float32], inputs: NDArray[np.float32], experts: NDArray[np.int32]
) -> NDArray[np.int64]:
    """Add, for each expert, the rows of the tokens that chose it.

    Args:
        sums: `(n_experts, n_in)`.
        inputs: `(n_tokens, n_places, n_in)`; one place where all of a token's experts get its row.
        experts: `(n_tokens, n_used)`.

    Returns:
        How many rows each expert got, `(n_experts,)`.
    """
    n_tokens = len(experts)
    chosen = experts.T.reshape(-1)
    counts = np.bincount(chosen, minlength=len(sums))
    order = np.argsort(chosen, kind="stable")
    tokens, places = order % n_tokens, order // n_tokens % inputs.shape[1]
    stops = np.cumsum(counts)
    # An expert's rows fit the cache; all rows at once would not, and take twenty times longer.
    for expert in np.flatnonzero(counts):
        span = slice(stops[expert] - counts[expert], stops[expert])
        _add_squares(sums[expert], inputs[tokens[span], places[span]])
    return counts


def _add_squares(sums: NDArray[np.float32], rows: NDArray[np.float32]) -> None:
    """Add the squares of `(n_rows, n_in)` to `(n_in,)`, one row after the other."""
    squares = np.square(rows)
    squares[0] += sums
    np.add.reduce(squares, axis=0, out=sums)
