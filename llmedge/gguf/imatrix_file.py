"""Importance matrices on disk: how much each input column of a tensor counts when it is quantized.

A file holds, for every tensor, sums of the squares of what entered it, and of how many tokens.
llama.cpp's GGUF format is read and written; the headless one before it, which many published files
still have, is read. Every length is held against the file's size first, so that a hostile file is
an `IntegrityError` and takes no memory.

Source: common/imatrix-loader.cpp of llama.cpp, `save_imatrix` in tools/imatrix/imatrix.cpp and
`load_imatrix` in tools/quantize/quantize.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from llmedge.core.errors import IntegrityError, LlmedgeError, NotFoundError, UsageError
from llmedge.gguf.imatrix_old import OldParser
from llmedge.gguf.quant_types import F32
from llmedge.gguf.reader import MAGIC, Array, Header, TensorInfo, read_header
from llmedge.gguf.writer import StringList, encode_header, encode_metadata, lay_out, padded_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from io import BufferedReader
    from pathlib import Path

    from numpy.typing import NDArray

    Weights: TypeAlias = NDArray[np.float32]
    Values: TypeAlias = NDArray[np.floating[Any]]

_SUMS, _COUNTS = ".in_sum2", ".counts"
_F32 = np.dtype("<f4")
# The largest mixtures of experts need a gigabyte; a sparse file may claim anything for free.
_MAX_BYTES = 4 << 30
_HINT = "download the importance matrix, or compute it, again"
# Of a matrix's mean weight, for columns without any: far less than those count that something
# enters, and enough for each quant type to round them well.
_FLOOR = 0.01


@dataclass(frozen=True, slots=True)
class ImatrixEntry:
    """What entered one tensor.

    Attributes:
        sums: Sums of squares by input column, `(n_matrices, n_in)`. Where all matrices of a stack
            see every token they share one count, and their sums are one row.
        counts: Rows that were summed, `(n_matrices,)`: tokens, those of each expert by itself.
    """

    sums: Values
    counts: NDArray[np.int64]

    def unreached(self) -> tuple[int, ...]:
        """Return the numbers of the matrices that no token reached, or nothing but zeros."""
        is_reached = (self.counts > 0) & self.sums.any(axis=1)
        return tuple(np.flatnonzero(~is_reached).tolist())


@dataclass(frozen=True, slots=True)
class ImatrixSums:
    """An importance matrix before its sums are divided.

    Attributes:
        datasets: The texts that it was computed on, as its maker called them.
        n_chunks: How many pieces of text; 0 where the file does not say.
        chunk_tokens: Tokens of a piece; 0 for the old format, which does not say, and whose counts
            are pieces and not tokens.
        entries: By tensor name.
    """

    datasets: tuple[str, ...]
    n_chunks: int
    chunk_tokens: int
    entries: Mapping[str, ImatrixEntry]


@dataclass(frozen=True, slots=True)
class Imatrix:
    """An importance matrix as the quantizer wants it.

    Attributes:
        datasets: The texts that it was computed on, as its maker called them.
        n_chunks: How many pieces of text; 0 where the file does not say.
        weights: By tensor name, the mean square of each input column: `(n_experts, n_in)`, and
            `(1, n_in)` for a matrix alone. The old format does not tell experts apart: there, a
            stack of them is `(1, n_experts * n_in)`. A matrix that no token reached has ones, and
            a column that only zeros entered a little of the mean. Every array is contiguous.
        unreached: By tensor name, the numbers of the matrices that no token reached, where there
            are some.
    """

    datasets: tuple[str, ...]
    n_chunks: int
    weights: Mapping[str, Weights]
    unreached: Mapping[str, tuple[int, ...]]


def read_imatrix(path: Path) -> Imatrix:
    """Read and check an importance matrix in either format.

    Raises:
        NotFoundError: There is no such file.
        IntegrityError: It is no importance matrix, is truncated, or contradicts itself.
    """
    sums = read_sums(path)
    weights = {name: _means(entry) for name, entry in sums.entries.items()}
    for name, means in weights.items():
        if not np.isfinite(means).all():
            raise _broken(path, f"not every weight of {name} is finite")
    unreached = {
        name: found for name, entry in sums.entries.items() if (found := entry.unreached())
    }
    return Imatrix(sums.datasets, sums.n_chunks, weights, unreached)


def read_sums(path: Path) -> ImatrixSums:
    """Read and check an importance matrix in either format, and leave its sums undivided.

    Raises:
        NotFoundError: There is no such file.
        IntegrityError: It is no importance matrix, is truncated, or contradicts itself.
    """
    if path.exists() and not path.is_file():
        raise NotFoundError(f"{path} is no regular file")
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
        sums = _read_gguf(path, file) if is_gguf else _read_old(path, file, size)
    if not sums.entries:
        raise _broken(path, "it has no entries")
    for name, entry in sums.entries.items():
        if not np.isfinite(entry.sums).all():
            raise _broken(path, f"not every weight of {name} is finite")
        if (entry.sums < 0).any():
            raise _broken(path, f"a sum of squares of {name} is {entry.sums.min():g}")
    return sums


def is_imatrix(path: Path) -> bool:
    """Whether a file is an importance matrix and no model; it may still be damaged."""
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                return path.suffix == ".dat"
        return read_header(path).text("general.type") == "imatrix"
    except (OSError, LlmedgeError):
        return False


def write_imatrix(path: Path, sums: ImatrixSums) -> None:
    """Write the GGUF format; the same bytes for the same sums.

    Args:
        path: The file; partial after an error: see `store.atomic.replacing`.
        sums: What to write, rounded to F32.

    Raises:
        UnsupportedError: A tensor's name is too long for the format.
        OSError: It cannot be written.
    """
    arrays: dict[str, NDArray[np.generic]] = {}
    for name, entry in sorted(sums.entries.items()):
        arrays[name + _SUMS] = np.ascontiguousarray(entry.sums, _F32)
        arrays[name + _COUNTS] = entry.counts.astype(_F32).reshape(-1, 1)
    tensors = lay_out((name, array.shape[::-1], F32) for name, array in arrays.items())
    datasets = StringList()
    for dataset in sums.datasets:
        datasets.append(dataset)
    metadata = encode_metadata(
        {
            "general.type": "imatrix",
            "imatrix.datasets": datasets,
            "imatrix.chunk_count": sums.n_chunks,
            "imatrix.chunk_size": sums.chunk_tokens,
        }
    )
    with path.open("wb") as file:
        file.write(encode_header(metadata, tensors))
        for tensor in tensors:
            file.write(arrays[tensor.name].data)
            file.write(bytes(padded_bytes(tensor) - tensor.n_bytes))


def merge(parts: Sequence[ImatrixSums]) -> ImatrixSums:
    """Add importance matrices of one model up, as if they had been computed in one run.

    A tensor outside the layers may be missing in some: llama.cpp's tool leaves the output out.

    Raises:
        UsageError: They are of different models, or one does not say how many tokens it saw.
    """
    first = parts[0]
    entries: dict[str, ImatrixEntry] = {}
    for number, part in enumerate(parts, start=1):
        if not part.chunk_tokens:
            raise UsageError(
                f"importance matrix {number} of {len(parts)} does not say how many tokens it saw, "
                "so it cannot be weighed against others: it is in the old format",
                "compute it again, or use it alone",
            )
        if _layers(part) != _layers(first):
            (name, *_) = sorted(_layers(part) ^ _layers(first))
            raise _different(number, f"only one of them has {name}")
        for name, entry in part.entries.items():
            entries[name] = _added(entries[name], entry, number, name) if name in entries else entry
    n_tokens = sum(part.n_chunks * part.chunk_tokens for part in parts)
    datasets = dict.fromkeys(dataset for part in parts for dataset in part.datasets)
    return ImatrixSums(tuple(datasets), n_tokens // first.chunk_tokens, first.chunk_tokens, entries)


def _layers(sums: ImatrixSums) -> set[str]:
    return {name for name in sums.entries if name.startswith("blk.")}


def _added(one: ImatrixEntry, other: ImatrixEntry, number: int, name: str) -> ImatrixEntry:
    if one.sums.shape != other.sums.shape:
        raise _different(number, f"{name} is {one.sums.shape} and {other.sums.shape}")
    return ImatrixEntry(one.sums.astype(np.float64) + other.sums, one.counts + other.counts)


def _different(number: int, why: str) -> UsageError:
    return UsageError(
        f"importance matrices 1 and {number} are of different models: {why}",
        "join those of one model",
    )


def _broken(path: Path, why: str) -> IntegrityError:
    return IntegrityError(f"{path} is damaged: {why}", _HINT)


def _means(entry: ImatrixEntry) -> Weights:
    """Divide in F32, as llama.cpp does it: the quantized bytes depend on the last bit.

    A block whose columns all count for nothing would become zeros, and what enters them on another
    text would be lost.
    """
    sums = entry.sums.astype(np.float32)
    means = np.divide(sums, np.maximum(entry.counts, 1).astype(np.float32)[:, np.newaxis])
    means[list(entry.unreached())] = 1
    if means.all():
        return means
    floors = _FLOOR * means.mean(axis=1, keepdims=True, dtype=np.float64)
    return np.where(means == 0, floors.astype(np.float32), means)


def _read_old(path: Path, file: BufferedReader, size: int) -> ImatrixSums:
    old = OldParser(path, file, size).parse()
    entries = {
        # A file without calls holds means.
        name: ImatrixEntry(values.reshape(1, -1), np.array([max(n_calls, 1)], np.int64))
        for name, (n_calls, values) in old.entries.items()
    }
    return ImatrixSums(old.datasets, old.n_chunks, 0, entries)


def _read_gguf(path: Path, file: BufferedReader) -> ImatrixSums:
    header = read_header(path)
    if header.text("general.type") != "imatrix":
        raise IntegrityError(f"{path} is a GGUF file, but no importance matrix", _HINT)
    datasets = header.metadata.get("imatrix.datasets")
    n_chunks = header.number("imatrix.chunk_count")
    chunk_tokens = header.number("imatrix.chunk_size")
    if not isinstance(datasets, Array) or n_chunks is None or chunk_tokens is None:
        raise _broken(path, "it does not say what it was computed on (imatrix.datasets …)")
    if n_chunks < 0 or chunk_tokens < 0:
        raise _broken(path, f"it was computed on {n_chunks} chunks of {chunk_tokens} tokens")
    tensors = {tensor.name: tensor for tensor in header.tensors}
    names = [
        name.removesuffix(part)
        for name in tensors
        for part in (_SUMS, _COUNTS)
        if name.endswith(part)
    ]
    entries = {name: _read_pair(header, file, tensors, name) for name in dict.fromkeys(names)}
    return ImatrixSums(tuple(map(str, datasets.items)), n_chunks, chunk_tokens, entries)


def _read_pair(
    header: Header, file: BufferedReader, tensors: Mapping[str, TensorInfo], name: str
) -> ImatrixEntry:
    """Read one tensor's sums of squares and token counts, by expert."""
    values: list[NDArray[np.float32]] = []
    for part in (_SUMS, _COUNTS):
        tensor = tensors.get(name + part)
        if tensor is None or tensor.quant_type is not F32:
            raise _broken(header.path, f"{name}{part} is missing or not F32")
        file.seek(header.data_offset + tensor.offset)
        data = file.read(tensor.n_bytes)
        if len(data) != tensor.n_bytes:
            raise _broken(header.path, f"it became shorter while {tensor.name} was read")
        values.append(np.frombuffer(data, _F32))
    sums, counts = values
    if sums.size % counts.size or not (np.abs(counts) < 1 << 53).all():
        raise _broken(header.path, f"{name} has {sums.size} sums for {counts.size} counts")
    if (counts < 0).any():
        raise _broken(header.path, f"{name} was reached by {counts.min():g} tokens")
    whole = np.floor(counts + np.float64(0.5)).astype(np.int64)  # they are whole numbers
    return ImatrixEntry(sums.reshape(counts.size, -1), whole)
