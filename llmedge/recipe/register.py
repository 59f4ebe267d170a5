"""Variants of a run into the store, with all that is known of them beside them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from llmedge.core.errors import UsageError
from llmedge.store.atomic import make_folder
from llmedge.store.catalog import variant_path
from llmedge.store.manifest import RecipeMark, read_manifest, sidecar_path, write_manifest

if TYPE_CHECKING:
    from pathlib import Path

    from llmedge.core.settings import Settings
    from llmedge.recipe.load import LoadedRecipe
    from llmedge.recipe.schema import Recipe
    from llmedge.store.run_records import VariantRecord


def require_own(recipe: Recipe, settings: Settings) -> None:
    """Refuse to replace what somebody else put into the store, before hours are spent.

    Raises:
        UsageError: A variant of that name was not made by this recipe.
        IntegrityError: Its sidecar is damaged.
    """
    for table in recipe.variant:
        path = variant_path(settings, recipe.name, table.label)
        manifest = read_manifest(path) if path.exists() else None
        mark = manifest.recipe if manifest else None
        if path.exists() and (mark is None or mark.name != recipe.name):
            raise UsageError(
                f"{recipe.name}:{table.label} is in the store, and no run of this recipe made it",
                "add --overwrite to replace it, or give the recipe another name",
            )


def register(
    item: VariantRecord, loaded: LoadedRecipe, folder: Path, settings: Settings
) -> VariantRecord:
    """Move a variant into the store, or renew what is said of one that is there.

    Args:
        item: What was found of it.
        loaded: The recipe.
        folder: Where it was made.
        settings: Where the store is.

    Raises:
        ResourceError: The disk is full or read-only.
    """
    place = variant_path(settings, loaded.recipe.name, item.variant)
    made = folder / item.file
    manifest = read_manifest(made if made.exists() else place)
    assert manifest is not None  # no stage ends without it
    manifest = replace(
        manifest,
        recipe=RecipeMark(loaded.recipe.name, loaded.sha256),
        quality=item.quality,
        speed=item.speed,
    )
    if made.exists():
        make_folder(place.parent)
        if place.exists():
            # An older variant's sidecar must not stand beside the new one, not for a moment.
            sidecar_path(place).unlink(missing_ok=True)
        else:
            write_manifest(place, manifest)
        made.replace(place)
    write_manifest(place, manifest)
    return replace(item, is_registered=True)
