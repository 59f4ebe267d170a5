"""What variants are made from or compared with, as users name it."""

from __future__ import annotations

from pathlib import Path

from llmedge.cli.options import model_path
from llmedge.cli.output import note
from llmedge.core.errors import NotFoundError, UsageError


def source_path(reference: str) -> Path:
    """Return the file that variants are made from or compared with.

    A name without a variant means the largest of that name, and it is said which one that is.

    Raises:
        UsageError: It is no reference, or a checkpoint's folder.
        NotFoundError: There is no such model.
    """
    from llmedge.core.settings import load_settings
    from llmedge.store.catalog import find_largest
    from llmedge.store.reference import FileReference, parse_reference

    path = model_path(reference)
    parsed = parse_reference(reference)
    if isinstance(parsed, FileReference) or parsed.variant is not None:
        return path
    try:
        entry = find_largest(load_settings(), parsed)
    except NotFoundError:  # a GGUF file that was pulled, of which nothing was made
        return path
    note(f"{reference} is {entry.reference} here: the largest variant of that name")
    return entry.path


def checkpoint_folder(source: str) -> Path | None:
    """Return the folder of a checkpoint: as named, or as pulled where `ORG/NAME` is meant.

    `None` means that it is something else: a file, a name in the store, a GGUF repository.

    Raises:
        NotFoundError: `ORG/NAME` was not pulled.
    """
    from llmedge.core.settings import load_settings
    from llmedge.store.hf_cache import find_snapshot
    from llmedge.store.reference import HubReference, parse_reference

    if Path(source).is_dir():
        return Path(source)
    try:
        parsed = parse_reference(source)
    except UsageError:  # a path that is not there
        return None
    if not isinstance(parsed, HubReference) or parsed.variant is not None:
        return None
    folder = find_snapshot(load_settings().hf_cache, parsed.repo, parsed.revision)
    return folder if (folder / "config.json").is_file() else None
