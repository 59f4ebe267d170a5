"""Which of a file's pages the system holds in memory, and how to make it let go of them.

Linux tells only owners and writers of a file. Source: mincore(2), posix_fadvise(2).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_STEP_BYTES = 1 << 28  # addresses that are mapped at once


def drop_pages(path: Path) -> None:
    """Ask the system to forget a file's pages; those that a process maps stay. No-op elsewhere."""
    if sys.platform != "linux":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if os.access(path, os.W_OK):
            os.fdatasync(descriptor)  # pages that are still to be written are never dropped
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def resident_share(path: Path) -> float | None:
    """Return the share of a file's pages that are in memory; `None` where nobody tells."""
    n_bytes = path.stat().st_size
    if sys.platform != "linux" or n_bytes == 0:
        return None
    n_resident = n_pages = 0
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for offset in range(0, n_bytes, _STEP_BYTES):
            length = min(_STEP_BYTES, n_bytes - offset)
            pages = _resident_pages(descriptor, offset, length)
            if pages is None:
                return None
            n_pages += len(pages)
            n_resident += sum(page & 1 for page in pages)
    finally:
        os.close(descriptor)
    return n_resident / n_pages


def _resident_pages(descriptor: int, offset: int, length: int) -> bytes | None:
    mapped = mmap.mmap(descriptor, length, access=mmap.ACCESS_COPY, offset=offset)
    first = ctypes.c_char.from_buffer(mapped)
    pages = (ctypes.c_ubyte * -(-length // mmap.PAGESIZE))()
    try:
        failed = ctypes.CDLL(None).mincore(
            ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(length), pages
        )
    finally:
        del first  # or the mapping counts as exported
        mapped.close()
    return None if failed else bytes(pages)
