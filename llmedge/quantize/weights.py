"""The weights of a GGUF file as rows of float32, and what a quant type makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from llmedge.core.closable import Closable
from llmedge.core.errors import IntegrityError
from llmedge.host.files import RangeReader
from llmedge.runtime.row_quantizer import dequantize_rows, quantize_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from llmedge.gguf.quant_types import QuantType
    from llmedge.gguf.reader import Header, TensorInfo


Importance: TypeAlias = "Mapping[str, NDArray[np.float32]]"

_PART_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive rows of one matrix.

    Attributes:
        first: Index of the first among all rows of the tensor.
        rows: `(n_rows, n_in)`.
        importance: Weight of each column's error in this matrix, `(n_in,)`, where it is known.
    """

    first: int
    rows: NDArray[np.float32]
    importance: NDArray[np.float32] | None


class Weights(Closable):
    """Reads a file's weights.

    Args:
        header: The file's.
        importance: By tensor name, `(n_matrices, n_in)`, as `imatrix_file.Imatrix.weights`.
    """

    def __init__(self, header: Header, importance: Importance) -> None:
        self._header = header
        self._importance = importance
        self._file = RangeReader(header.path)
        self.tensors = {tensor.name: tensor for tensor in header.tensors}

    def parts(self, tensor: TensorInfo) -> Iterator[Part]:
        """Yield all rows, in parts that never cross from one matrix of a stack to the next."""
        n_in = tensor.shape[0]
        n_out = tensor.shape[1]
        n_at_once = max(1, _PART_BYTES // (4 * n_in))
        for matrix in range(n_matrices(tensor)):
            for start in range(0, n_out, n_at_once):
                first = matrix * n_out + start
                yield self._part(tensor, first, min(n_at_once, n_out - start))

    def sample(self, tensor: TensorInfo, n_rows: int) -> Iterator[Part]:
        """Yield about `n_rows` rows, evenly spread over every matrix of the tensor."""
        n_out = tensor.shape[1]
        n_each = min(n_out, max(4, n_rows // n_matrices(tensor)))
        places = [n_out * index // n_each for index in range(n_each)]
        for matrix in range(n_matrices(tensor)):
            parts = [self._part(tensor, matrix * n_out + place, 1) for place in places]
            yield Part(
                parts[0].first, np.concatenate([part.rows for part in parts]), parts[0].importance
            )

    def raw(self, tensor: TensorInfo) -> Iterator[tuple[int, memoryview]]:
        """Yield a tensor's bytes as they lie in the file, with their offset in the tensor."""
        for start in range(0, tensor.n_bytes, _PART_BYTES):
            size = min(_PART_BYTES, tensor.n_bytes - start)
            yield start, self._read(tensor, start, size)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _part(self, tensor: TensorInfo, first: int, n_rows: int) -> Part:
        n_in = tensor.shape[0]
        row_bytes = tensor.quant_type.row_bytes(n_in)
        data = self._read(tensor, first * row_bytes, n_rows * row_bytes)
        rows = dequantize_rows(tensor.quant_type, np.frombuffer(data, np.uint8), n_in)
        # A sum costs next to nothing; it may overflow where every weight is finite.
        if not np.isfinite(rows.sum()) and not np.isfinite(rows).all():
            raise IntegrityError(
                f"{self._header.path} is damaged: a weight of {tensor.name} is not a finite number",
                "get the file again, or convert it again",
            )
        return Part(first, rows, self._importance_of(tensor, first // tensor.shape[1]))

    def _importance_of(self, tensor: TensorInfo, matrix: int) -> NDArray[np.float32] | None:
        """Return a matrix's importance as the quantizer finds it; another size does not count."""
        values = self._importance.get(tensor.name)
        n_in = tensor.shape[0]
        if values is None or values.size != n_in * n_matrices(tensor):
            return None
        return values.reshape(-1, n_in)[matrix]

    def _read(self, tensor: TensorInfo, start: int, size: int) -> memoryview:
        data = self._file.read(self._header.data_offset + tensor.offset + start, size)
        if len(data) != size:
            raise IntegrityError(f"{self._header.path} became shorter while it was read")
        return data


def n_matrices(tensor: TensorInfo) -> int:
    """Return how many matrices a tensor stacks: its experts, or 1."""
    return tensor.n_weights // (tensor.shape[0] * tensor.shape[1])


def round_trip(part: Part, quant_type: QuantType) -> NDArray[np.float32]:
    """Return what is left of rows when they are quantized and read back, `(n_rows, n_in)`."""
    data = quantize_rows(quant_type, part.rows, part.importance)
    return dequantize_rows(quant_type, data, part.rows.shape[1])


def weighted_error(part: Part, approximation: NDArray[np.float32]) -> float:
    """Return the squared error that a matrix's products have with such inputs, up to a factor.

    Source: the mean square of the product's error for independent inputs with these second moments.
    """
    squares = np.square(approximation - part.rows, dtype=np.float64).sum(axis=0)
    return float(squares.sum() if part.importance is None else squares @ part.importance)
