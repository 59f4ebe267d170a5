"""The stages' own work, where a run does not show it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llmedge.core.errors import IntegrityError, NotFoundError
from llmedge.recipe.load import find_recipe, load_recipe
from llmedge.recipe.stage_work import Converted, Made, Pulled, judge_devices, read_architecture
from llmedge.store.manifest import hash_file

if TYPE_CHECKING:
    from pathlib import Path

    from llmedge.core.settings import Settings

NAME = "smollm2-135m-instruct"


def test_what_was_made_is_looked_for_where_it_was(tiny_model: Path, tmp_path: Path):
    n_bytes = tiny_model.stat().st_size
    assert Converted(tiny_model.name, n_bytes, "", can_requantize=False).is_in(tiny_model.parent)
    assert not Converted(tiny_model.name, 3, "", can_requantize=False).is_in(tiny_model.parent)
    made = Made("Q8_0", n_bytes, hash_file(tiny_model), 8.5)
    assert made.is_at(tiny_model)
    assert not made.is_at(tmp_path / "none.gguf")
    assert not Made("Q8_0", n_bytes, "0" * 64, 8.5).is_at(tiny_model)


def test_a_snapshot_without_one_of_its_files_is_not_there(tmp_path: Path):
    pulled = Pulled("a/b", "1" * 40, str(tmp_path), {"config.json": "0" * 40})
    assert not pulled.is_there()
    (tmp_path / "config.json").write_text("[]", encoding="utf-8")
    assert pulled.is_there()
    with pytest.raises(IntegrityError, match="names no architecture"):
        read_architecture(pulled)


def test_a_device_with_less_room_than_the_recipe_leaves_is_missed(
    smollm2: Path, settings: Settings
):
    recipe = load_recipe(find_recipe(NAME), ['devices.android-4gb.room="64MiB"']).recipe
    found = {item.device: item for item in judge_devices(smollm2, recipe, settings)}
    assert found["android-3gb"].passes
    assert not found["android-4gb"].passes
    assert found["android-4gb"].reason.endswith("the recipe leaves it 64MiB")
    nobody = load_recipe(find_recipe(NAME), ["devices.nobody={}"]).recipe
    with pytest.raises(NotFoundError, match="nobody"):
        judge_devices(smollm2, nobody, settings)
