"""A repository from the Hub into the cache: listed, chosen, held against the disk, fetched."""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.core.errors import ConnectionLostError, InterruptedByUser, ResourceError
from llmedge.core.units import format_mb
from llmedge.host.memory import read_free_disk
from llmedge.hub.repository import RemoteFile, Repository
from llmedge.pull.select import select_files
from llmedge.pull.transfer import fetch
from llmedge.store.atomic import make_folder
from llmedge.store.hf_cache import CachedRepository, find_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from llmedge.core.progress import Progress, Task
    from llmedge.hub.client import Hub
    from llmedge.pull.line import Line
    from llmedge.store.reference import HubReference

_N_THREADS = 4
_POLL_S = 0.1
_JOIN_S = 2.0
_SPARE_BYTES = 16 << 20  # links, folders, other programs


@dataclass(frozen=True, slots=True)
class PulledFile:
    """A file of a pull.

    Attributes:
        path: Its place in the repository.
        n_bytes: Its size.
        missing_bytes: What was not here yet.
        oid: What it hashes to.
    """

    path: str
    n_bytes: int
    missing_bytes: int
    oid: str


@dataclass(frozen=True, slots=True)
class PullReport:
    """What a pull brings, or has brought.

    Attributes:
        repo: The repository.
        commit: Its commit.
        revision: The branch or tag that was asked for.
        license: As its card says, when it does.
        folder: The snapshot's folder.
        files: What was chosen.
        n_bytes: Their size.
        missing_bytes: What was not here yet.
        network_bytes: What came over the line; 0 of a plan.
        n_retries: Attempts after the first.
        duration_s: How long it took.
        is_plan: Whether nothing was fetched yet.
    """

    repo: str
    commit: str
    revision: str
    license: str | None
    folder: Path
    files: tuple[PulledFile, ...]
    n_bytes: int
    missing_bytes: int
    network_bytes: int = 0
    n_retries: int = 0
    duration_s: float = 0.0
    is_plan: bool = False


@dataclass(frozen=True, slots=True)
class Selection:
    """What to take of a repository.

    Attributes:
        include: Globs that take the place of the default.
        exclude: Globs that leave files out.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


class Pull:
    """One repository's way into the cache.

    Args:
        hub: Where it comes from.
        cache: The Hugging Face cache.
        reference: What is asked for.
        line: The rate, the hours, and how often to try again.

    Raises:
        NetworkError: The Hub is out of reach, or refuses.
        NotFoundError: There is no such repository, revision or variant.
        UsageError: It cannot be a repository's name.
        IntegrityError: The listing names files that cannot be.
    """

    def __init__(
        self, hub: Hub, cache: Path, reference: HubReference, line: Line, selection: Selection
    ) -> None:
        self._hub, self._line = hub, line
        self._revision = reference.revision or "main"
        line.wait_until_open()
        self._repository = _describe(hub, reference, line)
        self._cached = CachedRepository(cache, self._repository.repo)
        self._files = select_files(
            self._repository, reference.variant, selection.include, selection.exclude
        )

    def plan(self) -> PullReport:
        """Return what would be fetched."""
        return self._report(is_plan=True)

    def run(
        self, progress: Progress, free_bytes: Callable[[Path], int] = read_free_disk
    ) -> PullReport:
        """Fetch what is missing, several files at once, and show it as a snapshot.

        Args:
            progress: Shows how much is there.
            free_bytes: Returns the room on the disk under a folder.

        Raises:
            ResourceError: The disk has too little room; nothing was fetched, or it filled up.
            IntegrityError: A file arrived damaged twice.
            NetworkError: Nothing more comes, or access is refused.
            NotFoundError: A file is gone.
            InterruptedByUser: It is time to stop.
        """
        before = self._report(is_plan=False)
        make_folder(self._cached.folder)
        self._require_room(before.missing_bytes, free_bytes)
        start = time.monotonic()
        with progress.task(f"pull {before.repo}", total=before.n_bytes, unit="bytes") as task:
            self._fetch_all(task)
        self._cached.write_ref(self._revision, self._repository.commit)
        return self._report(is_plan=False, missing=before, duration_s=time.monotonic() - start)

    def _require_room(self, missing_bytes: int, free_bytes: Callable[[Path], int]) -> None:
        free = free_bytes(self._cached.folder)
        if missing_bytes and missing_bytes + _SPARE_BYTES > free:
            raise ResourceError(
                f"{self._repository.repo} wants {format_mb(missing_bytes)} more, and the disk of "
                f"{self._cached.cache} has {format_mb(free)}",
                "make room, take less with --include, or set HF_HUB_CACHE",
            )

    def _fetch_all(self, task: Task) -> None:
        waiting: queue.SimpleQueue[RemoteFile] = queue.SimpleQueue()
        for file in sorted(self._files, key=lambda file: file.n_bytes):
            waiting.put(file)
        done = dict.fromkeys((file.path for file in self._files), 0)
        errors: queue.SimpleQueue[BaseException] = queue.SimpleQueue()

        def work() -> None:
            try:
                while True:
                    file = waiting.get_nowait()

                    def arrived(n_bytes: int, path: str = file.path) -> None:
                        done[path] = n_bytes

                    fetch(self._hub, self._repository, file, self._cached, self._line, arrived)
            except queue.Empty:
                return
            except BaseException as error:  # noqa: BLE001 - raised again by the one who waits
                errors.put(error)
                self._line.stop()

        # Daemons: one that waits for a silent server must not keep the process.
        threads = [
            threading.Thread(target=work, daemon=True)
            for _ in range(min(_N_THREADS, len(self._files)))
        ]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                time.sleep(_POLL_S)
                task.update(sum(done.values()))
        finally:
            self._line.stop()
            for thread in threads:
                thread.join(_JOIN_S)
        _raise_first(errors)

    def _report(
        self, *, is_plan: bool, missing: PullReport | None = None, duration_s: float = 0.0
    ) -> PullReport:
        files = missing.files if missing else tuple(self._pulled(file) for file in self._files)
        return PullReport(
            repo=self._repository.repo,
            commit=self._repository.commit,
            revision=self._revision,
            license=self._repository.license,
            folder=self._cached.snapshot(self._repository.commit),
            files=files,
            n_bytes=sum(file.n_bytes for file in self._files),
            missing_bytes=sum(file.missing_bytes for file in files),
            network_bytes=self._line.network_bytes,
            n_retries=self._line.n_retries,
            duration_s=round(duration_s, 3),
            is_plan=is_plan,
        )

    def _pulled(self, file: RemoteFile) -> PulledFile:
        cached = self._cached
        part = cached.part(file.oid)
        if cached.has(self._repository.commit, file.path, file.oid, file.n_bytes):
            missing = 0
        else:
            missing = file.n_bytes - (part.stat().st_size if part.is_file() else 0)
        return PulledFile(file.path, file.n_bytes, max(0, missing), file.oid)


def cached_report(cache: Path, reference: HubReference, selection: Selection) -> PullReport:
    """Return what is here of a repository, without asking the Hub.

    Raises:
        NotFoundError: It is not here, or not that variant.
        UsageError: The revision cannot be one.
    """
    folder = find_snapshot(cache, reference.repo, reference.revision)
    there = tuple(
        RemoteFile(path.relative_to(folder).as_posix(), path.stat().st_size, path.resolve().name)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )
    repository = Repository(reference.repo, folder.name, is_gated=False, license=None, files=there)
    chosen = select_files(repository, reference.variant, selection.include, selection.exclude)
    files = tuple(PulledFile(file.path, file.n_bytes, 0, file.oid) for file in chosen)
    return PullReport(
        repo=reference.repo,
        commit=folder.name,
        revision=reference.revision or "main",
        license=None,
        folder=folder,
        files=files,
        n_bytes=sum(file.n_bytes for file in files),
        missing_bytes=0,
    )


def _describe(hub: Hub, reference: HubReference, line: Line) -> Repository:
    idle = 0
    while True:
        try:
            return hub.describe(reference.repo, reference.revision)
        except ConnectionLostError as lost:
            idle += 1
            line.recover(lost, idle)


def _raise_first(errors: queue.SimpleQueue[BaseException]) -> None:
    """Raise what ended a thread; those that were told to stop because of it come last."""
    found: list[BaseException] = []
    while not errors.empty():
        found.append(errors.get())
    found.sort(key=lambda error: isinstance(error, InterruptedByUser))
    if found:
        raise found[0]
