"""Importance matrices on disk: how much each input column of a tensor counts when it is quantized.

Both of llama.cpp's formats are read: the GGUF one, and the headless one before it, which many
published files still have. Every length is held against the file's size first, so that a hostile
file is an `IntegrityError` and takes no memory.

Source: common/imatrix-loader.cpp of llama.cpp, and `load_imatrix` in tools/quantize/quantize.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from llmedge.core.errors import IntegrityError, NotFoundError
from llmedge.gguf.quant_types import F32
from llmedge.gguf.reader import MAGIC, Array, Header, TensorInfo, read_header

if TYPE_CHECKING:
    from collections.abc import Mapping
    from io import BufferedReader
    from pathlib import Path

    from numpy.typing import NDArray

    Weights: TypeAlias = NDArray[np.float32]

_PARTS = (".in_sum2", ".counts")
# The largest mixtures of experts need a gigabyte; a sparse file may claim anything for free.
_MAX_BYTES = 4 << 30
_MAX_NAME_BYTES = 4096
_MIN_ENTRY_BYTES = 4 + 1 + 4 + 4 + 4
_HINT = "download the importance matrix, or compute it, again"


@dataclass(frozen=True, slots=True)
class Imatrix:
    """An importance matrix as the quantizer wants it.

    Attributes:
        datasets: The texts that it was computed on, as its maker called them.
        n_chunks: How many pieces of text; 0 where the file does not say.
        weights: By tensor name, the mean square of each input column: `(n_experts, n_in)`, and
            `(1, n_in)` for a matrix alone. The old format does not tell experts apart: there, a
            stack of them is `(1, n_experts * n_in)`. An expert that no token reached has ones.
            Every array is contiguous.
    """

    datasets: tuple[str, ...]
    n_chunks: int
    weights: Mapping[str, Weights]


def read_imatrix(path: Path) -> Imatrix:
    """Read and check an importance matrix in either format.

    Raises:
        NotFoundError: There is no such file.
        IntegrityError: It is no importance matrix, is truncated, or contradicts itself.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise NotFoundError(f"{path} cannot be read: {error.strerror}") from None
    with file:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise _broken(path, f"it has {size} bytes, more than any importance matrix")
        is_gguf = file.read(len(MAGIC)) == MAGIC
        file.seek(0)
        imatrix = _read_gguf(path, file) if is_gguf else _OldParser(path, file, size).parse()
    if not imatrix.weights:
        raise _broken(path, "it has no entries")
    for name, weights in imatrix.weights.items():
        if not np.isfinite(weights).all():
            raise _broken(path, f"not every weight of {name} is finite")
    return imatrix


def _broken(path: Path, why: str) -> IntegrityError:
    return IntegrityError(f"{path} is damaged: {why}", _HINT)


def _read_gguf(path: Path, file: BufferedReader) -> Imatrix:
    header = read_header(path)
    if header.text("general.type") != "imatrix":
        raise IntegrityError(f"{path} is a GGUF file, but no importance matrix", _HINT)
    datasets = header.metadata.get("imatrix.datasets")
    n_chunks, chunk_size = header.number("imatrix.chunk_count"), header.number("imatrix.chunk_size")
    if not isinstance(datasets, Array) or n_chunks is None or chunk_size is None:
        raise _broken(path, "it does not say what it was computed on (imatrix.datasets …)")
    tensors = {tensor.name: tensor for tensor in header.tensors}
    names = [name.removesuffix(part) for name in tensors for part in _PARTS if name.endswith(part)]
    weights = {name: _read_pair(header, file, tensors, name) for name in dict.fromkeys(names)}
    return Imatrix(tuple(map(str, datasets.items)), n_chunks, weights)


def _read_pair(
    header: Header, file: BufferedReader, tensors: Mapping[str, TensorInfo], name: str
) -> Weights:
    """Read one tensor's sums of squares and token counts, by expert; return the means."""
    values: list[Weights] = []
    for part in _PARTS:
        tensor = tensors.get(name + part)
        if tensor is None or tensor.quant_type is not F32:
            raise _broken(header.path, f"{name}{part} is missing or not F32")
        file.seek(header.data_offset + tensor.offset)
        data = file.read(tensor.n_bytes)
        if len(data) != tensor.n_bytes:
            raise _broken(header.path, f"it became shorter while {tensor.name} was read")
        values.append(np.frombuffer(data, np.float32))
    sums, counts = values
    if sums.size % counts.size or not np.isfinite(counts).all():
        raise _broken(header.path, f"{name} has {sums.size} sums for {counts.size} counts")
    counts = np.floor(counts + np.float64(0.5)).astype(np.float32)  # they are whole numbers
    means = np.ones((counts.size, sums.size // counts.size), dtype=np.float32)
    reached = (counts > 0)[:, np.newaxis]
    return np.divide(sums.reshape(means.shape), counts[:, np.newaxis], out=means, where=reached)


class _OldParser:
    """Reads the headless format from front to back; every read is checked against what is left."""

    def __init__(self, path: Path, file: BufferedReader, size: int) -> None:
        self._path = path
        self._file = file
        self._left = size

    def parse(self) -> Imatrix:
        n_entries = self._int("the number of entries")
        if not 1 <= n_entries <= self._left // _MIN_ENTRY_BYTES:
            raise IntegrityError(f"{self._path} is no importance matrix", _HINT)
        weights: dict[str, Weights] = {}
        for _ in range(n_entries):
            name, values = self._entry()
            if name in weights:
                raise _broken(self._path, f"{name} is there twice")
            weights[name] = values
        if not self._left:  # as the first versions wrote it
            return Imatrix((), 0, weights)
        n_chunks = self._int("the number of chunks")
        dataset = self._string("the dataset's name")
        if self._left or n_chunks < 0:
            raise _broken(self._path, f"{n_chunks} chunks, {self._left} bytes after its end")
        return Imatrix((dataset,) if dataset else (), n_chunks, weights)

    def _entry(self) -> tuple[str, Weights]:
        name = self._string("a tensor's name")
        if not name.isprintable() or not name:
            raise _broken(self._path, f"the tensor name {name!r} is empty or not plain text")
        n_calls = self._int(f"the calls of {name}")
        n_values = self._int(f"the length of {name}")
        if n_values < 1:
            raise _broken(self._path, f"{name} has {n_values} values")
        values = np.frombuffer(self._take(4 * n_values, name), np.float32).reshape(1, -1)
        return name, values / np.float32(max(n_calls, 1))

    def _string(self, what: str) -> str:
        length = self._int(what)
        if not 0 <= length <= _MAX_NAME_BYTES:
            raise _broken(self._path, f"{what} is {length} bytes long")
        try:
            return self._take(length, what).decode("utf-8")
        except UnicodeDecodeError:
            raise _broken(self._path, f"{what} is not UTF-8") from None

    def _int(self, what: str) -> int:
        return int.from_bytes(self._take(4, what), "little", signed=True)

    def _take(self, n_bytes: int, what: str) -> bytes:
        data = self._file.read(n_bytes) if n_bytes <= self._left else b""
        if len(data) != n_bytes:
            raise _broken(self._path, f"it is truncated: {what} needs {n_bytes} bytes")
        self._left -= n_bytes
        return data
