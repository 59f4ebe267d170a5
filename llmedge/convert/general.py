"""What a model is called, whose it is and under which licence: its card as metadata.

A model card begins with a few lines of YAML. Only plain `key: value` lines of it are read here;
anything more elaborate is no licence.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from llmedge.convert.config import read_json
from llmedge.gguf.writer import I32
from llmedge.store.hf_cache import hub_origin

if TYPE_CHECKING:
    from pathlib import Path

    from llmedge.gguf.writer import Value

_PAIR = re.compile(r"([a-z_]+): +([^\s\[{|>#][^#]*?) *(#.*)?")
_MAX_CARD_BYTES = 1 << 20
_LARGEST = 1 << 31
_CARD_KEYS = {"license": "general.license", "license_name": "general.license.name"}
_SAMPLING = {
    "temperature": "general.sampling.temp",
    "top_k": "general.sampling.top_k",
    "top_p": "general.sampling.top_p",
    "min_p": "general.sampling.min_p",
    "repetition_penalty": "general.sampling.penalty_repeat",
}


def checkpoint_name(folder: Path) -> str:
    """Return what a checkpoint is called: its repository's or its folder's name."""
    origin = hub_origin(folder)
    return origin[0].partition("/")[2] if origin else folder.resolve().name


def general_metadata(folder: Path) -> dict[str, Value]:
    """Return name, licence, origin and the sampling that the makers recommend."""
    values: dict[str, Value] = {
        "general.type": "model",
        "general.name": checkpoint_name(folder),
        "general.quantization_version": 2,
    }
    card = _card(folder / "README.md")
    values |= {key: card[name] for name, key in _CARD_KEYS.items() if name in card}
    if origin := hub_origin(folder):
        values["general.source.repo_url"] = f"https://huggingface.co/{origin[0]}"
        values["general.source.commit"] = origin[1]
    return values | _sampling(folder)


def read_license(folder: Path) -> str | None:
    """Return the licence that the model card names."""
    return _card(folder / "README.md").get("license")


def _sampling(folder: Path) -> dict[str, Value]:
    generation = read_json(folder / "generation_config.json") or {}
    values: dict[str, Value] = {}
    for name, key in _SAMPLING.items():
        value = generation.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        if abs(value) < _LARGEST:  # nor is NaN smaller
            values[key] = I32(value) if name == "top_k" else float(value)
    return values


def _card(path: Path) -> dict[str, str]:
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_CARD_BYTES).decode("utf-8", "replace")
    except OSError:
        return {}
    front = re.match(r"---\r?\n(.*?)\r?\n---", text, re.DOTALL)
    lines = front[1].splitlines() if front else []
    pairs = (_PAIR.fullmatch(line) for line in lines)
    return {match[1]: match[2].strip("\"'") for match in pairs if match}
