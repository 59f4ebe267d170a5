"""A function in a process of its own: it reports, can be killed, and takes nothing down with it.

Native code that crashes, hangs or eats memory ends the child; the caller gets a `ChildDied` to
translate. A child never outlives its parent: it reads a pipe that closes when the parent ends,
however it ends.

The two speak pickles over the child's standard input and output. It is a fresh interpreter that
knows nothing of the parent's main module, so that a script, a notebook and a test can all start it.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
from typing import TYPE_CHECKING, Any, BinaryIO, Generic, TypeVar, cast

from llmedge.core.closable import Closable
from llmedge.core.errors import LlmedgeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ResultT = TypeVar("ResultT")

_GRACE_S = 2.0
_LENGTH = struct.Struct("<Q")
_ENTRY = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from llmedge.host.child import enter; enter()"
)


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


class ChildTimedOut(Exception):  # noqa: N818
    """The child said nothing for longer than allowed and was killed."""


class Talk:
    """The child's end of the conversation, handed to the function as its first argument."""

    def __init__(self, output: BinaryIO, inbox: queue.Queue[object]) -> None:
        self._output = output
        self._inbox = inbox

    def say(self, message: object) -> None:
        """Send a message; it must be picklable."""
        _send(self._output, ("message", message))

    def hear(self) -> object:
        """Wait for the parent's next word."""
        return self._inbox.get()


class Child(Closable, Generic[ResultT]):
    """One run of a function in a fresh process.

    Args:
        target: A module-level function that takes a `Talk` and `args`. What it returns is
            `result`; an `LlmedgeError` that it raises is raised by `messages`.
        args: Picklable arguments.
        max_address_bytes: Limit of its address space, where the system has one.
    """

    def __init__(
        self,
        target: Callable[..., ResultT],
        *args: object,
        max_address_bytes: int | None = None,
    ) -> None:
        self._stderr = tempfile.TemporaryFile(prefix="llmedge-", suffix=".stderr")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-c", _ENTRY, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
        )
        self._input = cast("BinaryIO", self._process.stdin)
        self._output = cast("BinaryIO", self._process.stdout)
        self._inbox: queue.Queue[tuple[str, Any]] = queue.Queue()
        self._reader = threading.Thread(target=self._read, name="child-reader", daemon=True)
        self._reader.start()
        self._result: ResultT | None = None
        self._has_result = False
        self.say((max_address_bytes, target, args))

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def result(self) -> ResultT:
        """What the function returned, once `messages` has ended."""
        if not self._has_result:
            raise RuntimeError("the child has not returned yet")
        return cast("ResultT", self._result)

    def say(self, message: object) -> None:
        """Send the function a word that it waits for in `Talk.hear`."""
        with contextlib.suppress(OSError):  # it died; `messages` tells how
            _send(self._input, message)

    def messages(self, silence_s: float | None = None) -> Iterator[Any]:
        """Yield what the function says until it returns.

        Args:
            silence_s: How long it may say nothing before it is killed.

        Raises:
            LlmedgeError: The function raised it.
            RuntimeError: The function raised anything else, or the process exited; a bug.
            ChildDied: The process was ended by a signal.
            ChildTimedOut: It said nothing for too long.
        """
        while True:
            try:
                kind, value = self._inbox.get(timeout=silence_s)
            except queue.Empty:
                self.close()
                raise ChildTimedOut from None
            if kind == "message":
                yield value
            elif kind == "error":
                raise value
            elif kind == "end":
                raise self._obituary()
            else:
                self._result, self._has_result = value, True
                return

    def wait(self, silence_s: float | None = None) -> ResultT:
        """Drop the messages and return the result; raises what `messages` raises."""
        for _ in self.messages(silence_s):
            pass
        return self.result

    def close(self) -> None:
        """End the process, by force if it still runs; twice is harmless."""
        if self._has_result:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE_S)
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._input, self._output, self._stderr):
            with contextlib.suppress(OSError):
                stream.close()

    def _read(self) -> None:
        while True:
            try:
                self._inbox.put(_receive(self._output))
            except (EOFError, OSError, ValueError):
                self._inbox.put(("end", None))
                return

    def _obituary(self) -> Exception:
        code = self._process.wait()
        self._stderr.seek(0)
        text = self._stderr.read().decode("utf-8", "replace").strip()
        if code < 0:
            return ChildDied(_signal_name(-code), "\n".join(text.splitlines()[-8:]))
        if sys.platform == "win32" and code not in (0, 1):
            return ChildDied(f"code {code:#x}", "\n".join(text.splitlines()[-8:]))
        return RuntimeError(f"a child process exited with code {code}:\n{text}")


def enter() -> None:
    """Run in the child: prepare the process, call the function, send what came of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which decides
    # What anything prints must not end up among the pickles.
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    inbox: queue.Queue[object] = queue.Queue()
    threading.Thread(target=_listen, args=(inbox,), daemon=True).start()
    max_address_bytes, target, args = cast("tuple[int | None, Any, tuple[Any, ...]]", inbox.get())
    _limit_address_space(max_address_bytes)
    try:
        outcome = ("result", target(Talk(output, inbox), *args))
    except LlmedgeError as error:
        outcome = ("error", error)
    except BaseException:  # noqa: BLE001 - it crosses the process border as text
        outcome = ("error", RuntimeError(f"in a child process:\n{traceback.format_exc()}"))
    with contextlib.suppress(BrokenPipeError):
        try:
            _send(output, outcome)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            _send(output, ("error", RuntimeError(f"a child's result has no pickle: {error}")))
    # The interpreter's own end would wait for the thread that reads stdin, and abort.
    os._exit(0)


def _send(stream: BinaryIO, message: object) -> None:
    data = pickle.dumps(message)
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def _receive(stream: BinaryIO) -> tuple[str, Any]:
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(head)
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return pickle.loads(data)


def _listen(inbox: queue.Queue[object]) -> None:
    """Hand on the parent's words; when the pipe closes, the parent is gone, and so are we."""
    while True:
        try:
            inbox.put(_receive(sys.stdin.buffer))
        except (EOFError, OSError):
            os._exit(130)
        except BaseException:  # noqa: BLE001 - a word that cannot be read must not leave us waiting
            traceback.print_exc()
            os._exit(1)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _limit_address_space(max_bytes: int | None) -> None:
    if max_bytes is None or sys.platform != "linux":
        return
    import resource  # not on Windows

    resource.setrlimit(resource.RLIMIT_AS, (max_bytes, max_bytes))
