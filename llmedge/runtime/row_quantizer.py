"""ggml's row quantizer: float32 rows to blocks and back, the interpreter free meanwhile.

Any number of threads may call it at once. The bytes are those of `llama_model_quantize`.
"""

from __future__ import annotations

import ctypes
import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from llmedge.core.errors import IntegrityError, UnsupportedError
from llmedge.runtime.ggml_base import base_library

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmedge.gguf.quant_types import QuantType


def quantize_rows(
    quant_type: QuantType,
    rows: NDArray[np.float32],
    importance: NDArray[np.float32] | None = None,
) -> NDArray[np.uint8]:
    """Quantize rows of one matrix.

    Args:
        quant_type: What they become; F32, F16 and BF16 too.
        rows: `(n_rows, n_columns)`, columns a multiple of the type's block.
        importance: Weight of each column's error, `(n_columns,)`; `None` weighs them alike.

    Returns:
        Their bytes.

    Raises:
        IntegrityError: A weight is not finite, or too large for the type.
    """
    rows = np.ascontiguousarray(rows, np.float32)
    # A sum costs next to nothing. Some of ggml's quantizers turn a NaN into a zero in silence.
    if not np.isfinite(rows.sum()) and not np.isfinite(rows).all():
        raise IntegrityError("a weight is not a finite number", "get the checkpoint again")
    if quant_type.name == "F32":
        out = rows.reshape(-1).view(np.uint8)
    else:
        out = np.empty(rows.shape[0] * quant_type.row_bytes(rows.shape[1]), np.uint8)
        kept = None if importance is None else np.ascontiguousarray(importance, np.float32)
        weights = None if kept is None else _address(kept)
        _prepare(quant_type.id)
        written = base_library().ggml_quantize_chunk(
            quant_type.id, _address(rows), _address(out), 0, *rows.shape, weights
        )
        if written != out.size:
            raise RuntimeError(f"ggml wrote {written} bytes of {out.size}")
    if not base_library().ggml_validate_row_data(quant_type.id, _address(out), out.size):
        raise IntegrityError(
            f"a weight is too large for {quant_type.name}", "use BF16, which has F32's range"
        )
    return out


def dequantize_rows(
    quant_type: QuantType, data: NDArray[np.uint8], n_columns: int
) -> NDArray[np.float32]:
    """Turn blocks into float32 rows.

    Args:
        quant_type: What they are; F32, F16 and BF16 too.
        data: Whole rows, contiguous bytes.
        n_columns: Weights of a row.

    Returns:
        `(n_rows, n_columns)`.

    Raises:
        UnsupportedError: ggml cannot read the type back.
    """
    if quant_type.name == "F32":
        return data.view(np.float32).reshape(-1, n_columns)
    to_float = base_library().ggml_get_type_traits(quant_type.id).contents.to_float
    if not to_float:
        raise UnsupportedError(f"weights of type {quant_type.name} cannot be read back")
    n_rows = data.size // quant_type.row_bytes(n_columns)
    out = np.empty((n_rows, n_columns), np.float32)
    to_float(data.ctypes.data, out.ctypes.data, out.size)
    return out


def _address(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


@functools.cache
def _prepare(type_id: int) -> None:
    """Build the lookup tables of the IQ types, once; ggml guards it with a lock."""
    base_library().ggml_quantize_init(type_id)
