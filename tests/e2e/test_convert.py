"""A real checkpoint: SmolLM2 as transformers saves it, converted, verified and asked."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers

from llmedge.gguf.reader import read_header

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Result

pytestmark = [
    pytest.mark.model,
    # What transformers itself does while it reads a GGUF file.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def checkpoint(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 in BF16, with its tokenizer and chat template."""
    folder = tmp_path_factory.mktemp("smollm2") / "SmolLM2-135M-Instruct"
    auto: Any = transformers.AutoModelForCausalLM
    read = auto.from_pretrained(smollm2.parent, gguf_file=smollm2.name, dtype=torch.float32)
    # A model read from GGUF counts as quantized, and transformers saves none; its copy does not.
    settings = {k: v for k, v in read.config.to_dict().items() if k != "quantization_config"}
    model: Any = transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings))
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    model.bfloat16().save_pretrained(folder, max_shard_size="100MB")
    tokenizer: Any = transformers.AutoTokenizer
    tokenizer.from_pretrained(smollm2.parent, gguf_file=smollm2.name).save_pretrained(folder)
    return folder


def test_it_converts_agrees_with_the_original_and_answers(
    cli: Callable[..., Result], checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    target = tmp_path / "smollm2.gguf"
    result = cli("convert", checkpoint, "-t", "BF16", "-o", target, "--verify")
    assert result.code == 0, result.err
    assert "1202 of 1202 texts alike" in result.out
    assert "verified against transformers" in result.err
    assert read_header(target).text("tokenizer.chat_template")
    monkeypatch.setattr(sys, "stdin", io.StringIO("What is the capital of France?"))
    answer = cli("chat", target, "--temperature", "0")
    assert "Paris" in answer.out
