"""What the system does with files beyond reading and writing them."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
import weakref
from typing import TYPE_CHECKING

from llmedge.core.closable import Closable

if TYPE_CHECKING:
    from pathlib import Path


def flush(path: Path) -> None:
    """Wait until a file's contents are on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Wait until a folder's names are on the disk; Windows does that by itself."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append(path: Path, data: bytes) -> None:
    """Append bytes in one write, so that two processes never mix theirs."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


class RangeReader(Closable):
    """A file that several threads read at positions of their own; nothing is kept in memory.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():  # a pipe would be waited for
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._lock = threading.Lock()
        self._closer = weakref.finalize(self, os.close, self._descriptor)

    @property
    def n_bytes(self) -> int:
        """The file's size."""
        return os.fstat(self._descriptor).st_size

    def read(self, offset: int, n_bytes: int) -> memoryview:
        """Return bytes at a position; fewer when the file ends before."""
        buffer = memoryview(bytearray(n_bytes))
        done = 0
        while done < n_bytes:
            n_read = self._read_into(buffer[done:], offset + done)
            if n_read == 0:
                return buffer[:done]
            done += n_read
        return buffer

    def close(self) -> None:
        """Close the file; twice is harmless, and without it it closes with the last reader."""
        self._closer()

    def _read_into(self, buffer: memoryview, offset: int) -> int:
        if sys.platform != "win32":
            return os.preadv(self._descriptor, [buffer], offset)
        with self._lock:  # Windows has no read at a position
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            data = os.read(self._descriptor, len(buffer))
        buffer[: len(data)] = data
        return len(data)


class LockFile(Closable):
    """A file that one process holds at a time; the system lets go of it with the process.

    Args:
        path: The file; it is made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self.is_ours = False
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            is_locked = _lock(descriptor)
            # Its last holder may have removed it between our two calls: then it locks nothing.
            if not is_locked or _is_at(path, descriptor):
                break
            os.close(descriptor)
        self._descriptor, self.is_ours = descriptor, is_locked

    def close(self, *, remove: bool = False) -> None:
        """Let go of it, and remove it if it is of no more use; twice is harmless."""
        if self._descriptor is None:
            return
        is_removed = remove and self.is_ours and sys.platform != "win32"
        if is_removed:  # before it is free: nobody may wait for a file that goes away
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = None
        if remove and self.is_ours and not is_removed:  # Windows removes no open file
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
