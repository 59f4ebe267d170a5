"""A fresh Python interpreter as a child: frames of bytes over its pipes, and how it ended.

It knows nothing of the parent's main module, so that a script, a notebook and a test can all start
it. What the frames hold is for those who speak them: `child` pickles, the engine speaks msgpack.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import threading
from typing import IO, TYPE_CHECKING, BinaryIO, cast

from llmedge.core.closable import Closable

if TYPE_CHECKING:
    from collections.abc import Mapping

_LENGTH = struct.Struct("<Q")
_ENTRY = (
    "import importlib, json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "getattr(importlib.import_module(sys.argv[2]), sys.argv[3])()"
)
_LAST_LINES = 8
_LAST_BYTES = 1 << 16
_LAST_WORDS_S = 1.0  # for what is in the pipe when a process has ended


class ChildDied(Exception):  # noqa: N818 - what happened; callers say what it means
    """The child was ended by a signal, or on Windows by an exception that nobody caught.

    Attributes:
        cause: `SIGSEGV`, `SIGKILL` …, or Windows's code.
        stderr: The end of what it wrote to stderr: an assertion's text, most often.
    """

    def __init__(self, cause: str, stderr: str) -> None:
        super().__init__(f"child ended by {cause}: {stderr}")
        self.cause = cause
        self.stderr = stderr


class Interpreter(Closable):
    """A child that runs one function of one module, which takes nothing.

    Args:
        module: The function's module; it is found as the parent would find it.
        function: The function's name.
        environment: The child's environment; `None` gives it the parent's.
    """

    def __init__(
        self, module: str, function: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _ENTRY, json.dumps(sys.path), module, function],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=None if environment is None else dict(environment),
        )
        self.input = cast("BinaryIO", self._process.stdin)
        self.output = cast("BinaryIO", self._process.stdout)
        self._last_words = _LastWords(cast("IO[bytes]", self._process.stderr))

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def wait(self, timeout_s: float) -> None:
        """Wait for its end, but no longer than that."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)

    def kill(self) -> None:
        """End it by force and wait for the end; twice is harmless."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End it and close the pipes; no thread may be reading them any more."""
        self.kill()
        for stream in (self.input, self.output):
            with contextlib.suppress(OSError):
                stream.close()
        self._last_words.join(_LAST_WORDS_S)

    def obituary(self) -> ChildDied | RuntimeError:
        """Wait for its end and tell the cause: `RuntimeError` is an exit, which is a bug."""
        code = self._process.wait()
        self._last_words.join(_LAST_WORDS_S)
        text = self._last_words.text
        if code < 0:
            return ChildDied(_signal_name(-code), "\n".join(text.splitlines()[-_LAST_LINES:]))
        if sys.platform == "win32" and code not in (0, 1):
            return ChildDied(f"code {code:#x}", "\n".join(text.splitlines()[-_LAST_LINES:]))
        return RuntimeError(f"a child process exited with code {code}:\n{text}")


class _LastWords(threading.Thread):
    """Reads what a child writes to stderr and keeps the end: a chatty library fills no disk.

    Whatever the child has started may hold the pipe open longer than it lives; the thread then
    reads on, and nobody waits for it.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(name="child-stderr", daemon=True)
        self._stream = stream
        self._kept = b""
        self.start()

    @property
    def text(self) -> str:
        """The end of what was written, so far."""
        return self._kept.decode("utf-8", "replace").strip()

    def run(self) -> None:
        """Read to the end."""
        with self._stream:
            while part := os.read(self._stream.fileno(), _LAST_BYTES):
                self._kept = (self._kept + part)[-_LAST_BYTES:]


def take_streams() -> tuple[BinaryIO, BinaryIO]:
    """Return the child's ends of the pipes, input and output, and prepare it for its life.

    What anything prints to stdout from now on, native code too, goes to stderr and not among the
    frames. Ctrl-C, which reaches the whole group, is left to the parent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return sys.stdin.buffer, output


def write_frame(stream: BinaryIO, data: bytes) -> None:
    """Write one frame: its length, then the bytes."""
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def read_frame(stream: BinaryIO, max_bytes: int | None = None) -> bytes:
    """Read one frame.

    Raises:
        EOFError: The other end is closed, or spoke of more than `max_bytes`.
    """
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(head)
    if max_bytes is not None and length > max_bytes:
        raise EOFError
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return data


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
