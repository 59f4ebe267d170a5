"""ggml's base library, which the whole of llama.cpp does not have to be loaded for."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from pathlib import Path
from typing import Any

from llmedge.core.errors import UnsupportedError
from llmedge.core.settings import prepare_openmp


class _TypeTraits(ctypes.Structure):
    """What ggml knows of a quant type. Source: ggml/include/ggml.h `struct ggml_type_traits`."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("from_float_ref", ctypes.c_void_p),
    )


@functools.cache
def base_library() -> Any:
    """Load the library and declare what is used of it.

    Raises:
        UnsupportedError: llama-cpp-python does not carry it.
    """
    prepare_openmp()
    spec = importlib.util.find_spec("llama_cpp")
    folder = Path(str(spec and spec.origin)).parent / "lib"
    for name in ("libggml-base.so", "libggml-base.dylib", "ggml-base.dll", "libggml-base.dll"):
        if (folder / name).is_file():
            library = ctypes.CDLL(str(folder / name))
            break
    else:
        raise UnsupportedError(f"llama-cpp-python has no ggml-base library in {folder}")
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


_POINTER, _SIZE, _INT, _INT64 = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int64
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "ggml_backend_buffer_is_host": (ctypes.c_bool, [_POINTER]),
    "ggml_backend_tensor_get": (None, [_POINTER, _POINTER, _SIZE, _SIZE]),
    "ggml_commit": (ctypes.c_char_p, []),
    "ggml_get_type_traits": (ctypes.POINTER(_TypeTraits), [_INT]),
    "ggml_op_name": (ctypes.c_char_p, [_INT]),
    "ggml_quantize_chunk": (
        _SIZE,
        [_INT, _POINTER, _POINTER, _INT64, _INT64, _INT64, _POINTER],
    ),
    "ggml_quantize_init": (None, [_INT]),
    "ggml_tensor_overhead": (_SIZE, []),
    "ggml_validate_row_data": (ctypes.c_bool, [_INT, _POINTER, _SIZE]),
}
