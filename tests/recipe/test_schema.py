from pathlib import Path

import pytest

from llmedge.core.errors import NotFoundError, UsageError
from llmedge.recipe.load import find_recipe, load_recipe, shipped_folder
from llmedge.recipe.schema import Recipe

SHIPPED = sorted(shipped_folder().glob("*.toml"))
GOOD = """
schema_version = 1
name = "x"
title = "X"
license = "mit"
languages = ["hi"]
[source]
repo = "Org/X"
[[variant]]
mix = "Q4_K_M"
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "x.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_right(path: Path):
    recipe = load_recipe(path).recipe
    assert recipe.name == path.stem
    assert find_recipe(path.stem) == path


def test_recipes_are_shipped():
    assert "smollm2-135m-instruct" in {path.stem for path in SHIPPED}


def test_a_good_recipe_is_read(tmp_path: Path):
    recipe = load_recipe(write(tmp_path, GOOD)).recipe
    assert recipe.variant[0].mix == "Q4_K_M"
    assert (recipe.source.revision, recipe.serve.ctx) == (None, 4096)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (("schema_version = 1", "schema_version = 2"), "schema_version"),
        (('name = "x"', 'name = "X y"'), "name"),
        (('repo = "Org/X"', 'repo = "X"'), "source.repo"),
        (('repo = "Org/X"', 'repo = "Org/X"\nrevision = "main"'), "source.revision"),
        (('mix = "Q4_K_M"', 'mix = "Q4_KM"'), "variant.0.mix"),
        (('mix = "Q4_K_M"', 'mix = "Q4_K_M"\ncolour = 1'), "variant.0.colour"),
        (('languages = ["hi"]', "languages = []"), "languages"),
        (('title = "X"\n', ""), "title"),
        (('license = "mit"', "license = 3"), "license"),
        (('name = "x"', 'name = "x"\n[serve]\nctx = 10'), "serve.ctx"),
    ],
)
def test_every_mistake_is_named_with_its_key(tmp_path: Path, change: tuple[str, str], word: str):
    with pytest.raises(UsageError) as caught:
        load_recipe(write(tmp_path, GOOD.replace(*change)))
    assert f": {word}: " in caught.value.message
    assert "x.toml" in caught.value.message


def test_a_mix_that_is_not_known_is_named_with_what_is_close(tmp_path: Path):
    with pytest.raises(UsageError, match="did you mean Q4_K_"):
        load_recipe(write(tmp_path, GOOD.replace("Q4_K_M", "Q4_KM")))


def test_a_mix_that_is_not_possible_is_named_too(tmp_path: Path):
    with pytest.raises(UsageError, match="importance matrix"):
        load_recipe(write(tmp_path, GOOD.replace('"Q4_K_M"', '"IQ2_XS"\nimatrix = false')))


def test_what_is_not_toml_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="not valid TOML"):
        load_recipe(write(tmp_path, "schema_version = "))


@pytest.mark.parametrize("name", ["none", "../smollm2-135m-instruct", "/none.toml"])
def test_a_recipe_that_is_not_there_is_not_found(name: str):
    with pytest.raises(NotFoundError) as caught:
        find_recipe(name)
    assert "smollm2-135m-instruct" in caught.value.hint


def test_what_is_left_open_follows_from_the_rest():
    said = {
        "schema_version": 1,
        "name": "x",
        "title": "X",
        "license": "mit",
        "languages": ["hi", "xx"],
        "source": {"repo": "Org/X"},
        "variant": [{"target_ram": "3GiB"}, {"mix": "q4_k_m"}],
    }
    recipe = Recipe.model_validate(said)
    assert recipe.texts == ("hi",)
    assert recipe.served == "RAM3GIB-CTX4096"
    assert Recipe.model_validate(said | {"serve": {"variant": "q4_k_m"}}).served == "Q4_K_M"
    assert Recipe.model_validate(said | {"evaluate": {"texts": ["code"]}}).texts == ("code",)
