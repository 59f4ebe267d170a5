"""The store: a plain folder of GGUF files, one sub-folder a name; the sidecars are the index."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmedge.core.errors import LlmedgeError, NotFoundError, UsageError
from llmedge.store.gguf_names import choose_gguf
from llmedge.store.hf_cache import find_snapshot
from llmedge.store.manifest import Manifest, read_manifest, sidecar_path
from llmedge.store.reference import FileReference, HubReference, Reference

if TYPE_CHECKING:
    from pathlib import Path

    from llmedge.core.settings import Settings

# What is served when no variant is named. Source: the choice of llama.cpp's `-hf`.
_PREFERRED = ("Q4_K_M", "Q8_0")


@dataclass(frozen=True, slots=True)
class Entry:
    """A variant in the store.

    Attributes:
        name: The model's name.
        variant: The variant's name, in capitals.
        path: Its file.
        file_bytes: Its size.
        manifest: Its sidecar, `None` for a file that was put there by hand.
        problem: What is wrong with the sidecar, when it cannot be read.
    """

    name: str
    variant: str
    path: Path
    file_bytes: int
    manifest: Manifest | None
    problem: str | None = None

    @property
    def reference(self) -> str:
        """How users call it, and its id on the endpoint."""
        return f"{self.name}:{self.variant}"


def variant_path(settings: Settings, name: str, variant: str) -> Path:
    """Return a variant's place in the store."""
    return settings.models_dir / name / f"{name}-{variant}.gguf"


def list_entries(settings: Settings) -> list[Entry]:
    """Return every variant in the store, by name and then by size."""
    entries: list[Entry] = []
    for path in settings.models_dir.glob("*/*.gguf"):
        if path.name.startswith(".") or not path.is_file():
            continue
        name = path.parent.name
        variant = path.stem.removeprefix(f"{name}-").upper()
        problem, manifest = None, None
        try:
            manifest = read_manifest(path)
        except LlmedgeError as error:
            problem = error.message
        n_bytes = path.stat().st_size
        if manifest is not None and manifest.file_bytes != n_bytes:
            problem = f"the file has {n_bytes} bytes, its sidecar says {manifest.file_bytes}"
        entries.append(Entry(name, variant, path, n_bytes, manifest, problem))
    return sorted(entries, key=lambda entry: (entry.name, entry.file_bytes))


def resolve(settings: Settings, reference: Reference) -> Path:
    """Return the file that a reference names.

    Raises:
        NotFoundError: There is none; the hint names what is close.
    """
    if isinstance(reference, FileReference):
        if not _is_file(reference.path):
            raise NotFoundError(f"{reference} is not a file", "`llmedge list` shows the store")
        return reference.path
    if isinstance(reference, HubReference):
        return _resolve_hub(settings, reference)
    return find(settings, reference).path


def find(settings: Settings, reference: Reference) -> Entry:
    """Return the entry that a reference names; without a variant, the usual one.

    Raises:
        NotFoundError: There is none; the hint names what is close.
        UsageError: The reference is a path.
    """
    return _preferred(find_all(settings, reference))


def find_largest(settings: Settings, reference: Reference) -> Entry:
    """Return the largest entry that a reference names: what its other variants are made from.

    Raises:
        NotFoundError: There is none; the hint names what is close.
        UsageError: The reference is a path.
    """
    return max(find_all(settings, reference), key=lambda entry: entry.file_bytes)


def find_all(settings: Settings, reference: Reference) -> list[Entry]:
    """Return the entries that a reference names: one variant, or all of a name.

    Raises:
        NotFoundError: There is none; the hint names what is close.
        UsageError: The reference is a path.
    """
    entries = list_entries(settings)
    if isinstance(reference, FileReference):
        raise UsageError(f"{reference} is a path, not a model in the store", "llmedge list")
    if isinstance(reference, HubReference):
        named = [entry for entry in entries if _is_from(entry, reference)]
    else:
        named = [entry for entry in entries if entry.name.lower() == reference.name]
    if not named:
        raise NotFoundError(f"no model {reference} in the store", _suggestion(entries, reference))
    found = [entry for entry in named if reference.variant in (None, entry.variant)]
    if not found:
        names = ", ".join(entry.variant for entry in named)
        raise NotFoundError(f"{reference} is not in the store", f"its variants here: {names}")
    return found


def remove(entry: Entry) -> int:
    """Delete a variant and its sidecar.

    Returns:
        The bytes that were freed: none of a file that has a second name elsewhere.
    """
    sidecar = sidecar_path(entry.path)
    freed = entry.file_bytes if entry.path.lstat().st_nlink == 1 else 0
    # The sidecar first: without it the variant no longer counts as complete.
    if entry.manifest is not None or entry.problem is not None:
        freed += sidecar.stat().st_size
        sidecar.unlink(missing_ok=True)
    entry.path.unlink(missing_ok=True)
    if not any(entry.path.parent.iterdir()):
        entry.path.parent.rmdir()
    return freed


def model_id(settings: Settings, path: Path) -> str:
    """Return a model's id on the endpoint: its store reference or file stem, never a path."""
    absolute = path.resolve()
    for entry in list_entries(settings):
        if entry.path.resolve() == absolute:
            return entry.reference
    return path.stem


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for any file
        return False


def _resolve_hub(settings: Settings, reference: HubReference) -> Path:
    """Return what was made from a repository, else the GGUF file that was pulled from it."""
    try:
        return find(settings, reference).path
    except NotFoundError as error:
        own = error
    try:
        folder = find_snapshot(settings.hf_cache, reference.repo, reference.revision)
    except NotFoundError:
        raise own from None
    paths = [path.relative_to(folder).as_posix() for path in folder.rglob("*.gguf")]
    try:
        return folder / choose_gguf(reference.repo, paths, reference.variant)[0]
    except NotFoundError as error:
        is_checkpoint = not paths and (folder / "config.json").is_file()
        hint = error.hint if is_checkpoint else f"llmedge pull {reference}"
        raise NotFoundError(f"{reference} has not been pulled as a GGUF file", hint) from None


def _is_from(entry: Entry, reference: HubReference) -> bool:
    if entry.manifest is None:
        return False
    source = entry.manifest.source
    same_revision = reference.revision in (None, source.revision)
    return source.repo == reference.repo and same_revision


def _preferred(found: list[Entry]) -> Entry:
    for variant in _PREFERRED:
        for entry in found:
            if entry.variant == variant:
                return entry
    return found[0]


def _suggestion(entries: list[Entry], reference: Reference) -> str:
    if isinstance(reference, HubReference):
        return f"llmedge pull {reference}"
    names = sorted({entry.name for entry in entries})
    close = difflib.get_close_matches(str(reference).partition(":")[0], names, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"models here: {', '.join(names)}" if names else "the store is empty: llmedge convert"
