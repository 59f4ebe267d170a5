from __future__ import annotations

import copy
import ctypes
import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from llmedge.convert.adapter import read_adapter
from llmedge.convert.adapter_file import convert_adapter
from llmedge.core.errors import (
    IntegrityError,
    LlmedgeError,
    NotFoundError,
    UnsupportedError,
    UsageError,
)
from llmedge.gguf.mixes import find_mix
from llmedge.runtime.batch import Batch
from llmedge.runtime.context import Context, ContextOptions
from llmedge.runtime.library import library
from llmedge.runtime.model import Model
from tests.convert.parity import (
    N_TOKENS,
    N_VOCAB,
    compare,
    convert,
    llama_cpp_outputs,
    original_outputs,
    tokens,
)
from tests.convert.tiny_llama import make_llama

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

RANK, ALPHA = 4, 12.0
CONFIG = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA}
LAYER = "model.layers.1."
MATRICES = {
    LAYER + "self_attn.q_proj": (64, 64),
    LAYER + "self_attn.k_proj": (32, 64),
    LAYER + "mlp.down_proj": (64, 96),
    "lm_head": (N_VOCAB, 64),
}


def low_ranks(names: dict[str, tuple[int, int]] = MATRICES) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    tensors: dict[str, torch.Tensor] = {}
    for name, (n_out, n_in) in names.items():
        tensors[f"{name}.lora_A.weight"] = torch.randn(RANK, n_in, generator=generator) * 0.2
        tensors[f"{name}.lora_B.weight"] = torch.randn(n_out, RANK, generator=generator) * 0.2
    return tensors


def save_adapter(folder: Path, tensors: dict[str, torch.Tensor], **settings: Any) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | settings))
    named = {f"base_model.model.{name}": tensor for name, tensor in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors")
    return folder


def added(model: Any, tensors: dict[str, torch.Tensor], scale: float) -> Any:
    """Add low ranks to a copy of a model, as PEFT's `merge_and_unload` does."""
    merged = copy.deepcopy(model)
    with torch.no_grad():
        for name in {name.rpartition(".lora_")[0] for name in tensors}:
            a, b = tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"]
            merged.get_submodule(name).weight += scale * b @ a
    return merged


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("adapter") / "base"
    return folder, make_llama(folder)


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({}, ALPHA / RANK),
        ({"use_rslora": True}, ALPHA / RANK**0.5),
        (
            {"alpha_pattern": dict.fromkeys(("q_proj", "k_proj", "down_proj", "lm_head"), 2.0)},
            2 / RANK,
        ),
    ],
    ids=["plain", "rslora", "alpha pattern"],
)
def test_a_merged_adapter_is_the_merged_model(
    base: tuple[Path, Any], tmp_path: Path, settings: dict[str, Any], scale: float
):
    tensors = low_ranks()
    adapter = read_adapter(save_adapter(tmp_path / "adapter", tensors, **settings))
    path = convert(base[0], tmp_path / "m.gguf", adapter=adapter)
    expected = original_outputs(added(base[1], tensors, scale))
    assert compare(expected, llama_cpp_outputs(path)).is_within(1e-5)


def test_dora_rescales_each_row(base: tuple[Path, Any], tmp_path: Path):
    name = LAYER + "mlp.down_proj"
    tensors = low_ranks({name: MATRICES[name]})
    magnitude = torch.rand(64, generator=torch.Generator().manual_seed(4)) + 0.5
    model = added(base[1], tensors, ALPHA / RANK)
    with torch.no_grad():
        weight = model.get_submodule(name).weight
        weight *= magnitude[:, None] / weight.norm(dim=1, keepdim=True)
    adapter = save_adapter(
        tmp_path / "adapter", tensors | {f"{name}.lora_magnitude_vector": magnitude}, use_dora=True
    )
    path = convert(base[0], tmp_path / "m.gguf", adapter=read_adapter(adapter))
    assert compare(original_outputs(model), llama_cpp_outputs(path)).is_within(1e-5)


def test_an_embedding_and_a_tensor_brought_whole_are_merged(base: tuple[Path, Any], tmp_path: Path):
    generator = torch.Generator().manual_seed(5)
    a, b = (torch.randn(*shape, generator=generator) for shape in ((RANK, N_VOCAB), (64, RANK)))
    head = torch.randn(N_VOCAB, 64, generator=generator)
    adapter = save_adapter(
        tmp_path / "adapter",
        {
            "model.embed_tokens.lora_embedding_A": a,
            "model.embed_tokens.lora_embedding_B": b,
            "lm_head.weight": head,
        },
    )
    model = copy.deepcopy(base[1])
    with torch.no_grad():
        model.model.embed_tokens.weight += ALPHA / RANK * (b @ a).T
        model.lm_head.weight.copy_(head)
    path = convert(base[0], tmp_path / "m.gguf", adapter=read_adapter(adapter))
    assert compare(original_outputs(model), llama_cpp_outputs(path)).is_within(1e-5)


def test_llama_cpp_adds_an_adapter_file_to_the_base(base: tuple[Path, Any], tmp_path: Path):
    tensors = low_ranks()
    adapter = save_adapter(tmp_path / "adapter", tensors)
    path = convert(base[0], tmp_path / "base.gguf")
    target = tmp_path / "lora.gguf"
    report = convert_adapter(base[0], adapter, target, find_mix("F32"), overwrite=False)
    assert report.n_matrices == len(MATRICES)
    expected = original_outputs(added(base[1], tensors, ALPHA / RANK))
    assert compare(expected, logits_with_adapter(path, target)).is_within(1e-5)
    assert not compare(expected, llama_cpp_outputs(path)).is_within(1e-2)


def logits_with_adapter(path: Path, adapter: Path) -> np.ndarray:
    lib = library()
    options = ContextOptions(
        n_ctx=256, n_batch=64, type_k="f32", type_v="f32", flash_attention="off", n_threads=1
    )
    with Model.load(path) as model, Context(model, options) as context, Batch(64) as batch:
        lora = lib.llama_adapter_lora_init(model.pointer, str(adapter).encode())
        assert lora
        adapters, scales = (type(lora) * 1)(lora), (ctypes.c_float * 1)(1.0)
        assert lib.llama_set_adapters_lora(context.pointer, adapters, 1, scales) == 0
        batch.fill(tokens(), 0, n_logits=N_TOKENS)
        context.decode(batch)
        return context.logits().copy()


@pytest.mark.parametrize(
    ("names", "settings", "error"),
    [
        ({"model.layers.9.mlp.up_proj": (96, 64)}, {}, IntegrityError),
        ({LAYER + "mlp.up_proj": (96, 32)}, {}, IntegrityError),
        ({LAYER + "mlp.up_proj": (96, 64)}, {"peft_type": "IA3"}, UnsupportedError),
        ({LAYER + "mlp.up_proj": (96, 64)}, {"lora_alpha": "much"}, IntegrityError),
        ({LAYER + "mlp.up_proj": (96, 64)}, {"use_qalora": True}, UnsupportedError),
        ({LAYER + "mlp.up_proj": (96, 64)}, {"alpha_pattern": {"((a|b)+)+!": 1}}, UnsupportedError),
        ({LAYER + "mlp.up_proj": (96, 64)}, {"lora_alpha": float("nan")}, IntegrityError),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    base: tuple[Path, Any],
    tmp_path: Path,
    names: dict[str, tuple[int, int]],
    settings: dict[str, Any],
    error: type[LlmedgeError],
):
    folder = save_adapter(tmp_path / "adapter", low_ranks(names), **settings)
    with pytest.raises(error):
        convert(base[0], tmp_path / "m.gguf", adapter=read_adapter(folder))


def test_half_an_adapter_is_refused(tmp_path: Path):
    tensors = low_ranks()
    del tensors["lm_head.lora_B.weight"]
    with pytest.raises(IntegrityError, match="lm_head"):
        read_adapter(save_adapter(tmp_path / "adapter", tensors))


def test_a_folder_without_an_adapter_is_not_found(tmp_path: Path):
    with pytest.raises(NotFoundError, match="adapter_config"):
        read_adapter(tmp_path)


def test_what_llama_cpp_cannot_add_to_has_to_be_merged(base: tuple[Path, Any], tmp_path: Path):
    whole = save_adapter(tmp_path / "whole", {"lm_head.weight": torch.ones(N_VOCAB, 64)})
    embedding = save_adapter(
        tmp_path / "embedding",
        {
            "model.embed_tokens.lora_embedding_A": torch.ones(RANK, N_VOCAB),
            "model.embed_tokens.lora_embedding_B": torch.ones(64, RANK),
        },
    )
    for adapter in (whole, embedding):
        with pytest.raises(UnsupportedError, match=r"only adds|cannot add") as refused:
            convert_adapter(
                base[0], adapter, tmp_path / "lora.gguf", find_mix("F16"), overwrite=False
            )
        assert "merge" in refused.value.hint


def test_an_adapter_is_not_quantized_and_replaces_nothing_unasked(
    base: tuple[Path, Any], tmp_path: Path
):
    adapter = save_adapter(tmp_path / "adapter", low_ranks())
    target = tmp_path / "lora.gguf"
    with pytest.raises(UsageError, match="Q4_K_M"):
        convert_adapter(base[0], adapter, target, find_mix("Q4_K_M"), overwrite=False)
    convert_adapter(base[0], adapter, target, find_mix("F16"), overwrite=False)
    with pytest.raises(UsageError, match="exists"):
        convert_adapter(base[0], adapter, target, find_mix("F16"), overwrite=False)
    convert_adapter(base[0], adapter, target, find_mix("F16"), overwrite=True)
