"""Tensors read, edited, quantized and written, one range of rows after the other.

Workers turn ranges into bytes; the caller's thread puts them into the file in order. Memory holds
a few ranges, never a tensor.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.core.errors import IntegrityError
from llmedge.gguf.writer import padded_bytes
from llmedge.runtime.row_quantizer import quantize_rows

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from llmedge.convert.rows import Rows
    from llmedge.core.progress import Task
    from llmedge.gguf.reader import TensorInfo
    from llmedge.store.resumable import ResumableFile

_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """One tensor of the file to be written.

    Attributes:
        info: Name, shape, type and place.
        rows: Its weights.
        importance: Weight of each column's error, `(n_matrices or 1, n_columns)`.
    """

    info: TensorInfo
    rows: Rows
    importance: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """How to stream.

    Attributes:
        n_threads: Workers.
        range_bytes: Size of a range of rows as float32.
    """

    n_threads: int
    range_bytes: int


def write_tensors(
    file: ResumableFile,
    header: bytes,
    tensors: Sequence[OutputTensor],
    options: StreamOptions,
    task: Task,
) -> None:
    """Write a GGUF file, going on after the pieces that the file has already.

    Args:
        file: Where to; each tensor is a piece, the first with the header before it.
        header: Everything before the data.
        tensors: In the file's order.
        options: How.
        task: Is told the file's length so far, and the tensor at work.

    Raises:
        IntegrityError: A weight cannot be stored in its type, or the checkpoint ends early.
        OSError: The disk is full or read-only.
    """
    if file.n_pieces == 0:
        file.write(header)
    todo = tensors[file.n_pieces :]
    with ThreadPoolExecutor(options.n_threads, thread_name_prefix="convert") as pool:
        results = _encoded(pool, todo, options)
        try:
            for tensor in todo:
                n_left = tensor.info.n_bytes
                while n_left:
                    data = next(results)
                    file.write(data)
                    n_left -= len(data)
                    task.update(file.position, tensor.info.name)
                file.write(bytes(padded_bytes(tensor.info) - tensor.info.n_bytes))
                file.end_piece()
        finally:
            results.close()
            pool.shutdown(cancel_futures=True)


def _encoded(
    pool: ThreadPoolExecutor, tensors: Sequence[OutputTensor], options: StreamOptions
) -> Generator[memoryview]:
    """Yield the bytes of all ranges in order, keeping a few ahead of the writer."""
    ahead: deque[Future[memoryview]] = deque()
    for tensor in tensors:
        for start, stop in _ranges(tensor, options.range_bytes):
            ahead.append(pool.submit(_encode, tensor, start, stop))
            if len(ahead) > options.n_threads:
                yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()


def _ranges(tensor: OutputTensor, range_bytes: int) -> Iterator[tuple[int, int]]:
    """Cut a tensor into ranges of rows; none crosses from one stacked matrix to the next."""
    rows = tensor.rows
    per_matrix = rows.shape[-2] if len(rows.shape) > 1 else 1
    step = max(1, range_bytes // (rows.n_columns * _FLOAT_BYTES))
    step = max(rows.align, step // rows.align * rows.align)
    for base in range(0, rows.n_rows, per_matrix):
        for start in range(0, per_matrix, step):
            yield base + start, base + min(start + step, per_matrix)


def _encode(tensor: OutputTensor, start: int, stop: int) -> memoryview:
    rows, info = tensor.rows, tensor.info
    if rows.packed is not None and rows.packed.type_name == info.quant_type.name:
        data = rows.packed.read(start, stop)
        if len(data) != (stop - start) * info.quant_type.row_bytes(rows.n_columns):
            raise IntegrityError(f"{info.name} has blocks of another size than its shape")
        return memoryview(data)
    floats = rows.read(start, stop)
    if floats.shape != (stop - start, rows.n_columns):
        raise IntegrityError(f"{info.name} has rows of another size than its shape {rows.shape}")
    importance = tensor.importance
    if importance is not None:
        importance = importance[start // rows.shape[-2] if len(importance) > 1 else 0]
    try:
        return quantize_rows(info.quant_type, floats, importance).data
    except IntegrityError as error:
        raise IntegrityError(f"{info.name}: {error.message}", error.hint) from None
