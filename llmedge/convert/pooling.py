"""How a sentence-transformers checkpoint makes one embedding of a text's tokens.

Source: sentence-transformers `models/Pooling.py`; llama.cpp `llama_pooling_type`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from llmedge.convert.config import read_json, read_json_document
from llmedge.core.errors import IntegrityError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_TYPES = {"mean": 1, "cls": 2, "lasttoken": 3}
# The older spelling is a switch for each mode.
_SWITCHES = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}


@dataclass(frozen=True, slots=True)
class Pooling:
    """One embedding of many.

    Attributes:
        type: llama.cpp's number: 1 the mean, 2 the first token's, 3 the last token's.
        is_normalized: Whether the embedding is scaled to length 1 in the end.
        dense: Folders of the matrices that it is multiplied with after pooling.
    """

    type: int
    is_normalized: bool
    dense: tuple[Path, ...] = ()


def read_pooling(folder: Path) -> Pooling | None:
    """Read a checkpoint's `modules.json` and the settings of its pooling.

    Returns:
        `None` where the checkpoint says nothing about pooling.

    Raises:
        UnsupportedError: It pools as llama.cpp does not, or computes more than that.
        IntegrityError: A file is malformed or missing.
    """
    pooling, is_normalized = None, False
    dense: list[Path] = []
    for module in _read_modules(folder / "modules.json"):
        kind = str(module.get("type")).rpartition(".")[2]
        if kind == "Normalize":
            is_normalized = True
        elif kind == "Pooling" and pooling is None:
            pooling = _read_type(folder, str(module.get("path")))
        elif kind == "Dense" and pooling is not None and not is_normalized:
            dense.append(_inside(folder, str(module.get("path"))))
        elif kind != "Transformer":
            raise UnsupportedError(
                f"modules.json asks for {kind}, which llama.cpp does not compute after this model",
                "use an embedding model of transformer, pooling and normalization",
            )
    return None if pooling is None else Pooling(pooling, is_normalized, tuple(dense))


def _read_modules(path: Path) -> list[Mapping[str, object]]:
    document = read_json_document(path)
    if document is None:
        return []
    modules = cast("list[object]", document) if isinstance(document, list) else [document]
    if not all(isinstance(module, dict) for module in modules):
        raise IntegrityError(f"{path} is no list of modules", "get it again")
    return cast("list[Mapping[str, object]]", modules)


def _read_type(folder: Path, name: str) -> int:
    path = _inside(folder, name) / "config.json"
    settings = read_json(path)
    if settings is None:
        raise IntegrityError(f"{path} is missing", "get the whole repository")
    modes = _modes(settings)
    if len(modes) != 1 or modes[0] not in _TYPES:
        raise UnsupportedError(
            f"pooling by {' and '.join(modes) or 'nothing'} is not among what llama.cpp does: "
            f"{', '.join(_TYPES)}"
        )
    if settings.get("include_prompt") is False:
        raise UnsupportedError("pooling without the prompt's tokens is not what llama.cpp does")
    return _TYPES[modes[0]]


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise IntegrityError(f"modules.json points outside of the checkpoint: {name}")
    return path


def _modes(settings: Mapping[str, object]) -> list[str]:
    given = settings.get("pooling_mode")
    if isinstance(given, list):
        return [str(mode) for mode in cast("list[object]", given)]
    if given is not None:
        return [str(given)]
    return [mode for switch, mode in _SWITCHES.items() if settings.get(switch) is True]
