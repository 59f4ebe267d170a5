"""Ctrl-C and SIGTERM, kept back while native code runs.

Python delivers a signal at the next step of Python code. Inside a native call that is a callback,
and an exception cannot pass from there through C: it would be printed and forgotten. So whoever
calls into a library wraps the call in `deferred`, and what arrived meanwhile is raised at its end.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator


class _State(threading.local):
    """One thread's; signals are delivered to the main thread only."""

    depth = 0
    kept: BaseException | None = None


_state = _State()


def deliver(error: BaseException) -> None:
    """Raise an interrupt now, or at the end of the native call that this thread is in."""
    if _state.depth == 0:
        raise error
    _state.kept = error


def is_pending() -> bool:
    """Whether an interrupt waits for the native call to end; callbacks may ask it to hurry."""
    return _state.kept is not None


@contextlib.contextmanager
def deferred() -> Generator[None]:
    """Keep interrupts back in this thread until the block has ended."""
    hold()
    try:
        yield
    finally:
        release()


def hold() -> None:
    """Begin a native call; for hot paths, where `deferred` would cost too much."""
    _state.depth += 1


def release() -> None:
    """End it, and raise what came meanwhile."""
    _state.depth -= 1
    if _state.depth == 0 and _state.kept is not None:
        error, _state.kept = _state.kept, None
        raise error
