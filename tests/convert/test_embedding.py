from __future__ import annotations

import ctypes
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from llmedge.convert.config import read_config
from llmedge.convert.embedding import add_pooling
from llmedge.convert.model import plan_model
from llmedge.core.errors import UnsupportedError
from llmedge.runtime.batch import Batch
from llmedge.runtime.context import Context, ContextOptions
from llmedge.runtime.library import library
from llmedge.runtime.model import Model
from llmedge.store.checkpoint import FolderCheckpoint
from tests.convert.cases_gemma import EMBEDDING
from tests.convert.parity import N_TOKENS, Case, convert, make_checkpoint, tokens

if TYPE_CHECKING:
    from pathlib import Path

GEMMA = Case("gemma-embedding", "gemma3_text", "Gemma3TextModel", EMBEDDING)
BERT = Case("bert", "bert", "BertModel", {"num_key_value_heads": None})


def add_modules(folder: Path, *, mode: str = "mean", **dense: Any) -> list[torch.Tensor]:
    """Write the files of sentence-transformers: pooling, and two dense layers."""
    modules = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense")]
    modules += [("Dense", "3_Dense"), ("Normalize", "4_Normalize")]
    listed = [{"type": f"sentence_transformers.models.{kind}", "path": at} for kind, at in modules]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": mode}))
    random = torch.Generator().manual_seed(7)
    weights = [torch.randn(*shape, generator=random) for shape in ((96, 64), (64, 96))]
    for name, weight in zip(("2_Dense", "3_Dense"), weights, strict=True):
        (folder / name).mkdir()
        identity = "torch.nn.modules.linear.Identity"
        settings = {"bias": False, "activation_function": identity, **dense}
        (folder / name / "config.json").write_text(json.dumps(settings))
        save_file({"linear.weight": weight}, folder / name / "model.safetensors")
    return weights


def pooled_embedding(path: Path) -> np.ndarray:
    lib = library()
    options = ContextOptions(n_ctx=64, n_batch=64, flash_attention="off", n_threads=1)
    with Model.load(path) as model, Context(model, options) as context, Batch(64) as batch:
        lib.llama_set_embeddings(context.pointer, True)
        batch.fill(tokens(), 0, n_logits=N_TOKENS)
        context.decode(batch)
        pointer = lib.llama_get_embeddings_seq(context.pointer, 0)
        assert pointer
        n_embd = lib.llama_model_n_embd(model.pointer)
        return np.ctypeslib.as_array(
            ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), (n_embd,)
        ).copy()


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_dense_layers_after_pooling_are_those_of_the_original(tmp_path: Path):
    folder = tmp_path / "checkpoint"
    model = make_checkpoint(GEMMA, folder)
    first, second = add_modules(folder)
    with torch.no_grad():
        states = model(torch.tensor([tokens()])).last_hidden_state[0]
        expected = (states.mean(0) @ first.T @ second.T).numpy()
    found = pooled_embedding(convert(folder, tmp_path / "m.gguf"))
    assert cosine(expected, found) > 0.9999  # the kv cache is in F16 here, GELU a table of F16


def test_the_way_of_pooling_is_written(tmp_path: Path):
    make_checkpoint(GEMMA, tmp_path)
    add_modules(tmp_path, mode="cls")
    with FolderCheckpoint(tmp_path) as source:
        plan = add_pooling(plan_model(source, read_config(tmp_path)), tmp_path)
    assert plan.metadata["gemma-embedding.pooling_type"] == 2
    assert plan.metadata["gemma-embedding.dense_3_feat_out"] == 64


@pytest.mark.parametrize("settings", [{"bias": True}, {"activation_function": "torch.nn.Tanh"}])
def test_a_dense_layer_that_llama_cpp_does_not_compute_is_refused(
    settings: dict[str, Any], tmp_path: Path
):
    make_checkpoint(GEMMA, tmp_path)
    add_modules(tmp_path, **settings)
    with FolderCheckpoint(tmp_path) as source, pytest.raises(UnsupportedError, match="2_Dense"):
        add_pooling(plan_model(source, read_config(tmp_path)), tmp_path)


def test_dense_layers_after_another_architecture_are_refused(tmp_path: Path):
    make_checkpoint(BERT, tmp_path)
    add_modules(tmp_path)
    with FolderCheckpoint(tmp_path) as source, pytest.raises(UnsupportedError, match="dense"):
        add_pooling(plan_model(source, read_config(tmp_path)), tmp_path)
