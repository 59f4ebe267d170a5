"""States of sequences in files, for the next process that runs the same model the same way.

They hold what was asked and answered: nobody but their owner may read them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import struct
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from llmedge.core.errors import IntegrityError
from llmedge.store.atomic import make_folder, replacing

if TYPE_CHECKING:
    from pathlib import Path

    from llmedge.engine.backend import Adapters

_MAGIC = b"llmedge state 1\n"
_LENGTH = struct.Struct("<I")
_MAX_HEAD_BYTES = 1 << 26
_N_DIGEST = 32
_N_SALT = 16

StateKey = tuple[str, "Adapters"]


class _Head(msgspec.Struct, array_like=True):
    cache_key: str
    adapters: tuple[tuple[str, float], ...]
    tokens: list[int]


class StateInFile:
    """The state of a sequence, in a file."""

    __slots__ = ("_at", "_path", "n_tokens")

    n_bytes = 0

    def __init__(self, path: Path, n_tokens: int, at: int) -> None:
        self._path, self.n_tokens, self._at = path, n_tokens, at

    def read(self) -> bytes:
        """Return what the backend saved.

        Raises:
            IntegrityError: The file is gone, or damaged and now removed.
        """
        try:
            data = self._path.read_bytes()
        except OSError as error:
            raise IntegrityError(f"{self._path} cannot be read: {error.strerror}") from None
        if hashlib.sha256(data[:-_N_DIGEST]).digest() != data[-_N_DIGEST:]:
            with contextlib.suppress(OSError):
                self._path.unlink()
            raise IntegrityError(f"{self._path} is damaged")
        with contextlib.suppress(OSError):
            os.utime(self._path)  # the files used last are kept longest
        return data[self._at : -_N_DIGEST]


class Kept(NamedTuple):
    """A state that was found in the folder."""

    key: StateKey
    tokens: list[int]
    state: StateInFile


class StateFolder:
    """The folder of one model, run in one way.

    Args:
        folder: Shared with other models; its files are nobody else's.
        identity: What must be the same for a state to mean the same.
        max_bytes: Most bytes of all models' files; those used longest ago go first.
    """

    def __init__(self, folder: Path, identity: bytes, max_bytes: int) -> None:
        """Make the folder.

        Raises:
            NotFoundError: It cannot be made.
        """
        self._top = folder
        self._folder = folder / hashlib.sha256(identity).hexdigest()[:32]
        self._max_bytes = max_bytes
        for path in (self._top, self._folder):
            make_folder(path)
            path.chmod(0o700)

    def find(self) -> list[Kept]:
        """Return what is there, used longest ago first; what cannot be understood is removed."""
        found: list[tuple[float, Kept]] = []
        for path in self._folder.glob("*.state"):
            with contextlib.suppress(OSError):
                used_s = path.stat().st_mtime
                if (kept := _read_head(path)) is None:
                    path.unlink()
                else:
                    found.append((used_s, kept))
        return [kept for _, kept in sorted(found, key=lambda pair: pair[0])]

    def write(self, key: StateKey, tokens: list[int], state: bytes) -> None:
        """Write a state, and remove others where there are too many.

        Raises:
            ResourceError: The disk is full or read-only.
        """
        head = msgspec.msgpack.encode(_Head(key[0], key[1], tokens))
        start = _MAGIC + _LENGTH.pack(len(head)) + head
        path = self._folder / f"{hashlib.sha256(start).hexdigest()[:32]}.state"
        if len(start) + len(state) + _N_DIGEST > self._max_bytes:
            return
        digest = hashlib.sha256(start)
        digest.update(state)
        _write_private(path, start, state, digest.digest())
        self._prune()

    def _prune(self) -> None:
        files: list[tuple[float, int, Path]] = []
        for path in self._top.glob("*/*.state"):
            with contextlib.suppress(OSError):
                status = path.stat()
                files.append((status.st_mtime, status.st_size, path))
        n_bytes = sum(size for _, size, _ in files)
        for _, size, path in sorted(files, key=lambda file: file[0]):
            if n_bytes <= self._max_bytes:
                return
            with contextlib.suppress(OSError):
                path.unlink()
            n_bytes -= size


def _read_head(path: Path) -> Kept | None:
    with path.open("rb") as file:
        start = file.read(len(_MAGIC) + _LENGTH.size)
        if len(start) < len(_MAGIC) + _LENGTH.size or not start.startswith(_MAGIC):
            return None
        (length,) = _LENGTH.unpack_from(start, len(_MAGIC))
        data = file.read(length) if length <= _MAX_HEAD_BYTES else b""
    try:
        head = msgspec.msgpack.decode(data, type=_Head)
    except msgspec.MsgspecError:
        return None
    state = StateInFile(path, len(head.tokens), len(start) + length)
    return Kept((head.cache_key, head.adapters), head.tokens, state) if head.tokens else None


def lasting_salt(folder: Path) -> bytes:
    """Return random bytes that stay the same for a folder.

    Raises:
        NotFoundError: The folder cannot be made.
        ResourceError: The disk is full or read-only.
    """
    path = folder / "salt"
    with contextlib.suppress(OSError):
        if len(salt := path.read_bytes()) == _N_SALT:
            return salt
    salt = secrets.token_bytes(_N_SALT)
    make_folder(folder)
    folder.chmod(0o700)
    _write_private(path, salt)
    return salt


def _write_private(path: Path, *parts: bytes) -> None:
    with replacing(path) as partial:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            for part in parts:
                file.write(part)
