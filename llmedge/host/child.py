"""A function in a process of its own: it reports, can be killed, and takes nothing down with it.

Native code that crashes, hangs or eats memory ends the child; the caller gets a `ChildDied` to
translate. A child never outlives its parent: it reads a pipe that closes when the parent ends,
however it ends.

The two speak pickles over the child's standard input and output. It is a fresh interpreter that
knows nothing of the parent's main module, so that a script, a notebook and a test can all start it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any, BinaryIO, Generic, TypeVar, cast

from llmedge.core.closable import Closable
from llmedge.core.errors import LlmedgeError
from llmedge.host.interpreter import (
    ChildDied,
    Interpreter,
    read_frame,
    take_streams,
    write_frame,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Child", "ChildDied", "ChildTimedOut", "Talk"]

ResultT = TypeVar("ResultT")

_GRACE_S = 2.0


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
        self._interpreter = Interpreter("llmedge.host.child", "enter")
        self._inbox: queue.Queue[tuple[str, Any]] = queue.Queue()
        self._reader = threading.Thread(target=self._read, name="child-reader", daemon=True)
        self._reader.start()
        self._result: ResultT | None = None
        self._has_result = False
        self.say((max_address_bytes, target, args))

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._interpreter.pid

    @property
    def result(self) -> ResultT:
        """What the function returned, once `messages` has ended."""
        if not self._has_result:
            raise RuntimeError("the child has not returned yet")
        return cast("ResultT", self._result)

    def say(self, message: object) -> None:
        """Send the function a word that it waits for in `Talk.hear`."""
        with contextlib.suppress(OSError):  # it died; `messages` tells how
            _send(self._interpreter.input, message)

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
                raise self._interpreter.obituary()
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
            self._interpreter.wait(_GRACE_S)
        self._interpreter.kill()
        self._reader.join()
        self._interpreter.close()

    def _read(self) -> None:
        while True:
            try:
                self._inbox.put(pickle.loads(read_frame(self._interpreter.output)))
            except (EOFError, OSError, ValueError):
                self._inbox.put(("end", None))
                return


def enter() -> None:
    """Run in the child: prepare the process, call the function, send what came of it."""
    stream, output = take_streams()
    inbox: queue.Queue[object] = queue.Queue()
    threading.Thread(target=_listen, args=(stream, inbox), daemon=True).start()
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
    write_frame(stream, pickle.dumps(message))


def _listen(stream: BinaryIO, inbox: queue.Queue[object]) -> None:
    """Hand on the parent's words; when the pipe closes, the parent is gone, and so are we."""
    while True:
        try:
            inbox.put(pickle.loads(read_frame(stream)))
        except (EOFError, OSError):
            os._exit(130)
        except BaseException:  # noqa: BLE001 - a word that cannot be read must not leave us waiting
            traceback.print_exc()
            os._exit(1)


def _limit_address_space(max_bytes: int | None) -> None:
    if max_bytes is None or sys.platform != "linux":
        return
    import resource  # not on Windows

    resource.setrlimit(resource.RLIMIT_AS, (max_bytes, max_bytes))
