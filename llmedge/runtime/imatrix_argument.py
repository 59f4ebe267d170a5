"""An importance matrix as llama.cpp's quantizer takes it."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np

from llmedge.gguf.imatrix_file import read_imatrix

if TYPE_CHECKING:
    from pathlib import Path


def imatrix_argument(lib: Any, path: Path | None) -> Any:
    """Return the quantizer's argument, which keeps the weights' memory alive.

    Args:
        lib: The library.
        path: The matrix's file; `None` stands for any matrix, in a dry run.

    Raises:
        NotFoundError: There is no such file.
        IntegrityError: It is damaged.
    """
    weights = {"any": np.ones((1, 1), np.float32)} if path is None else read_imatrix(path).weights
    array = (lib.llama_model_imatrix_data * (len(weights) + 1))()  # it ends in an empty entry
    for entry, (name, values) in zip(array, weights.items(), strict=False):
        entry.name, entry.size = name.encode(), values.size
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    array.weights = weights
    return array
