"""Recipes put together from several, and mistakes with the line they stand in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llmedge.convert.registry import BY_CLASS
from llmedge.core.errors import NotFoundError, UsageError
from llmedge.device.profile import shipped_profiles
from llmedge.recipe.load import is_recipe, load_recipe, shipped_recipes

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """schema_version = 1
name = "x"
title = "X"
license = "mit"
languages = ["hi"]

[source]
repo = "Org/X"

[[variant]]
mix = "Q4_K_M"

[[variant]]
target_size = "95MB"
"""


def write(folder: Path, text: str, name: str = "x.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", shipped_recipes(), ids=lambda path: path.stem)
def test_a_shipped_recipe_can_be_run_with_its_licence_and_devices_known(path: Path):
    recipe = load_recipe(path).recipe
    assert recipe.source.architecture in BY_CLASS
    assert recipe.license
    assert recipe.license not in ("other", "gemma", "llama3.2") or recipe.license_url
    assert set(recipe.devices) <= set(shipped_profiles())
    # A gate is a claim, and what nobody measured makes none.
    assert not recipe.gates.model_fields_set


def test_ten_recipes_are_shipped():
    assert len(shipped_recipes()) == 10


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('mix = "Q4_K_M"', 'mix = "Q4_KM"'), "x.toml:11: variant.0.mix: "),
        (('"95MB"', '"95MX"'), "x.toml:14: variant.1.target_size: "),
        (('"95MB"', '"95MB"\ncolour = 1'), "x.toml:15: variant.1.colour: there is no such key"),
        (('repo = "Org/X"', 'rep = "Org/X"'), "x.toml:7: source.repo: is missing"),
        (('repo = "Org/X"', 'rep = "Org/X"'), "source.rep: there is no such key; did you mean"),
        (("[source]", "[gates]\nmin_top1 = 2\n[source]"), "x.toml:8: gates.min_top1: "),
        (("[source]", "[gates.min_top1]\nxx = 0.5\n[source]"), "x.toml:8: gates.min_top1"),
        (("[source]", "[gates]\nmin_top1 = { ta = 0.5 }\n[source]"), "gates.min_top1 has ta"),
        (('"Q4_K_M"', '"Q4_K_M"\nmax_kld = 0.1'), "x.toml:10: variant.0: say one of mix, "),
        (('"Q4_K_M"', '"Q4_K_M"\nkernels = "arm"'), "x.toml:10: variant.0: kernels go with"),
        (("[source]", '[serve]\nvariant = "Q8_0"\n[source]'), "serve.variant 'Q8_0' is no variant"),
        (("[source]", '[serve]\ntype_k = "q4_0"\n[source]'), "'f16' or 'q8_0'"),
        (('"95MB"', '"95MB"\n[[variant]]\nmix="q4_k_m"'), "two variants are called Q4_K_M"),
    ],
)
def test_a_mistake_is_named_with_file_line_and_key(tmp_path: Path, change, said: str):
    with pytest.raises(UsageError) as caught:
        load_recipe(write(tmp_path, GOOD.replace(*change)))
    assert said in caught.value.message


def test_lines_are_right_behind_values_of_several_lines(tmp_path: Path):
    text = GOOD.replace('["hi"]', '[\n "hi", # [x]\n]') + '[serve.system]\nhi = """a\nb = 1\n"""\n'
    with pytest.raises(UsageError, match=r"x.toml:22: bench.n_gen: "):
        load_recipe(write(tmp_path, text + "[bench]\nn_gen = 0\n"))


def test_a_recipe_extends_another_and_the_command_line_has_the_last_word(tmp_path: Path):
    write(tmp_path, GOOD + "[serve]\nctx = 1024\ntop_p = 0.5\n", "base.toml")
    path = write(tmp_path, 'extends = "base.toml"\nname = "y"\n[serve]\nctx = 2048\n')
    own, said = load_recipe(path).recipe, load_recipe(path, ["serve.ctx=512", "title=Z"])
    assert (own.name, own.serve.ctx, own.serve.top_p) == ("y", 2048, 0.5)
    assert (said.recipe.serve.ctx, said.recipe.title) == (512, "Z")
    assert said.sha256 != load_recipe(path).sha256
    write(tmp_path, GOOD.replace("Q4_K_M", "Q9"), "base.toml")
    with pytest.raises(UsageError, match=r"base.toml:11: variant.0.mix"):
        load_recipe(path)


def test_a_shipped_recipe_is_extended_by_its_name(tmp_path: Path):
    path = write(tmp_path, 'extends = "smollm2-135m-instruct"\n[serve]\nctx = 512\n')
    assert load_recipe(path).recipe.serve.ctx == 512


def test_comments_and_order_do_not_count(tmp_path: Path):
    one = load_recipe(write(tmp_path, GOOD))
    assert load_recipe(write(tmp_path, "# a\n" + GOOD)).sha256 == one.sha256


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ('extends = "x.toml"\n', UsageError, "extends itself"),
        ('extends = "nothing"\n', NotFoundError, "extends: no recipe"),
        ("extends = 3\n", UsageError, "give a file or a shipped recipe's name"),
        ("a = [" * 3000, UsageError, "not valid TOML"),
    ],
)
def test_what_cannot_be_extended_is_refused(tmp_path: Path, text: str, error, said: str):
    with pytest.raises(error, match=said):
        load_recipe(write(tmp_path, text))


@pytest.mark.parametrize("override", ["serve.ctx", "=3", "a\nb=1", "serve..ctx=3"])
def test_an_override_that_sets_nothing_is_refused(tmp_path: Path, override: str):
    with pytest.raises(UsageError, match="sets nothing"):
        load_recipe(write(tmp_path, GOOD), [override])


def test_a_mistake_of_the_command_line_is_no_mistake_of_the_file(tmp_path: Path):
    path = write(tmp_path, GOOD + "[serve]\nctx = 512\n[bench]\nn_gen = 0\n")
    with pytest.raises(UsageError) as caught:
        load_recipe(path, ["serve.ctx=abc"])
    assert "--set: serve.ctx: " in caught.value.message
    assert "x.toml:18: bench.n_gen: " in caught.value.message


def test_recipes_and_models_are_told_apart():
    assert is_recipe("smollm2-135m-instruct")
    assert is_recipe("./my.toml")
    assert not is_recipe("smollm2-135m-instruct:Q4_0")
    assert not is_recipe("Org/Name")
