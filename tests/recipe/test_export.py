"""Recipes in other programs' words."""

from __future__ import annotations

import configparser
import json
import tomllib
from typing import TYPE_CHECKING

import pytest
from local_hub import Faults, LocalHub

from llmedge.core.errors import UsageError
from llmedge.recipe.export import as_model_yaml, as_modelfile, as_preset_ini, as_toml
from llmedge.recipe.load import find_recipe, load_recipe, shipped_recipes
from tests.convert.tiny_llama import make_llama

if TYPE_CHECKING:
    from pathlib import Path

NAME = "smollm2-135m-instruct"


@pytest.mark.parametrize("path", shipped_recipes(), ids=lambda path: path.stem)
def test_what_is_shown_says_the_same(path: Path, tmp_path: Path):
    shown = tmp_path / "shown.toml"
    shown.write_text(as_toml(load_recipe(path).recipe), encoding="utf-8")
    assert load_recipe(shown).sha256 == load_recipe(path).sha256


def test_a_modelfile_says_what_is_served():
    recipe = load_recipe(find_recipe(NAME)).recipe
    text = as_modelfile(recipe, "./x.gguf")
    assert text.startswith("FROM ./x.gguf\nPARAMETER num_ctx 4096\nPARAMETER temperature 0.2\n")
    assert 'SYSTEM """You are a helpful assistant.' in text
    bad = load_recipe(find_recipe(NAME), ["serve.system.en='''a\"\"\"b'''"]).recipe
    with pytest.raises(UsageError, match="which no Modelfile can"):
        as_modelfile(bad, "x")


def test_a_preset_is_an_ini_file_of_llama_servers_options():
    parser = configparser.ConfigParser()
    recipe = load_recipe(find_recipe("qwen3.5-2b"), ['serve.type_k="q8_0"']).recipe
    parser.read_string("[top]\n" + as_preset_ini(recipe, "/m/x.gguf"))
    section = parser["qwen3.5-2b"]
    assert (section["model"], section["ctx-size"]) == ("/m/x.gguf", "4096")
    assert (section["cache-type-k"], section["top-k"]) == ("q8_0", "20")
    assert json.loads(section["chat-template-kwargs"]) == {"enable_thinking": False}


def test_a_model_yaml_is_yaml():
    yaml = pytest.importorskip("yaml")
    recipe = load_recipe(find_recipe(NAME), ['serve.system.en="a: \\"b\\"\\n# c"']).recipe
    said = yaml.safe_load(as_model_yaml(recipe))
    assert said["base"][0]["sources"][0]["repo"] == "SmolLM2-135M-Instruct"
    fields = {item["key"]: item["value"] for item in said["config"]["operation"]["fields"]}
    assert fields["llm.prediction.topPSampling"] == {"checked": True, "value": 0.9}
    assert fields["llm.prediction.systemPrompt"] == 'a: "b"\n# c'
    assert (
        "operation"
        not in yaml.safe_load(as_model_yaml(load_recipe(find_recipe("sarvam-1")).recipe))["config"]
    )


def test_the_commands(cli, tmp_path: Path):
    schema = json.loads(cli("recipe", "schema").out)
    assert "variant" in schema["required"]
    assert (
        tomllib.loads(cli("recipe", "show", NAME, "--set", "serve.ctx=512").out)["serve"]["ctx"]
        == 512
    )
    assert cli("recipe", "export", NAME).code == 2
    assert cli("recipe", "export", NAME, "--modelfile", "--preset-ini").code == 2
    assert cli("recipe", "export", NAME, "--model-yaml").out.startswith("model: ")
    output = tmp_path / "p.ini"
    assert cli("recipe", "export", NAME, "--preset-ini", "-o", output).code == 0
    assert f"model = ./{NAME}-Q8_0.gguf" in output.read_text(encoding="utf-8")
    assert cli("recipe", "export", NAME, "--preset-ini", "-o", output).code == 2
    wrong = tmp_path / "w.toml"
    shipped = find_recipe(NAME).read_text(encoding="utf-8")
    wrong.write_text(shipped.replace("LlamaForCausalLM", "NoForCausalLM"), encoding="utf-8")
    assert cli("recipe", "check", wrong).code == 4


def test_a_new_recipe_comes_from_what_the_hub_says(
    cli, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
):
    make_llama(tmp_path / "hub" / "acme" / "Tiny-1M")
    with LocalHub(tmp_path / "hub", Faults()) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HUB_CACHE", str(home / "hub"))
        path = tmp_path / "new.toml"
        assert cli("recipe", "new", "acme/Tiny-1M", "-o", path, "--lang", "hi,en").code == 0
    recipe = load_recipe(path).recipe
    assert recipe.source.architecture == "LlamaForCausalLM"
    assert recipe.source.revision is not None
    assert recipe.languages == ["hi", "en"]
    assert cli("recipe", "new", "tiny").code == 2
