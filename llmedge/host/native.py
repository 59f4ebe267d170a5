"""Functions of the system's C library."""

from __future__ import annotations

import ctypes
import sys
from typing import Any


def byte_test() -> Any:  # noqa: ANN401 - ctypes has no type for a function pointer
    """Return a C function that tells whether the byte at an address is set, as 0 or 1.

    The buffer holds one byte, 0 or 1, and a final zero: the function is `strlen`. Unlike a Python
    callback it needs no interpreter lock, and costs no more than a call.
    """
    runtime = ctypes.cdll.msvcrt if sys.platform == "win32" else ctypes.CDLL(None)
    return runtime.strlen
