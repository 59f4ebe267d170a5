"""Whether a file is still the one that was read: another may take its name at any moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.core.errors import IntegrityError

if TYPE_CHECKING:
    import os
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells a file from any other, and from itself after a write.

    Attributes:
        device: The disk's number.
        inode: The file's number there.
        n_bytes: Its size.
        mtime_ns: When it was last written.
    """

    device: int
    inode: int
    n_bytes: int
    mtime_ns: int


def stamp_of(status: os.stat_result) -> Stamp:
    """Return the stamp that the system's facts about a file amount to."""
    return Stamp(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def require_unchanged(path: Path, stamp: Stamp) -> None:
    """Make sure that a path still leads to the file that was read.

    Raises:
        IntegrityError: It was written, replaced or removed meanwhile.
    """
    try:
        now = stamp_of(path.stat())
    except OSError:
        now = None
    if now != stamp:
        raise IntegrityError(
            f"{path} changed while it was read",
            "run it again once nothing writes there",
        )
