"""`llmedge list`."""

from __future__ import annotations

from llmedge.cli.options import ShowFlags, grouped
from llmedge.cli.output import Table, note, show_results
from llmedge.core.units import format_mb


@grouped
def list_command(*, show: ShowFlags) -> None:
    """List the variants in the store."""
    from llmedge.core.settings import load_settings
    from llmedge.store.catalog import list_entries

    settings = load_settings()
    entries = list_entries(settings)
    if not entries:
        note(f"the store in {settings.models_dir} is empty; `llmedge convert` fills it")
    for entry in entries:
        if entry.problem:
            note(f"{entry.reference}: {entry.problem}")
    rows = [
        (
            entry.reference,
            format_mb(entry.file_bytes),
            f"{entry.manifest.bits_per_weight:.2f}" if entry.manifest else "?",
            entry.manifest.source.file if entry.manifest else "(put there by hand)",
            entry.manifest.created if entry.manifest else "",
        )
        for entry in entries
    ]
    table = Table(("model", "size>", "bits/weight>", "made from", "created"), rows)
    show_results("list", entries, table, show.chosen)
