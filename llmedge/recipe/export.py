"""A recipe in other words: TOML, and what Ollama, LM Studio and llama-server read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import tomli_w

from llmedge.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmedge.recipe.schema import Recipe

_CHECKED = ("top_p", "min_p")  # LM Studio shows a box to tick beside these
_SAMPLING = ("temperature", "top_p", "top_k", "min_p")


def as_toml(recipe: Recipe) -> str:
    """Return a recipe as TOML, whole: with what it extends, without what it leaves open."""
    said = recipe.model_dump(exclude_defaults=True)
    return tomli_w.dumps({"schema_version": recipe.schema_version, **said})


def as_lock(base: str, commit: str, oids: Mapping[str, str]) -> str:
    """Return a recipe that extends another, at a commit and with what each file hashes to."""
    table = {"extends": base, "source": {"revision": commit, "files": dict(sorted(oids.items()))}}
    return "# Written by `llmedge recipe lock`.\n" + tomli_w.dumps(table)


def as_new(repo: str, facts: Mapping[str, str | None], languages: list[str]) -> str:
    """Return a recipe to begin with.

    Args:
        repo: The checkpoint's repository.
        facts: `name`, `license`, `commit` and `architecture`, as far as they are known.
        languages: What the product speaks.
    """
    source = {"repo": repo, "revision": facts["commit"], "architecture": facts["architecture"]}
    table: dict[str, object] = {
        "schema_version": 1,
        "name": facts["name"],
        "title": repo.partition("/")[2],
        "license": facts["license"] or "not stated",
        "languages": languages,
        "source": {key: value for key, value in source.items() if value is not None},
        "variant": [{"mix": "Q4_K_M"}, {"mix": "Q4_0"}],
        "serve": {"ctx": 4096},
        "devices": {"android-6gb": {}},
    }
    return tomli_w.dumps(table)


def as_modelfile(recipe: Recipe, file: str) -> str:
    """Return Ollama's Modelfile.

    Source: docs/modelfile.md of Ollama.
    """
    serve = recipe.serve
    lines = [f"FROM {file}", f"PARAMETER num_ctx {serve.ctx}"]
    lines += [f"PARAMETER {key} {value}" for key, value in _sampling(recipe).items()]
    system = _system(recipe)
    if system is not None:
        if '"""' in system:
            raise UsageError(
                'the system prompt holds """, which no Modelfile can', "reword serve.system"
            )
        lines.append(f'SYSTEM """{system}"""')
    terms = f"{recipe.license} {recipe.license_url or ''}".rstrip()
    lines.append(f'LICENSE """{terms}"""')
    return "\n".join(lines) + "\n"


def as_preset_ini(recipe: Recipe, file: str) -> str:
    """Return a section for llama-server's `--models-preset`.

    Source: tools/server/README.md of llama.cpp, "Model presets".
    """
    serve = recipe.serve
    options: dict[str, object] = {"model": file, "ctx-size": serve.ctx}
    if (serve.type_k, serve.type_v) != ("f16", "f16"):
        options |= {"cache-type-k": serve.type_k, "cache-type-v": serve.type_v}
    names = {"temperature": "temp", "top_p": "top-p", "top_k": "top-k", "min_p": "min-p"}
    options |= {names[key]: value for key, value in _sampling(recipe).items()}
    if serve.chat_template_kwargs:
        options["chat-template-kwargs"] = json.dumps(serve.chat_template_kwargs)
    lines = ["version = 1", "", f"[{recipe.name}]"]
    return "\n".join([*lines, *(f"{key} = {value}" for key, value in options.items())]) + "\n"


def as_model_yaml(recipe: Recipe) -> str:
    """Return LM Studio's model.yaml.

    JSON's strings are YAML's: nothing has to be escaped in another way.

    Source: modelyaml.org.
    """
    org, _, name = recipe.source.repo.partition("/")
    fields = {
        "temperature": "llm.prediction.temperature",
        "top_p": "llm.prediction.topPSampling",
        "top_k": "llm.prediction.topKSampling",
        "min_p": "llm.prediction.minPSampling",
    }
    operation: list[tuple[str, object]] = [
        (fields[key], value if key not in _CHECKED else {"checked": True, "value": value})
        for key, value in _sampling(recipe).items()
    ]
    if (system := _system(recipe)) is not None:
        operation.append(("llm.prediction.systemPrompt", system))
    lines = [
        f"model: {json.dumps(f'llmedge/{recipe.name}')}",
        "base:",
        f"  - key: {json.dumps(f'llmedge/{recipe.name}-{recipe.served.lower()}')}",
        "    sources:",
        "      - type: huggingface",
        f"        user: {json.dumps(org)}",
        f"        repo: {json.dumps(name)}",
        "config:",
        "  load:",
        "    fields:",
        "      - key: llm.load.contextLength",
        f"        value: {recipe.serve.ctx}",
    ]
    if operation:
        lines += ["  operation:", "    fields:"]
        for key, value in operation:
            said = json.dumps(value, ensure_ascii=False)
            lines += [f"      - key: {key}", f"        value: {said}"]
    return "\n".join(lines) + "\n"


def _sampling(recipe: Recipe) -> dict[str, float | int]:
    found = {key: getattr(recipe.serve, key) for key in _SAMPLING}
    return {key: value for key, value in found.items() if value is not None}


def _system(recipe: Recipe) -> str | None:
    """Return the system prompt in the first of the recipe's languages that has one."""
    system = recipe.serve.system
    return next((system[code] for code in recipe.languages if code in system), None)
