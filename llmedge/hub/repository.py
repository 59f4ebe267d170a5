"""What a repository on the Hub holds at one commit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from llmedge.core.errors import IntegrityError

_OID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository.

    Attributes:
        path: Its place there, with `/`.
        n_bytes: Its size.
        oid: What its bytes hash to: SHA-256 (64 digits) for large files, git's blob hash (40
            digits) for others. The cache names the blob by it.
    """

    path: str
    n_bytes: int
    oid: str

    def __post_init__(self) -> None:
        """Refuse names that would lead out of the cache.

        Raises:
            IntegrityError: The Hub's answer cannot be meant.
        """
        parts = PurePosixPath(self.path).parts
        is_inside = bool(parts) and not self.path.startswith("/") and ".." not in parts
        if not is_inside or any(char in self.path for char in "\\:\0"):
            raise IntegrityError(f"the hub lists a file {self.path!r}, which is no plain path")
        if not _OID.fullmatch(self.oid) or self.n_bytes < 0:
            raise IntegrityError(f"the hub lists {self.path} with the hash {self.oid!r}")


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at one commit.

    Attributes:
        repo: `ORG/NAME`, as the Hub spells it.
        commit: The full hash.
        is_gated: Whether its files want an accepted licence.
        license: As its card says, when it does.
        files: All of its files, by path.
    """

    repo: str
    commit: str
    is_gated: bool
    license: str | None
    files: tuple[RemoteFile, ...]
