"""What takes the disk: variants, the Hub's cache, unfinished files, what is remembered."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.store.hf_cache import list_repositories

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from llmedge.core.settings import Settings

# What a write or a transfer leaves when its process is killed; huggingface_hub's as well.
_UNFINISHED = (".part", ".partial", ".unfinished", ".incomplete", ".journal")


@dataclass(frozen=True, slots=True)
class DiskUse:
    """What one kind of files takes in one place.

    Attributes:
        kind: `variants`, `hub cache`, `unfinished`, `unnamed`, `records` or `remembered`.
        path: The folder.
        n_files: How many.
        n_bytes: On the disk; a file with several names counts once, where it is met first.
        is_reclaimable: Whether it may be deleted without losing a finished model or a measurement.
    """

    kind: str
    path: Path
    n_files: int
    n_bytes: int
    is_reclaimable: bool


def disk_use(settings: Settings) -> list[DiskUse]:
    """Return what takes the disk, by place; what is empty is left out."""
    seen: set[tuple[int, int]] = set()
    found: list[DiskUse] = []

    def add(kind: str, place: Path, files: Iterable[Path], *, is_reclaimable: bool = False) -> None:
        sizes = list(_sizes(files, seen))
        if sizes:
            found.append(DiskUse(kind, place, len(sizes), sum(sizes), is_reclaimable))

    for folder in sorted(settings.models_dir.glob("*/")):
        files = list(_files(folder))
        add("variants", folder, (file for file in files if not _is_unfinished(file)))
        add("unfinished", folder, filter(_is_unfinished, files), is_reclaimable=True)
    for repository in list_repositories(settings.hf_cache):
        folder = repository.folder
        files = list(_files(folder))
        named = {path.resolve() for path in (folder / "snapshots").rglob("*") if path.is_symlink()}
        unnamed = [file for file in files if _is_unnamed(file, folder, named)]
        add("unfinished", folder, filter(_is_unfinished, files), is_reclaimable=True)
        add("unnamed", folder / "blobs", unnamed, is_reclaimable=True)
        add("hub cache", folder, (file for file in files if not _is_unfinished(file)))
    home = settings.home
    add("records", home / "records", _files(home / "records"))
    for place in (home / "imatrix", settings.state_dir):
        add("remembered", place, _files(place), is_reclaimable=True)
    return found


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _is_unfinished(path: Path) -> bool:
    return path.name.endswith(_UNFINISHED)


def _is_unnamed(path: Path, folder: Path, named: set[Path]) -> bool:
    """Whether no snapshot shows a blob: what a newer commit replaced."""
    is_blob = path.parent == folder / "blobs" and not _is_unfinished(path)
    return is_blob and path.resolve() not in named


def _sizes(files: Iterable[Path], seen: set[tuple[int, int]]) -> Iterator[int]:
    for file in files:
        try:
            status = file.stat()
        except FileNotFoundError:  # finished or swept meanwhile
            continue
        identity = (status.st_dev, status.st_ino)
        if identity in seen and os.name != "nt":
            continue
        seen.add(identity)
        # A file with holes takes less than its length.
        blocks = getattr(status, "st_blocks", None)
        yield status.st_size if blocks is None else min(status.st_size, blocks * 512)
