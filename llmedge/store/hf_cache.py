"""The Hugging Face cache: blobs by their hash, snapshots of links to them, refs to snapshots.

Its layout is shared with huggingface_hub, transformers and llama.cpp; what they put there is found
here, and the other way round. Source: huggingface_hub documentation, "Understand caching".
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.core.errors import NotFoundError, UsageError
from llmedge.store.atomic import make_folder, write_bytes

if TYPE_CHECKING:
    from pathlib import Path

_COMMIT = re.compile(r"[0-9a-f]{40}")
_FOLDER = re.compile(r"models--([A-Za-z0-9._-]+?)--([A-Za-z0-9._-]+)")
_SNAPSHOT = re.compile(
    r"models--(?P<org>[^/]+?)--(?P<repo>[^/]+)/snapshots/(?P<commit>[0-9a-f]{40})$"
)


@dataclass(frozen=True, slots=True)
class CachedRepository:
    """One model repository's folder in the cache.

    Attributes:
        cache: The cache.
        repo: `ORG/NAME`.
    """

    cache: Path
    repo: str

    @property
    def folder(self) -> Path:
        """Where all of it lies."""
        return self.cache / self._name

    @property
    def _name(self) -> str:
        return "models--" + self.repo.replace("/", "--")

    def blob(self, oid: str) -> Path:
        """Return where a file's bytes lie."""
        return self.folder / "blobs" / oid

    def part(self, oid: str) -> Path:
        """Return where they lie while they arrive: the same place for every attempt."""
        return self.folder / "blobs" / f"{oid}.part"

    def lock(self, oid: str) -> Path:
        """Return the lock that huggingface_hub takes as well while it fetches a blob."""
        return self.cache / ".locks" / self._name / f"{oid}.lock"

    def snapshot(self, commit: str) -> Path:
        """Return the folder that shows the repository at a commit."""
        return self.folder / "snapshots" / commit

    def link(self, commit: str, path: str, oid: str) -> Path:
        """Show a blob under its name in a snapshot.

        Where the system has no symbolic links, the blob itself moves there.

        Raises:
            NotFoundError: The folder cannot be made.
            ResourceError: The disk is full or read-only.
        """
        place, blob = self.snapshot(commit) / path, self.blob(oid)
        make_folder(place.parent)
        if place.exists() and place.samefile(blob):
            return place
        place.unlink(missing_ok=True)
        try:
            place.symlink_to(os.path.relpath(blob, place.parent))
        except OSError:
            os.replace(blob, place)  # noqa: PTH105 - as huggingface_hub does on Windows
        return place

    def has(self, commit: str, path: str, oid: str, n_bytes: int) -> bool:
        """Whether a file of that size is there, as a blob or moved into the snapshot."""
        for place in (self.blob(oid), self.snapshot(commit) / path):
            if place.is_file() and place.stat().st_size == n_bytes:
                return True
        return False

    def write_ref(self, revision: str, commit: str) -> None:
        """Let a branch or tag mean a commit; written when all of it is there.

        Raises:
            ResourceError: The disk is full or read-only.
        """
        if revision != commit:
            write_bytes(self._ref(revision), commit.encode())

    def commit(self, revision: str | None) -> str | None:
        """Return the commit that a revision means here; `None` is the main branch."""
        name = revision or "main"
        if _COMMIT.fullmatch(name) and self.snapshot(name).is_dir():
            return name
        try:
            found = self._ref(name).read_text(encoding="ascii", errors="replace").strip()
        except OSError:
            return None
        is_there = _COMMIT.fullmatch(found) and self.snapshot(found).is_dir()
        return found if is_there else None

    def _ref(self, revision: str) -> Path:
        if ".." in revision.split("/") or revision.startswith("/"):
            raise UsageError(f"{revision!r} is no revision", "name a branch, a tag or a commit")
        return self.folder / "refs" / revision


def find_snapshot(cache: Path, repo: str, revision: str | None) -> Path:
    """Return the folder of a repository that was pulled.

    Raises:
        NotFoundError: It is not in the cache.
        UsageError: The revision cannot be one.
    """
    cached = CachedRepository(cache, repo)
    commit = cached.commit(revision)
    if commit is None:
        name = f"{repo}@{revision}" if revision else repo
        raise NotFoundError(f"{name} is not in the cache {cache}", f"llmedge pull {name}")
    return cached.snapshot(commit)


def list_repositories(cache: Path) -> list[CachedRepository]:
    """Return the model repositories in the cache, by name."""
    folders = sorted(cache.glob("models--*--*"))
    matches = [_FOLDER.fullmatch(folder.name) for folder in folders]
    return [CachedRepository(cache, f"{match[1]}/{match[2]}") for match in matches if match]


def hub_origin(folder: Path) -> tuple[str, str] | None:
    """Return the repository and commit of a folder in the Hub's cache, `None` for any other."""
    match = _SNAPSHOT.search(folder.resolve().as_posix())
    return (f"{match['org']}/{match['repo']}", match["commit"]) if match else None
