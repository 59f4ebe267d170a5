"""What variants are made from or compared with, as users name it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.cli.options import model_path
from llmedge.cli.output import note

if TYPE_CHECKING:
    from pathlib import Path


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
    entry = find_largest(load_settings(), parsed)
    note(f"{reference} is {entry.reference} here: the largest variant of that name")
    return entry.path
