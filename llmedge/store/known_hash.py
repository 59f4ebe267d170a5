"""A file's hash, computed once: a model of several gigabytes is hashed for many purposes."""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING

from llmedge.store.manifest import hash_file

if TYPE_CHECKING:
    from pathlib import Path


def known_hash(path: Path, state_dir: Path) -> str:
    """Return a file's SHA-256, remembered by its place, size and time.

    Args:
        path: The file.
        state_dir: Where it is remembered; that it cannot be is no error.
    """
    status = path.stat()
    facts = (str(path.resolve()), status.st_size, status.st_mtime_ns)
    name = hashlib.sha256(repr(facts).encode("utf-8", "surrogateescape")).hexdigest()
    remembered = state_dir / "hashes" / name
    with contextlib.suppress(OSError, UnicodeDecodeError):
        known = remembered.read_text()
        if len(known) == hashlib.sha256().digest_size * 2:
            return known
    found = hash_file(path)
    with contextlib.suppress(OSError):
        remembered.parent.mkdir(parents=True, exist_ok=True)
        remembered.write_text(found)
    return found
