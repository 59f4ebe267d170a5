"""What the system does with files beyond reading and writing them."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import TYPE_CHECKING

from llmedge.core.closable import Closable

if TYPE_CHECKING:
    from collections.abc import Generator
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
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._lock = threading.Lock()
        self._is_open = True

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
        """Close the file; twice is harmless."""
        if self._is_open:
            self._is_open = False
            os.close(self._descriptor)

    def _read_into(self, buffer: memoryview, offset: int) -> int:
        if sys.platform != "win32":
            return os.preadv(self._descriptor, [buffer], offset)
        with self._lock:  # Windows has no read at a position
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            data = os.read(self._descriptor, len(buffer))
        buffer[: len(data)] = data
        return len(data)


@contextlib.contextmanager
def exclusive(path: Path) -> Generator[bool]:
    """Hold a lock file; gives whether it is ours. The system lets go of it with the process."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        yield _lock(descriptor)
    finally:
        os.close(descriptor)


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
