"""A function in a process of its own: it reports, can be killed, and takes nothing down with it.

Native code that crashes, hangs or eats memory ends the child; the caller gets a `ChildDied` to
translate. A child never outlives its parent: it watches a pipe that closes when the parent ends,
however it ends.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast

from llmedge.core.errors import LlmedgeError

ResultT = TypeVar("ResultT")

_GRACE_S = 2.0


class ChildDied(Exception):  # noqa: N818 - what happened; callers say what it means
    """The child ended without a result.

    Attributes:
        signal_name: `SIGSEGV`, `SIGKILL` …, or `None` when it ended by itself.
        exit_code: Its exit code otherwise.
        stderr: The end of what it wrote to stderr: an assertion's text, most often.
    """

    def __init__(self, signal_name: str | None, exit_code: int | None, stderr: str) -> None:
        super().__init__(f"child ended by {signal_name or f'exit code {exit_code}'}: {stderr}")
        self.signal_name = signal_name
        self.exit_code = exit_code
        self.stderr = stderr


class ChildTimedOut(Exception):  # noqa: N818
    """The child said nothing for longer than allowed and was killed."""


class Talk:
    """The child's end of the conversation, handed to the function as its first argument."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def say(self, message: object) -> None:
        """Send a message; it must be picklable."""
        self._connection.send(("message", message))

    def hear(self) -> object:
        """Wait for the parent's next word."""
        return self._connection.recv()


class Child(Generic[ResultT]):
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
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        life, self._life = context.Pipe(duplex=False)
        descriptor, name = tempfile.mkstemp(prefix="llmedge-", suffix=".stderr")
        os.close(descriptor)
        self._stderr = Path(name)
        self._process = context.Process(
            target=_enter,
            args=(theirs, life, str(self._stderr), max_address_bytes, target, args),
            daemon=True,
        )
        self._process.start()
        theirs.close()
        life.close()
        self._result: ResultT | None = None
        self._has_result = False

    @property
    def pid(self) -> int:
        """The process's id."""
        return cast("int", self._process.pid)

    @property
    def result(self) -> ResultT:
        """What the function returned, once `messages` has ended."""
        if not self._has_result:
            raise RuntimeError("the child has not returned yet")
        return cast("ResultT", self._result)

    def say(self, message: object) -> None:
        """Send the function a word that it waits for in `Talk.hear`."""
        with contextlib.suppress(BrokenPipeError):  # it died; `messages` tells how
            self._connection.send(message)

    def messages(self, silence_s: float | None = None) -> Iterator[Any]:
        """Yield what the function says until it returns.

        Args:
            silence_s: How long it may say nothing before it is killed.

        Raises:
            LlmedgeError: The function raised it.
            RuntimeError: The function raised anything else; its traceback is the message.
            ChildDied: It ended without a result.
            ChildTimedOut: It said nothing for too long.
        """
        while True:
            try:
                if not self._connection.poll(silence_s):
                    self.close()
                    raise ChildTimedOut
                kind, value = self._connection.recv()
            except (EOFError, ConnectionResetError):
                raise self._obituary() from None
            if kind == "message":
                yield value
            elif kind == "error":
                raise value
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
        if self._process.is_alive():
            if self._has_result:
                self._process.join(_GRACE_S)
            if self._process.is_alive():
                self._process.kill()
        self._process.join()
        self._connection.close()
        self._life.close()
        self._stderr.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _obituary(self) -> ChildDied:
        self._process.join(_GRACE_S)
        code = self._process.exitcode
        with contextlib.suppress(OSError):
            text = self._stderr.read_text(encoding="utf-8", errors="replace")
            return ChildDied(_signal_name(code), code, "\n".join(text.strip().splitlines()[-8:]))
        return ChildDied(_signal_name(code), code, "")


def _signal_name(exit_code: int | None) -> str | None:
    if exit_code is None or exit_code >= 0:
        return None
    try:
        return signal.Signals(-exit_code).name
    except ValueError:
        return f"signal {-exit_code}"


def _enter(
    connection: Connection,
    life: Connection,
    stderr: str,
    max_address_bytes: int | None,
    target: Callable[..., object],
    args: tuple[object, ...],
) -> None:
    """Run in the child: prepare the process, call the function, send what came of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which decides
    threading.Thread(target=_die_with_parent, args=(life,), daemon=True).start()
    descriptor = os.open(stderr, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    _limit_address_space(max_address_bytes)
    try:
        outcome: tuple[str, object] = ("result", target(Talk(connection), *args))
    except LlmedgeError as error:
        outcome = ("error", error)
    except BaseException:  # noqa: BLE001 - it crosses the process border as text
        outcome = ("error", RuntimeError(f"in a child process:\n{traceback.format_exc()}"))
    with contextlib.suppress(BrokenPipeError):
        try:
            connection.send(outcome)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            connection.send(("error", RuntimeError(f"a child's result has no pickle: {error}")))


def _die_with_parent(life: Connection) -> None:
    with contextlib.suppress(EOFError, OSError):
        life.recv()
    os._exit(130)


def _limit_address_space(max_bytes: int | None) -> None:
    if max_bytes is None or sys.platform != "linux":
        return
    import resource  # not on Windows

    resource.setrlimit(resource.RLIMIT_AS, (max_bytes, max_bytes))
