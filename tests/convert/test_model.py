from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmedge.convert.config import read_config
from llmedge.convert.model import dominant_type, plan_model
from llmedge.core.errors import IntegrityError, UnsupportedError
from llmedge.runtime.dry_run import check_header
from llmedge.store.checkpoint import FolderCheckpoint
from tests.convert.parity import Case, convert, make_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from llmedge.convert.model import ModelPlan

QWEN2 = Case("qwen2", "qwen2", "Qwen2ForCausalLM")


def plan_without(folder: Path, *names: str) -> ModelPlan:
    make_checkpoint(QWEN2, folder)
    path = folder / "model.safetensors"
    save_file({n: t for n, t in load_file(path).items() if n not in names}, path)
    with FolderCheckpoint(folder) as source:
        return plan_model(source, read_config(folder))


def test_an_output_matrix_that_is_not_tied_must_be_there(tmp_path: Path):
    with pytest.raises(IntegrityError, match="lm_head"):
        plan_without(tmp_path, "lm_head.weight")


def test_the_embedding_must_be_there(tmp_path: Path):
    with pytest.raises(IntegrityError, match="embeddings"):
        plan_without(tmp_path, "model.embed_tokens.weight")


def test_a_bias_that_other_blocks_have_must_be_there(tmp_path: Path):
    with pytest.raises(IntegrityError, match=r"blk\.1\.attn_q\.bias"):
        plan_without(tmp_path, "model.layers.1.self_attn.q_proj.bias")


@pytest.mark.parametrize(
    "name",
    ["model.layers.2.mlp.down_proj.weight", "model.norm.weight"],
)
def test_what_llama_cpp_would_miss_it_says_before_anything_is_written(name: str, tmp_path: Path):
    make_checkpoint(QWEN2, tmp_path / "whole")
    whole = convert(tmp_path / "whole", tmp_path / "whole.gguf")
    data = whole.read_bytes()
    check_header(data, len(data))
    plan_without(tmp_path / "less", name)
    less = convert(tmp_path / "less", tmp_path / "less.gguf").read_bytes()
    with pytest.raises(IntegrityError, match="would not load"):
        check_header(less, len(less))


def test_a_header_that_crashes_llama_cpp_is_an_error(tmp_path: Path):
    odd = Case("granite", "granite", "GraniteForCausalLM", {"partial_rotary_factor": 0.5})
    make_checkpoint(odd, tmp_path / "checkpoint")
    data = convert(tmp_path / "checkpoint", tmp_path / "model.gguf", guarded=False).read_bytes()
    with pytest.raises(IntegrityError, match="n_rot"):
        check_header(data, len(data))


CONTRADICTIONS: tuple[tuple[str, object], ...] = (
    ("num_attention_heads", 3),
    ("num_key_value_heads", 0),
    ("hidden_size", 0),
    ("rms_norm_eps", -1.0),
    ("rope_parameters", {"rope_type": "linear", "rope_theta": 1e4, "factor": float("inf")}),
    ("rope_parameters", {"rope_type": "llama3", "rope_theta": 1e4, "factor": 0}),
    ("vocab_size", 1 << 70),
    ("intermediate_size", 10**400),
    ("hidden_act", []),
    ("max_position_embeddings", -5),
    ("num_hidden_layers", 4),
)


@pytest.mark.parametrize(("field", "value"), CONTRADICTIONS)
def test_a_setting_that_cannot_be_meant_is_an_error_of_ours(
    field: str, value: object, tmp_path: Path
):
    make_checkpoint(Case("llama", "llama", "LlamaForCausalLM"), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    target = tmp_path / "model.gguf"

    def convert_and_check() -> None:
        data = convert(tmp_path, target).read_bytes()
        check_header(data, len(data))

    with pytest.raises((IntegrityError, UnsupportedError)):
        convert_and_check()


@pytest.mark.parametrize(
    ("kinds", "name"),
    [
        ((torch.bfloat16, torch.float32), "BF16"),
        ((torch.float16, torch.float16), "F16"),
        ((torch.float32, torch.float32), "F32"),
        ((torch.int8, torch.int8), "BF16"),
    ],
)
def test_what_most_weights_are_decides(
    kinds: tuple[torch.dtype, torch.dtype], name: str, tmp_path: Path
):
    matrices = {"a": torch.ones(8, 8, dtype=kinds[0]), "b": torch.ones(2, 2, dtype=kinds[1])}
    save_file(matrices, tmp_path / "model.safetensors")
    with FolderCheckpoint(tmp_path) as source:
        assert dominant_type(source).name == name


def test_a_class_that_nobody_knows_is_refused_before_its_tensors_are_looked_at(tmp_path: Path):
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"architectures": ["Unheard"]}')
    with FolderCheckpoint(tmp_path) as source, pytest.raises(UnsupportedError, match="Unheard"):
        plan_model(source, read_config(tmp_path))
