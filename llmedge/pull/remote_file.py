"""A file on the Hub that is read in pieces where they are wanted, and never kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.core.closable import Closable
from llmedge.core.errors import ConnectionLostError, UnsupportedError

if TYPE_CHECKING:
    from llmedge.hub.client import Hub
    from llmedge.hub.repository import RemoteFile, Repository
    from llmedge.pull.line import Line

_MAX_SKIP_BYTES = 64 << 20  # a server that knows no ranges sends all that lies before


class RangeFile(Closable):
    """A file on the Hub as a file on the disk is read; several threads may.

    Its pieces are held to their place and the file's length. What the file hashes to is known of
    the whole alone and is not looked at.

    Args:
        hub: Where it is.
        repository: What it belongs to.
        file: The file.
        line: The rate, the hours, and how often to try again.
    """

    def __init__(self, hub: Hub, repository: Repository, file: RemoteFile, line: Line) -> None:
        self._hub, self._repository, self._file, self._line = hub, repository, file, line

    @property
    def n_bytes(self) -> int:
        """The file's size."""
        return self._file.n_bytes

    @property
    def identity(self) -> str:
        """What tells this file from any other: its hash, as the Hub says."""
        return self._file.oid

    def close(self) -> None:
        """Nothing is kept open between two pieces."""

    def read(self, offset: int, n_bytes: int) -> memoryview:
        """Return bytes at a position; fewer when the file ends before.

        Raises:
            NetworkError: Nothing more comes, or access is refused.
            UnsupportedError: The server knows no ranges.
            IntegrityError: The server's file has another size.
        """
        n_bytes = max(0, min(n_bytes, self.n_bytes - offset))
        data, idle = bytearray(), 0
        while len(data) < n_bytes:
            self._line.wait_until_open()
            before = len(data)
            lost = ConnectionLostError(f"{self._file.path}: the server ended at {offset + before}")
            try:
                self._receive(data, offset, n_bytes)
            except ConnectionLostError as error:
                lost = error
            if len(data) < n_bytes:
                idle = 0 if len(data) > before else idle + 1
                self._line.recover(lost, idle)
        return memoryview(data)

    def _receive(self, data: bytearray, offset: int, n_bytes: int) -> None:
        """Append what comes until all is there."""
        start = offset + len(data)
        with self._hub.open(self._repository, self._file, start, offset + n_bytes) as body:
            skip = start - body.start
            if skip > _MAX_SKIP_BYTES:
                raise UnsupportedError(
                    "the server knows no ranges: it would send the file for each piece",
                    f"llmedge pull {self._repository.repo}",
                )
            for piece in body:
                self._line.take(len(piece))
                data += memoryview(piece)[skip : skip + n_bytes - len(data)]
                skip = max(0, skip - len(piece))
                if len(data) == n_bytes:
                    return
