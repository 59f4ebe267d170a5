from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from safetensors.torch import load_file, save_file

from llmedge.convert.verify import Verification, require_agreement, verify
from llmedge.core.errors import JudgementError, UnsupportedError
from tests.convert.tiny_llama import make_llama

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Result


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    make_llama(folder, max_position_embeddings=512)
    return folder


def test_a_right_conversion_agrees_with_the_original(
    cli: Callable[..., Result], checkpoint: Path, tmp_path: Path
):
    result = cli("convert", checkpoint, "-t", "F32", "-o", tmp_path / "m.gguf", "--verify")
    assert result.code == 0
    assert "equal predictions 100.0%" in result.err


def test_a_file_made_of_other_weights_is_judged_and_failed(
    cli: Callable[..., Result], checkpoint: Path, tmp_path: Path
):
    other = tmp_path / "other"
    make_llama(other, max_position_embeddings=512)
    path = other / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.0.self_attn.q_proj.weight"] *= -1
    save_file(tensors, path)
    assert cli("convert", other, "-t", "F32", "-o", tmp_path / "m.gguf").code == 0
    verification = verify(checkpoint, tmp_path / "m.gguf", n_threads=1)
    assert not verification.has_passed
    with pytest.raises(JudgementError, match="does not agree") as failed:
        require_agreement(verification)
    assert failed.value.exit_code == 7


def test_what_transformers_cannot_run_is_no_verdict(
    cli: Callable[..., Result], checkpoint: Path, tmp_path: Path
):
    cli("convert", checkpoint, "-t", "F32", "-o", tmp_path / "m.gguf")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nothing-known"}))
    with pytest.raises(UnsupportedError, match="cannot run"):
        verify(tmp_path, tmp_path / "m.gguf", n_threads=1)


@pytest.mark.parametrize(
    ("kl", "argmax", "passed"), [(0.001, 0.99, True), (0.02, 0.99, False), (0.001, 0.9, False)]
)
def test_both_bounds_count(kl: float, argmax: float, passed: bool):
    verification = Verification(100, kl, argmax, max_kl=0.01, min_argmax=0.97, dtype="float32")
    assert verification.has_passed == passed
