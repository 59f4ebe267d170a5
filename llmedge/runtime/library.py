"""llama.cpp's library, loaded once: its version, its features and its log.

`llama_cpp` is reached through `library()` only, so that OpenMP is prepared before the library is
loaded and that importing llmedge loads nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import importlib.util
import logging
import sys
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmedge.core import interrupts
from llmedge.core.errors import UnsupportedError
from llmedge.core.settings import prepare_openmp
from llmedge.runtime.ggml_base import base_library

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

_log = logging.getLogger("llmedge.llama_cpp")
_listeners: list[Callable[[int, str], None]] = []
_keep_alive: list[object] = []
_last_error: deque[str] = deque([""], maxlen=1)

WHEEL_INDEX = "https://abetlen.github.io/llama-cpp-python/whl/cpu"
LEVEL_ERROR = 4
_DEFAULT_MAX_BUFFER_BYTES = 8 << 30


@dataclass(frozen=True, slots=True)
class LibraryInfo:
    """What this llama.cpp is.

    Attributes:
        binding_version: Version of llama-cpp-python.
        llama_cpp_version: llama.cpp's own version.
        commit: The commit of llama.cpp that it was built from, or "unknown".
        features: CPU features that its kernels use: `AVX2`, `NEON`, `DOTPROD` …
        can_offload: Whether it was built with a GPU backend.
        openmp: The spin setting in force, `NAME=value`.
    """

    binding_version: str
    llama_cpp_version: str
    commit: str
    features: tuple[str, ...]
    can_offload: bool
    openmp: str

    @property
    def label(self) -> str:
        """Version and commit, for records."""
        return f"llama.cpp {self.llama_cpp_version} ({self.commit})"


@functools.cache
def library() -> Any:
    """Return the module `llama_cpp.llama_cpp`, loaded and initialised.

    Raises:
        UnsupportedError: It is missing, does not load, or its structures have changed.
    """
    prepare_openmp()
    try:
        with interrupts.deferred():  # half an import would look like a broken library
            lib = _bindings()
    except (ImportError, OSError, RuntimeError, FileNotFoundError) as error:
        raise UnsupportedError(
            f"llama-cpp-python does not load: {error}",
            f"pip install llama-cpp-python --extra-index-url {WHEEL_INDEX}",
        ) from None
    # A newer binding may lay out its structures differently: defaults then land on wrong fields.
    quantize, context = (
        lib.llama_model_quantize_default_params(),
        lib.llama_context_default_params(),
    )
    if quantize.max_buf_size != _DEFAULT_MAX_BUFFER_BYTES or context.n_ubatch != 512:
        raise UnsupportedError(
            f"llama-cpp-python {_binding_version()} has structures that llmedge does not know",
            "pip install 'llama-cpp-python==0.3.36'",
        )
    callback = lib.llama_log_callback(_on_log)
    _keep_alive.append(callback)
    lib.llama_log_set(callback, ctypes.c_void_p(0))
    lib.llama_backend_init()
    return lib


def _bindings() -> Any:
    """Import llama-cpp-python's ctypes bindings without the package around them.

    The package's own `__init__` brings its high-level API: 25 MiB and 0.15 s in every process, for
    nothing that is used here.
    """
    if "llama_cpp" in sys.modules:
        import llama_cpp.llama_cpp as lib

        return lib
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None:
        raise ImportError("No module named 'llama_cpp'")
    sys.modules["llama_cpp"] = importlib.util.module_from_spec(spec)
    try:
        return importlib.import_module("llama_cpp.llama_cpp")
    finally:
        del sys.modules["llama_cpp"]  # whoever imports the package gets the whole of it


@functools.cache
def library_info() -> LibraryInfo:
    """Describe the library."""
    lib = library()
    return LibraryInfo(
        binding_version=_binding_version(),
        llama_cpp_version=lib.llama_version().decode(),
        commit=_commit(),
        features=_parse_features(lib.llama_print_system_info().decode()),
        can_offload=bool(lib.llama_supports_gpu_offload()),
        openmp=prepare_openmp(),
    )


def native_path(path: Path) -> bytes:
    """Encode a path as llama.cpp expects it: UTF-8 on every system."""
    return str(path).encode("utf-8", "surrogateescape")


def last_error() -> str:
    """Return the last line that llama.cpp logged as an error, "" before the first."""
    return _last_error[-1]


@contextlib.contextmanager
def log_listener(listener: Callable[[int, str], None]) -> Generator[None]:
    """Hand every piece of llama.cpp's log to a function, on the thread that logs it.

    Args:
        listener: Takes the level (`LEVEL_ERROR` …; 5 continues the line) and the text, which
            may be part of a line.
    """
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


@contextlib.contextmanager
def collected_errors() -> Generator[list[str]]:
    """Collect the lines that llama.cpp logs as errors, for an error of ours to quote.

    For native calls: interrupts are kept back meanwhile and raised at the end.
    """
    lines: list[str] = []

    def listen(level: int, text: str) -> None:
        if level == LEVEL_ERROR and text.strip():
            lines.append(text.strip())

    with interrupts.deferred(), log_listener(listen):
        yield lines


def _on_log(level: int, text: bytes, _: int | None) -> None:
    message = text.decode("utf-8", "replace")
    if level == LEVEL_ERROR and message.strip():
        _last_error.append(message.strip())
    for listener in tuple(_listeners):
        listener(level, message)
    if _log.isEnabledFor(logging.DEBUG) and message.strip():
        _log.debug("%s", message.rstrip())


def _binding_version() -> str:
    from importlib import metadata  # with it come a mail parser, zip files and sockets

    return metadata.version("llama-cpp-python")


def _commit() -> str:
    return str(base_library().ggml_commit().decode()).removesuffix("-dirty")


def _parse_features(system_info: str) -> tuple[str, ...]:
    pairs = (part.rpartition(":")[2].split("=") for part in system_info.split("|") if "=" in part)
    return tuple(name.strip() for name, value in pairs if value.strip() == "1")
