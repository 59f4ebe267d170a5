"""A file in the making: appended to in small pieces, hashed as it grows, found again by its name.

Nothing but the file itself is kept: it is hashed anew by whoever goes on with it, so a part may be
cut short anywhere, by a kill or a power cut, and is still the beginning of the file.
"""

from __future__ import annotations

import errno
import hashlib
import os
from typing import TYPE_CHECKING

from llmedge.core.closable import Closable
from llmedge.core.errors import ResourceError
from llmedge.host.files import flush_folder

if TYPE_CHECKING:
    from pathlib import Path

    from llmedge.hub.repository import RemoteFile

_BLOCK_BYTES = 1 << 20
_SHA256_DIGITS = 64


class PartFile(Closable):
    """The beginning of a file.

    Args:
        path: Where it lies.
        file: What it will be.

    Attributes:
        n_bytes: How much of it is there.
    """

    def __init__(self, path: Path, file: RemoteFile) -> None:
        self._path, self._file_facts = path, file
        if path.is_symlink():  # it would lead the bytes elsewhere
            path.unlink()
        self._file = path.open("a+b", buffering=0)
        try:
            self._rehash()
        except BaseException:
            self.close()
            raise

    @property
    def missing_bytes(self) -> int:
        """How much is still to come."""
        return self._file_facts.n_bytes - self.n_bytes

    def append(self, data: bytes | memoryview) -> None:
        """Add bytes; they are in the file when this returns.

        Raises:
            ResourceError: The disk is full; what came before is kept.
        """
        rest = memoryview(data)
        while rest:
            try:
                n_written = self._file.write(rest) or 0
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise ResourceError(
                    f"the disk is full: {self.n_bytes} bytes of {self._file_facts.path} are kept",
                    "make room, and run the same again",
                ) from None
            self._digest.update(rest[:n_written])
            self.n_bytes += n_written
            rest = rest[n_written:]

    def is_sound(self) -> bool:
        """Whether the whole file has the hash that the Hub names."""
        return self._digest.hexdigest() == self._file_facts.oid

    def publish(self, place: Path) -> None:
        """Give the whole file its final name, once it is on the disk."""
        os.fsync(self._file.fileno())
        self.close()
        os.replace(self._path, place)  # noqa: PTH105 - the moment it exists
        flush_folder(place.parent)

    def start_anew(self) -> None:
        """Drop all that came."""
        self._file.truncate(0)
        self._rehash()

    def close(self) -> None:
        """Close it; it stays for the next attempt."""
        self._file.close()

    def _rehash(self) -> None:
        file = self._file_facts
        if os.fstat(self._file.fileno()).st_size > file.n_bytes:  # another program's
            self._file.truncate(0)
        if len(file.oid) == _SHA256_DIGITS:
            self._digest = hashlib.sha256()
        else:  # git's name for a blob
            self._digest = hashlib.sha1(b"blob %d\0" % file.n_bytes, usedforsecurity=False)
        self.n_bytes = 0
        self._file.seek(0)
        while block := self._file.read(_BLOCK_BYTES):
            self._digest.update(block)
            self.n_bytes += len(block)
