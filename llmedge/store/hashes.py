"""Hashes of large files, computed once: remembered by a file's place, size and time."""

from __future__ import annotations

import hashlib
import logging
import re
from typing import TYPE_CHECKING

from llmedge.host.stamp import require_unchanged, stamp_of
from llmedge.store.manifest import hash_file

if TYPE_CHECKING:
    from pathlib import Path

    from llmedge.core.progress import Progress

_log = logging.getLogger(__name__)
_SHA256 = re.compile(r"[0-9a-f]{64}")


def remembered_hash(path: Path, state_dir: Path, progress: Progress) -> str:
    """Return a file's SHA-256 in hex, computed where it is not remembered.

    Args:
        path: The file.
        state_dir: Where it is remembered; what is there may be deleted.
        progress: Shows the first time.

    Raises:
        IntegrityError: It changed while it was hashed.
    """
    status = path.stat()
    facts = (str(path.resolve()), status.st_size, status.st_mtime_ns)
    name = hashlib.sha256(repr(facts).encode("utf-8", "surrogateescape")).hexdigest()
    mark = state_dir / "hashes" / name
    try:
        known = mark.read_text(encoding="ascii", errors="replace")
    except OSError:
        known = ""
    if _SHA256.fullmatch(known):
        return known
    with progress.task(f"hashing {path.name}", total=status.st_size, unit="bytes") as task:
        found = hash_file(path, task.update)
    require_unchanged(path, stamp_of(status))
    _remember(mark, found)
    return found


def _remember(mark: Path, value: str) -> None:
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(value, encoding="ascii")
    except OSError as error:  # a read-only home: it is computed again next time
        _log.debug("not remembered: %s", error)
