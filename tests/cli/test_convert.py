from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from llmedge.gguf.reader import read_header
from llmedge.store.manifest import hash_file
from tests.convert.tiny_llama import make_llama

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Result


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    make_llama(folder)
    return folder


def test_convert_prints_one_row_and_explains_on_stderr(
    cli: Callable[..., Result], checkpoint: Path, tmp_path: Path
):
    result = cli("convert", checkpoint, "-t", "Q4_K_M", "-o", tmp_path / "m.gguf")
    assert result.code == 0
    assert "1202 of 1202 texts alike" in result.out
    assert "whose blocks their rows do not fit" in result.err
    assert "--imatrix" in result.err
    assert read_header(tmp_path / "m.gguf").architecture == "llama"


def test_a_dry_run_tells_everything_and_writes_nothing(
    cli: Callable[..., Result], checkpoint: Path, tmp_path: Path
):
    target = tmp_path / "m.gguf"
    plan = cli("convert", checkpoint, "-t", "Q8_0", "-o", target, "--dry-run")
    for word in ("LlamaForCausalLM → llama", "gpt2/gpt-2", "Q8_0", "peak memory", "bytes)"):
        assert word in plan.out
    planned = cli("convert", checkpoint, "-t", "Q8_0", "-o", target, "--dry-run", "--json").json
    assert not target.exists()
    done = cli("convert", checkpoint, "-t", "Q8_0", "-o", target, "--json").json
    (before,), (after,) = planned["results"], done["results"]  # type: ignore[misc]
    assert before["file_bytes"] == after["file_bytes"] == target.stat().st_size
    assert before["sha256"] == []
    assert after["sha256"] == [hash_file(target)]


def test_a_converted_model_is_in_the_store(cli: Callable[..., Result], checkpoint: Path):
    assert cli("convert", checkpoint, "-t", "F16").code == 0
    assert "tiny" in cli("list").out
    shown = cli("show", "tiny:F16").out
    assert "llama" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        ((), 2, "folder is missing"),
        (("nowhere",), 3, "nowhere"),
        (("{checkpoint}", "-t", "Q9"), 2, "Q9"),
        (("{checkpoint}", "-t", "IQ1_S"), 4, "importance matrix"),
        (("{checkpoint}", "--imatrix", "nowhere.gguf"), 3, "nowhere.gguf"),
        (("{checkpoint}", "--memory", "10MiB"), 5, "too little"),
        (("{checkpoint}", "--split-max-size", "1k", "-o", "{checkpoint}/m.gguf"), 2, "token_embd"),
        (("{checkpoint}", "--split-max-size", "1MB"), 2, "store"),
        (("{checkpoint}", "-o", "{checkpoint}/config.gguf"), 2, "in the way"),
        (
            ("{checkpoint}", "--adapter-only", "--adapter", "x", "-o", "y", "--dry-run"),
            2,
            "none of",
        ),
        (("{checkpoint}", "--adapter", "nowhere"), 3, "nowhere"),
        (("{checkpoint}", "--adapter-only"), 2, "--adapter"),
        (("{checkpoint}", "-o", "model.safetensors"), 2, ".gguf"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(
    cli: Callable[..., Result], checkpoint: Path, arguments: tuple[str, ...], code: int, word: str
):
    result = cli("convert", *(text.format(checkpoint=checkpoint) for text in arguments))
    assert result.code == code, result.err
    assert word in result.err
    assert "Traceback" not in result.err


def test_the_classes_are_listed_with_their_parity(cli: Callable[..., Result]):
    result = cli("convert", "--list-architectures")
    assert result.code == 0
    assert "LlamaForCausalLM" in result.out
    rows = cli("convert", "--list-architectures", "--json").json["results"]
    assert isinstance(rows, list)
    assert len(rows) >= 40
    assert all(row["argmax"] == 1 for row in rows)


def test_a_conversion_that_is_killed_goes_on_where_it_was(
    cli: Callable[..., Result], tmp_path: Path
):
    """A process that is really killed, at whatever moment it had reached."""
    folder, target = tmp_path / "wide", tmp_path / "m.gguf"
    make_llama(folder, hidden_size=512, intermediate_size=2048, num_hidden_layers=8)
    command = [sys.executable, "-m", "llmedge", "convert", folder, "-t", "Q4_K_M", "-o", target]
    command += ["--threads", "1"]
    unfinished = tmp_path / ".m.gguf.unfinished"
    process = subprocess.Popen([str(part) for part in command], stderr=subprocess.DEVNULL)
    while process.poll() is None and not (unfinished.exists() and unfinished.stat().st_size):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not target.exists()
    assert unfinished.exists()
    assert cli("convert", folder, "-t", "Q4_K_M", "-o", target, "--threads", "1").code == 0
    peace = tmp_path / "peace.gguf"
    assert cli("convert", folder, "-t", "Q4_K_M", "-o", peace, "--threads", "1").code == 0
    assert hash_file(target) == hash_file(peace)
    assert not unfinished.exists()


def test_an_adapter_is_merged_or_written_alone(
    cli: Callable[..., Result], checkpoint: Path, tmp_path: Path
):
    import torch
    from safetensors.torch import save_file

    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {
        f"{name}.lora_A.weight": torch.ones(2, 64),
        f"{name}.lora_B.weight": torch.ones(64, 2),
    }
    save_file(tensors, adapter / "adapter_model.safetensors")
    alone = tmp_path / "lora.gguf"
    flags = ("--adapter", adapter, "-t", "F16", "-o")
    assert cli("convert", checkpoint, "--adapter-only", *flags, alone).code == 0
    assert {tensor.name for tensor in read_header(alone).tensors} == {
        "blk.0.attn_q.weight.lora_a",
        "blk.0.attn_q.weight.lora_b",
    }
    assert cli("convert", checkpoint, *flags, tmp_path / "merged.gguf").code == 0
    assert cli("convert", checkpoint, "-t", "F16", "-o", tmp_path / "plain.gguf").code == 0
    assert hash_file(tmp_path / "merged.gguf") != hash_file(tmp_path / "plain.gguf")
