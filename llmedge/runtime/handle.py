"""A C object with one owner: closed once, harmless twice, an error and not a crash afterwards."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

from llmedge.core.closable import Closable

if TYPE_CHECKING:
    from collections.abc import Callable


class ClosedHandleError(RuntimeError):
    """Something was used after it was closed: a bug in the caller."""


def _free(free: Callable[[Any], None], pointer: Any, owner: Handle | None) -> None:
    del owner
    free(pointer)


class Handle(Closable):
    """Owns a pointer and frees it when closed.

    Args:
        pointer: What the C function returned; not null.
        free: Takes the pointer.
        owner: The handle that this one lives inside; closing it closes this one first.

    Use as a context manager, or call `close`. A handle that is forgotten is freed when it is
    collected or when Python ends.
    """

    def __init__(
        self, pointer: Any, free: Callable[[Any], None], owner: Handle | None = None
    ) -> None:
        self._pointer = pointer
        self._lock = threading.RLock()
        self._dependents: weakref.WeakSet[Handle] = weakref.WeakSet()
        # The finalizer holds the owner: it cannot be freed first, not even in a cycle of garbage.
        self._finalizer = weakref.finalize(self, _free, free, pointer, owner)
        if owner is not None:
            owner._dependents.add(self)

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return not self._finalizer.alive

    @property
    def pointer(self) -> Any:
        """The pointer, for calls into the library.

        Raises:
            ClosedHandleError: The handle is closed.
        """
        if not self._finalizer.alive:
            raise ClosedHandleError(f"{type(self).__name__} is closed")
        return self._pointer

    def close(self) -> None:
        """Free it, after everything that lives inside it; twice is harmless.

        Waits for a call in another thread that holds the lock.
        """
        with self._lock:
            for dependent in list(self._dependents):
                dependent.close()
            self._finalizer()
