"""Tensors that are read by ranges of rows, and the edits on them that keep it so.

A tensor is seen as a matrix: all axes but the last flattened. An edit maps a range of rows of what
it makes to rows of what it is made from, so that no edit needs a tensor whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from llmedge.core.errors import IntegrityError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from llmedge.store.checkpoint import CheckpointSource

Floats: TypeAlias = "NDArray[np.float32]"
Index: TypeAlias = "NDArray[np.int64]"
_FLOAT_BYTES = 4
_BLOCK_BYTES = 2 << 20
_DTYPES = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"}


@dataclass(frozen=True, slots=True)
class Rows:
    """One tensor, read on demand.

    Attributes:
        shape: Row-major, outermost first.
        read: Rows `[start, stop)` of the matrix → `(stop - start, n_columns)`; thread-safe.
        align: Ranges that start at its multiples are the cheap ones.
        whole_bytes: Memory that reading any range takes at least: a tensor needed whole.
        packed: Rows that are quantized already and lose nothing as `PackedRows.type_name`.
    """

    shape: tuple[int, ...]
    read: Callable[[int, int], Floats]
    align: int = 1
    whole_bytes: int = 0
    packed: PackedRows | None = None

    @property
    def n_rows(self) -> int:
        """Rows of the matrix."""
        return math.prod(self.shape[:-1])

    @property
    def n_out(self) -> int:
        """Rows of each of the matrices that are stacked; entries of a vector."""
        return self.shape[-2:][0]

    @property
    def n_columns(self) -> int:
        """Weights in a row."""
        return self.shape[-1]


@dataclass(frozen=True, slots=True)
class PackedRows:
    """A tensor's rows as GGML blocks, made without loss from the checkpoint's own blocks.

    Attributes:
        type_name: The quant type of the blocks.
        read: Rows `[start, stop)` → their bytes.
    """

    type_name: str
    read: Callable[[int, int], bytes]


def source_rows(source: CheckpointSource, name: str) -> Rows:
    """Return a tensor of a checkpoint as float32.

    Raises:
        UnsupportedError: Its type is no plain floating-point type.
    """
    entry = source.tensors[name]
    if entry.dtype not in _DTYPES:
        raise UnsupportedError(
            f"tensor {name} is {entry.dtype}, which is no weight that is known here",
            "convert the original checkpoint, before it was quantized",
        )
    shape = entry.shape or (1,)
    dtype = np.dtype(_DTYPES[entry.dtype])
    is_bf16 = entry.dtype == "BF16"

    def read(start: int, stop: int) -> Floats:
        raw = np.frombuffer(source.read_rows(name, start, stop), dtype)
        floats = (raw.astype(np.uint32) << 16).view(np.float32) if is_bf16 else raw
        return floats.reshape(stop - start, shape[-1]).astype(np.float32, copy=False)

    return Rows(shape, read)


def constant(values: Sequence[float] | Floats) -> Rows:
    """Return a vector or matrix that is not in the checkpoint."""
    array = np.asarray(values, np.float32)
    matrix = array.reshape(-1, array.shape[-1])
    return Rows(array.shape, lambda start, stop: matrix[start:stop])


def apply(rows: Rows, function: Callable[[Floats], Floats]) -> Rows:
    """Change each weight by itself."""

    def read(start: int, stop: int) -> Floats:
        return function(rows.read(start, stop))

    return replace(rows, read=read, packed=None)


def scale_rows(rows: Rows, factors: Floats) -> Rows:
    """Multiply each row by a factor of its own."""

    def read(start: int, stop: int) -> Floats:
        return rows.read(start, stop) * factors[start:stop, None]

    return replace(rows, read=read, packed=None)


def reshape(rows: Rows, shape: tuple[int, ...]) -> Rows:
    """Give a tensor another shape, as `numpy.reshape` does.

    Raises:
        IntegrityError: The sizes differ.
    """
    if math.prod(shape) != math.prod(rows.shape):
        raise IntegrityError(f"a tensor of shape {list(rows.shape)} is no {list(shape)}")
    if shape[-1] == rows.n_columns:
        return replace(rows, shape=shape)
    n_columns = shape[-1]

    def read(start: int, stop: int) -> Floats:
        first, last = start * n_columns, stop * n_columns
        outer_start, outer_stop = first // rows.n_columns, -(-last // rows.n_columns)
        flat = rows.read(outer_start, outer_stop).reshape(-1)
        skip = first - outer_start * rows.n_columns
        return flat[skip : skip + last - first].reshape(stop - start, n_columns)

    return Rows(shape, read, whole_bytes=rows.whole_bytes)


def squeeze(rows: Rows) -> Rows:
    """Drop axes of size one."""
    return reshape(rows, tuple(size for size in rows.shape if size != 1) or (1,))


def gather(rows: Rows, index: Index, *, align: int = 1) -> Rows:
    """Take rows by their numbers, as `matrix[index]` does; entries of a vector likewise.

    A tensor of three axes keeps its outermost one when `index` is of `n_rows / shape[0]` kind,
    that is, when the number of rows taken is a multiple of it.

    Args:
        rows: A vector, a matrix, or matrices stacked.
        index: Row numbers within the flattened matrix.
        align: Ranges of rows that start at its multiples are read in one piece.
    """
    if len(rows.shape) == 1:
        return Rows((len(index),), lambda start, stop: rows.read(0, 1)[start:stop, index])
    outer = rows.shape[:-2] if len(rows.shape) > 2 else ()
    shape = (*outer, len(index) // math.prod(outer), rows.n_columns)

    def read(start: int, stop: int) -> Floats:
        wanted = index[start:stop]
        if not len(wanted):
            return np.empty((0, rows.n_columns), np.float32)
        first, last = int(wanted.min()), int(wanted.max()) + 1
        if last - first <= 2 * len(wanted):
            return rows.read(first, last)[wanted - first]
        breaks = np.flatnonzero(np.diff(wanted) != 1) + 1
        runs = np.split(wanted, breaks)
        return np.concatenate([rows.read(int(run[0]), int(run[-1]) + 1) for run in runs])

    packed = rows.packed and _gather_packed(rows.packed, index)
    return Rows(shape, read, align=align, whole_bytes=rows.whole_bytes, packed=packed)


def _gather_packed(packed: PackedRows, index: Index) -> PackedRows:
    def read(start: int, stop: int) -> bytes:
        breaks = np.flatnonzero(np.diff(index[start:stop]) != 1) + 1
        runs = np.split(index[start:stop], breaks)
        return b"".join(packed.read(int(run[0]), int(run[-1]) + 1) for run in runs if len(run))

    return PackedRows(packed.type_name, read)


def cut(rows: Rows, start: int, stop: int) -> Rows:
    """Take rows `[start, stop)` of a matrix, or of each of the matrices that are stacked.

    Raises:
        IntegrityError: The tensor has fewer rows.
    """
    per_matrix = rows.n_out
    if not 0 <= start < stop <= per_matrix:
        raise IntegrityError(f"a tensor of shape {list(rows.shape)} has no rows {start} to {stop}")
    n_matrices = rows.n_rows // per_matrix if len(rows.shape) > 1 else 1
    offsets = np.arange(n_matrices, dtype=np.int64)[:, None] * per_matrix
    return gather(rows, (offsets + np.arange(start, stop, dtype=np.int64)).reshape(-1))


def stack(parts: Sequence[Rows]) -> Rows:
    """Put tensors of one shape on top of each other along a new outermost axis.

    Raises:
        IntegrityError: The shapes differ.
    """
    return replace(concatenate(parts), shape=(len(parts), *_only_shape(parts)))


def _only_shape(parts: Sequence[Rows]) -> tuple[int, ...]:
    shapes = {part.shape for part in parts}
    if len(shapes) != 1:
        raise IntegrityError(f"experts have different shapes: {sorted(shapes)}")
    return parts[0].shape


def concatenate(parts: Sequence[Rows]) -> Rows:
    """Put matrices below each other.

    Raises:
        IntegrityError: Their rows differ in length.
    """
    if len({part.n_columns for part in parts}) != 1:
        raise IntegrityError("tensors to be joined have rows of different lengths")
    stops = np.cumsum([part.n_rows for part in parts])

    def read(start: int, stop: int) -> Floats:
        pieces: list[Floats] = []
        number = int(np.searchsorted(stops, start, side="right"))
        while start < stop:
            base = int(stops[number]) - parts[number].n_rows
            end = min(stop, int(stops[number]))
            pieces.append(parts[number].read(start - base, end - base))
            start, number = end, number + 1
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    shape = (int(stops[-1]), parts[0].n_columns)
    return Rows(shape, read, whole_bytes=max(part.whole_bytes for part in parts))


def transpose(rows: Rows) -> Rows:
    """Swap the last two axes.

    A range of what it makes is a few columns of all rows: those are read again for each range,
    block by block, so that no matrix is ever held. The system keeps them in its cache meanwhile.
    """
    *outer, n_rows, n_columns = rows.shape
    block = max(1, _BLOCK_BYTES // (n_columns * _FLOAT_BYTES))

    def read_columns(number: int, first: int, last: int) -> Floats:
        taken = np.empty((last - first, n_rows), np.float32)
        for start in range(0, n_rows, block):
            stop = min(start + block, n_rows)
            base = number * n_rows
            taken[:, start:stop] = rows.read(base + start, base + stop)[:, first:last].T
        return taken

    def read(start: int, stop: int) -> Floats:
        pieces: list[Floats] = []
        while start < stop:
            number, first = divmod(start, n_columns)
            last = min(n_columns, first + stop - start)
            pieces.append(read_columns(number, first, last))
            start += last - first
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    return Rows((*outer, n_columns, n_rows), read, whole_bytes=rows.whole_bytes)
