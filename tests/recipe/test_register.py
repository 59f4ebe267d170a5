"""Variants of a run into the store."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from llmedge.core.errors import UsageError
from llmedge.recipe.load import find_recipe, load_recipe
from llmedge.recipe.register import register, require_own
from llmedge.store.manifest import Manifest, Source, hash_file, read_manifest, write_manifest
from llmedge.store.run_records import VariantRecord

if TYPE_CHECKING:
    from pathlib import Path

    from llmedge.core.settings import Settings

NAME = "smollm2-135m-instruct"


def test_a_variant_moves_in_and_is_its_recipes_own(
    tiny_model: Path, tmp_path: Path, settings: Settings
):
    loaded, made = load_recipe(find_recipe(NAME)), tmp_path / f"{NAME}-Q8_0.gguf"
    shutil.copy(tiny_model, made)
    n_bytes, sha256 = made.stat().st_size, hash_file(made)
    source = Source("x.gguf", "0" * 64)
    manifest = Manifest(NAME, "Q8_0", n_bytes, sha256, 8.5, 0, "llama", None, source, {}, {})
    write_manifest(made, manifest)
    item = VariantRecord("Q8_0", made.name, n_bytes, 8.5, sha256)

    assert register(item, loaded, tmp_path, settings).is_registered
    place = settings.models_dir / NAME / made.name
    assert hash_file(place) == sha256
    assert not made.exists()
    require_own(loaded.recipe, settings)
    # Once more, with nothing in the making: what is said of it is renewed.
    register(item, load_recipe(find_recipe(NAME), ["serve.ctx=512"]), tmp_path, settings)
    renewed = read_manifest(place)
    assert renewed is not None
    assert renewed.recipe is not None
    assert renewed.recipe.sha256 != loaded.sha256

    write_manifest(place, manifest)  # as a command of the user's leaves it
    with pytest.raises(UsageError, match="no run of this recipe made it"):
        require_own(loaded.recipe, settings)
