from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from llmedge.convert.pooling import Pooling, read_pooling
from llmedge.core.errors import IntegrityError, UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path

TRANSFORMER = {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"}
POOLING = {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
NORMALIZE = {"idx": 2, "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}
DENSE = {"idx": 2, "path": "2_Dense", "type": "sentence_transformers.models.Dense"}


def checkpoint(folder: Path, settings: dict[str, Any] | None, *more: dict[str, Any]) -> Path:
    (folder / "modules.json").write_text(json.dumps([TRANSFORMER, POOLING, *more]))
    if settings is not None:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    return folder


def test_a_checkpoint_without_modules_says_nothing(tmp_path: Path):
    assert read_pooling(tmp_path) is None


@pytest.mark.parametrize(
    ("settings", "number"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, 1),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, 2),
        ({"pooling_mode_lasttoken": True, "include_prompt": True}, 3),
        ({"pooling_mode": "mean"}, 1),
        ({"pooling_mode": ["lasttoken"]}, 3),
    ],
)
def test_both_spellings_of_the_modes_are_read(
    settings: dict[str, Any], number: int, tmp_path: Path
):
    assert read_pooling(checkpoint(tmp_path, settings)) == Pooling(number, is_normalized=False)


def test_normalization_is_seen(tmp_path: Path):
    folder = checkpoint(tmp_path, {"pooling_mode": "cls"}, NORMALIZE)
    assert read_pooling(folder) == Pooling(2, is_normalized=True)


@pytest.mark.parametrize(
    "settings",
    [
        {"pooling_mode_max_tokens": True},
        {"pooling_mode_weightedmean_tokens": True},
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
        {"pooling_mode": ["mean", "max"]},
        {"pooling_mode": "mean_sqrt_len_tokens"},
        {"pooling_mode": "mean", "include_prompt": False},
        {},
    ],
)
def test_pooling_that_llama_cpp_lacks_is_refused(settings: dict[str, Any], tmp_path: Path):
    with pytest.raises(UnsupportedError, match="pooling"):
        read_pooling(checkpoint(tmp_path, settings))


@pytest.mark.parametrize("more", [POOLING, {**DENSE, "type": "x.LayerNorm"}])
def test_more_than_one_pooling_and_normalization_is_refused(more: dict[str, Any], tmp_path: Path):
    with pytest.raises(UnsupportedError, match=r"modules\.json asks for"):
        read_pooling(checkpoint(tmp_path, {"pooling_mode": "mean"}, more))


def test_missing_settings_are_an_error(tmp_path: Path):
    with pytest.raises(IntegrityError, match="missing"):
        read_pooling(checkpoint(tmp_path, None))


def test_modules_outside_of_the_checkpoint_are_not_read(tmp_path: Path):
    folder = checkpoint(tmp_path, None)
    (folder / "modules.json").write_text(json.dumps([{**POOLING, "path": "../elsewhere"}]))
    with pytest.raises(IntegrityError, match="outside"):
        read_pooling(folder)


@pytest.mark.parametrize("text", ["{", "3", '["Pooling"]', "[" * 100_000, " " * (1 << 21)])
def test_malformed_modules_are_an_error(text: str, tmp_path: Path):
    (tmp_path / "modules.json").write_text(text)
    with pytest.raises(IntegrityError):
        read_pooling(tmp_path)
