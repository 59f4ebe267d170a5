"""Whether files still are what they were: every byte against the hash that was noted."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from llmedge.core.errors import LlmedgeError, NotFoundError
from llmedge.store.catalog import Entry, find_all, list_entries
from llmedge.store.hf_cache import CachedRepository, find_snapshot, list_repositories
from llmedge.store.manifest import hash_file, read_manifest
from llmedge.store.reference import FileReference, HubReference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from llmedge.core.progress import Progress
    from llmedge.core.settings import Settings
    from llmedge.store.reference import Reference

State: TypeAlias = Literal["sound", "damaged", "no hash"]
_OID = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_SHA256_DIGITS = 64
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file to look at.

    Attributes:
        name: What users call it.
        path: Where it lies.
        expected: Its hash: SHA-256, or git's name for a blob; "" where nobody noted one.
        problem: Why it cannot be sound, where that is known without reading it.
    """

    name: str
    path: Path
    expected: str
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Soundness:
    """What was found of a file.

    Attributes:
        name: What users call it.
        path: Where it lies.
        n_bytes: Its size.
        state: `no hash` where there is nothing to hold it against.
        reason: What is wrong.
    """

    name: str
    path: Path
    n_bytes: int
    state: State
    reason: str = ""


def candidates(settings: Settings, references: list[Reference]) -> list[Candidate]:
    """Return the files that references name; without any, the store's and the Hub cache's.

    Raises:
        NotFoundError: One names nothing that is here.
    """
    if not references:
        stored = [_of_entry(entry) for entry in list_entries(settings)]
        cached = [
            each
            for repository in list_repositories(settings.hf_cache)
            for each in _of_repository(repository)
        ]
        return [*stored, *cached]
    found: dict[Path, Candidate] = {}
    for reference in references:
        found |= {each.path: each for each in _named(settings, reference)}
    return list(found.values())


def examine(candidate: Candidate, progress: Progress) -> Soundness:
    """Read a file and hold it against its hash."""
    path = candidate.path
    try:
        n_bytes = path.stat().st_size
        if candidate.problem or not candidate.expected:
            state: State = "damaged" if candidate.problem else "no hash"
            return Soundness(candidate.name, path, n_bytes, state, candidate.problem)
        with progress.task(f"verifying {candidate.name}", total=n_bytes, unit="bytes") as task:
            found = _hash(path, n_bytes, candidate.expected, task.update)
    except OSError as error:
        reason = f"it cannot be read: {error.strerror}"
        return Soundness(candidate.name, path, 0, "damaged", reason)
    if found == candidate.expected:
        return Soundness(candidate.name, path, n_bytes, "sound")
    reason = f"its hash is {found[:12]}…, {candidate.expected[:12]}… was noted"
    return Soundness(candidate.name, path, n_bytes, "damaged", reason)


def _named(settings: Settings, reference: Reference) -> Iterator[Candidate]:
    if isinstance(reference, FileReference):
        yield _of_file(reference.path)
        return
    missing: NotFoundError | None = None
    try:
        yield from (_of_entry(entry) for entry in find_all(settings, reference))
    except NotFoundError as error:
        missing = error
    if isinstance(reference, HubReference) and reference.variant is None:
        try:
            find_snapshot(settings.hf_cache, reference.repo, reference.revision)
        except NotFoundError:
            pass
        else:
            missing = None
            yield from _of_repository(CachedRepository(settings.hf_cache, reference.repo))
    if missing is not None:
        raise missing


def _of_file(path: Path) -> Candidate:
    if not path.is_file():
        raise NotFoundError(f"{path} is not a file", "`llmedge list` shows the store")
    try:
        manifest = read_manifest(path)
    except LlmedgeError as error:
        return Candidate(path.name, path, "", error.message)
    return Candidate(path.name, path, manifest.sha256 if manifest else "")


def _of_entry(entry: Entry) -> Candidate:
    expected = entry.manifest.sha256 if entry.manifest else ""
    return Candidate(entry.reference, entry.path, expected, entry.problem or "")


def _of_repository(repository: CachedRepository) -> Iterator[Candidate]:
    """Give every blob once, by a name that a snapshot has for it."""
    folder = repository.folder
    links = [path for path in sorted((folder / "snapshots").rglob("*")) if path.is_symlink()]
    names = {path.resolve(): "/".join(path.relative_to(folder).parts[2:]) for path in links}
    for link in links:
        if not link.exists():
            name = f"{repository.repo}/{names[link.resolve()]}"
            yield Candidate(name, link, "", "its bytes are missing")
    for blob in sorted((folder / "blobs").glob("*")):
        if _OID.fullmatch(blob.name) and blob.is_file():
            name = names.get(blob.resolve(), f"blobs/{blob.name[:12]}…")
            yield Candidate(f"{repository.repo}/{name}", blob, blob.name)


def _hash(path: Path, n_bytes: int, expected: str, on_read: Callable[[int], None]) -> str:
    if len(expected) == _SHA256_DIGITS:
        return hash_file(path, on_read)
    digest = hashlib.sha1(b"blob %d\0" % n_bytes, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            on_read(file.tell())
    return digest.hexdigest()
