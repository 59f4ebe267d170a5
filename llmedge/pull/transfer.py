"""One file from the Hub to its place in the cache, whatever the line does."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from llmedge.core.errors import ConnectionLostError, IntegrityError
from llmedge.host.files import LockFile
from llmedge.pull.part import PartFile
from llmedge.store.atomic import make_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from llmedge.hub.client import Body, Hub
    from llmedge.hub.repository import RemoteFile, Repository
    from llmedge.pull.line import Line
    from llmedge.store.hf_cache import CachedRepository

_LOCK_WAIT_S = 0.2


def fetch(
    hub: Hub,
    repository: Repository,
    file: RemoteFile,
    cached: CachedRepository,
    line: Line,
    on_progress: Callable[[int], None] = lambda n_bytes: None,
) -> None:
    """Bring one file into the cache, and show it in its snapshot.

    What an earlier process left is gone on with; a process that fetches the same is waited for.

    Args:
        hub: Where it comes from.
        repository: What it belongs to.
        file: The file.
        cached: Where it goes.
        line: Shared by all files of a pull.
        on_progress: Takes how much of the file is there.

    Raises:
        IntegrityError: It arrived damaged twice.
        NetworkError: Nothing more comes, or access is refused.
        NotFoundError: The file is gone.
        ResourceError: The disk is full.
        InterruptedByUser: It is time to stop.
    """
    with _locked(cached.lock(file.oid), file, line):
        if not cached.has(repository.commit, file.path, file.oid, file.n_bytes):
            make_folder(cached.blob(file.oid).parent)
            with PartFile(cached.part(file.oid), file) as part:
                _fetch_twice(hub, repository, part, line, file, on_progress)
                part.publish(cached.blob(file.oid))
        if cached.blob(file.oid).is_file():
            cached.link(repository.commit, file.path, file.oid)
    on_progress(file.n_bytes)


def _fetch_twice(
    hub: Hub,
    repository: Repository,
    part: PartFile,
    line: Line,
    file: RemoteFile,
    on_progress: Callable[[int], None],
) -> None:
    for is_last in (False, True):
        _complete(hub, repository, part, line, file, on_progress)
        if part.is_sound():
            return
        part.start_anew()
        if not is_last:
            line.tell(f"{file.path} arrived damaged: its hash is another; fetched once more")
    raise IntegrityError(
        f"{repository.repo}/{file.path} arrived damaged twice: its hash is not {file.oid}",
        "something on the way changes it: try another network, or HF_ENDPOINT with a mirror",
    )


def _complete(
    hub: Hub,
    repository: Repository,
    part: PartFile,
    line: Line,
    file: RemoteFile,
    on_progress: Callable[[int], None],
) -> None:
    """Ask again until all of it is there: without end while bytes come."""
    idle = 0
    while part.missing_bytes:
        line.wait_until_open()
        before = part.n_bytes
        lost = ConnectionLostError(f"{file.path}: the server ended at {before} bytes")
        try:
            with hub.open(repository, file, before) as body:
                is_paused = _receive(body, part, line, on_progress)
        except ConnectionLostError as error:
            lost, is_paused = error, False
        if part.missing_bytes and not is_paused:
            idle = 0 if part.n_bytes > before else idle + 1
            line.recover(lost, idle)


def _receive(body: Body, part: PartFile, line: Line, on_progress: Callable[[int], None]) -> bool:
    """Append what comes; return whether it was us who stopped, for the hour."""
    # A server that knows no ranges sends all of it again: that is read past, nothing rewritten.
    skip = part.n_bytes - body.start
    for data in body:
        line.take(len(data))
        new = memoryview(data)[skip : skip + part.missing_bytes]
        skip = max(0, skip - len(data))
        part.append(new)
        on_progress(part.n_bytes)
        if not part.missing_bytes:
            return False
        if not line.is_open():
            return True
    return False


@contextlib.contextmanager
def _locked(path: Path, file: RemoteFile, line: Line) -> Generator[None]:
    make_folder(path.parent)
    lock = LockFile(path)
    if not lock.is_ours:
        line.tell(f"another process is fetching {file.path}: waiting for it")
    try:
        while not lock.is_ours:
            lock.close()
            line.sleep(_LOCK_WAIT_S)
            lock = LockFile(path)
        yield
    finally:
        lock.close()
