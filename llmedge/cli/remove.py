"""`llmedge rm`."""

from __future__ import annotations

from typing import Annotated

import typer

from llmedge.cli.options import ModelsArgument, YesOption
from llmedge.cli.output import confirm, note
from llmedge.core.errors import UsageError
from llmedge.core.units import format_mb


def remove_command(
    models: ModelsArgument,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    yes: YesOption = False,
) -> None:
    """Delete variants from the store.

    name:VARIANT each, or a name for all of its variants.
    """
    from llmedge.core.settings import load_settings
    from llmedge.store.catalog import find_all, remove
    from llmedge.store.reference import parse_reference

    settings = load_settings()
    entries = [entry for model in models for entry in find_all(settings, parse_reference(model))]
    unique = {entry.path: entry for entry in entries}.values()
    names = ", ".join(entry.reference for entry in unique)
    total = format_mb(sum(entry.file_bytes for entry in unique))
    if dry_run:
        note(f"would delete {names} ({total})")
        return
    if not yes and not confirm(f"delete {names} ({total})?"):
        raise UsageError("nothing was deleted", "answer y, or add --yes")
    kept = [entry.reference for entry in unique if entry.path.lstat().st_nlink > 1]
    freed = sum(remove(entry) for entry in unique)
    note(f"deleted {names}: {format_mb(freed)} are free again")
    if kept:
        note(f"{', '.join(kept)} had a second name, which still holds the bytes")
