"""A file written front to back in pieces, which a killed process goes on with.

Beside the file lies a journal: what the file will be, and after each finished piece its length and
the hash of all before. What is found is hashed before anything is added to it, so a piece that
never reached the disk is written again and not believed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from typing import TYPE_CHECKING, BinaryIO

from llmedge.core.closable import Closable
from llmedge.core.errors import UsageError
from llmedge.host.files import LockFile, flush_folder

if TYPE_CHECKING:
    from pathlib import Path

_PIECE = re.compile(r"^(\d+) (\d+) ([0-9a-f]{64})$", re.MULTILINE)
_BLOCK_BYTES = 4 << 20
_FLUSH_BYTES = 256 << 20


def partial_path(target: Path) -> Path:
    """Return where a file lies until it is finished."""
    return target.with_name(f".{target.name}.unfinished")


class ResumableFile(Closable):
    """A file in the making, and its lock.

    Args:
        target: The final name.
        identity: What the finished file is; another identity starts anew.
        resume: Whether to go on with what an earlier process left.

    Raises:
        UsageError: Another process is making it.
        OSError: It cannot be written.
    """

    def __init__(self, target: Path, identity: str, *, resume: bool = True) -> None:
        self.path = partial_path(target)
        self._journal_path = self.path.with_name(self.path.name + ".journal")
        self._target = target
        self._is_over = False
        self._files = contextlib.ExitStack()
        self._lock = LockFile(self.path.with_name(self.path.name + ".lock"))
        if not self._lock.is_ours:
            self._lock.close()
            raise UsageError(f"another process is writing {target}", "wait for it, or end it")
        for path in (self.path, self._journal_path):
            if path.is_symlink():  # it would lead the bytes elsewhere
                path.unlink()
        self._digest = hashlib.sha256()
        self._unflushed = 0
        self.position = 0
        self.n_pieces = 0
        try:
            self._open(identity, resume=resume)
        except BaseException:
            self.close()
            raise

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        self._file.write(data)
        self._digest.update(data)
        self.position += len(data)
        self._unflushed += len(data)
        if self._unflushed >= _FLUSH_BYTES:  # else the disk's queue grows, and the end takes long
            self._flush()

    def end_piece(self) -> None:
        """Note that all before is whole."""
        self._file.flush()
        self.n_pieces += 1
        self._journal.write(self._line())

    def finish(self) -> str:
        """Wait until all is on the disk and return the SHA-256; `publish` makes it appear."""
        self._flush()
        self._files.close()
        return self._digest.hexdigest()

    def publish(self) -> None:
        """Put the finished file under its final name, and drop what was kept beside it."""
        os.replace(self.path, self._target)  # noqa: PTH105 - the moment it exists
        flush_folder(self.path.parent)
        self._journal_path.unlink(missing_ok=True)
        self._is_over = True

    def discard(self) -> None:
        """Remove what was written: nothing can go on with it."""
        self._files.close()
        for path in (self.path, self._journal_path):
            path.unlink(missing_ok=True)
        self._is_over = True

    def close(self) -> None:
        """Let go of the file, which stays for the next process unless it was published."""
        self._files.close()
        self._lock.close(remove=self._is_over)

    def _flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._unflushed = 0

    def _open(self, identity: str, *, resume: bool) -> None:
        pieces = self._read_journal(identity) if resume else []
        if pieces and self._believe(pieces):
            self._file = self._opened(self.path, "r+b")
            self._file.truncate(self.position)
            self._file.seek(self.position)
        else:
            self._digest, self.position, self.n_pieces = hashlib.sha256(), 0, 0
            self._file = self._opened(self.path, "wb")
        believed = self._line() if self.n_pieces else b""
        new = self._journal_path.with_name(self._journal_path.name + ".new")
        new.write_bytes(f"{identity}\n".encode() + believed)
        os.replace(new, self._journal_path)  # noqa: PTH105 - a kill here must not lose it
        self._journal = self._opened(self._journal_path, "ab", buffering=0)

    def _line(self) -> bytes:
        return f"{self.n_pieces} {self.position} {self._digest.hexdigest()}\n".encode()

    def _opened(self, path: Path, mode: str, *, buffering: int = -1) -> BinaryIO:
        file = path.open(mode, buffering=buffering)
        return self._files.enter_context(file)  # pyright: ignore[reportReturnType]

    def _read_journal(self, identity: str) -> list[tuple[int, int, str]]:
        try:
            first, _, rest = self._journal_path.read_text().partition("\n")
        except (FileNotFoundError, UnicodeDecodeError):
            return []
        if first != identity:
            return []
        return [(int(n), int(at), digest) for n, at, digest in _PIECE.findall(rest)]

    def _believe(self, pieces: list[tuple[int, int, str]]) -> bool:
        """Hash what is there, and stop at the last piece that is what the journal says."""
        if not self.path.is_file():
            return False
        digest = hashlib.sha256()
        at = 0
        with self.path.open("rb") as file:
            for number, stop, expected in pieces:
                while at < stop and (block := file.read(min(_BLOCK_BYTES, stop - at))):
                    digest.update(block)
                    at += len(block)
                if at < stop or digest.hexdigest() != expected:
                    break
                self._digest, self.position, self.n_pieces = digest.copy(), at, number
        return self.n_pieces > 0
