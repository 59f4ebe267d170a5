from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

from llmedge.convert.config import read_config
from llmedge.convert.model import plan_model
from llmedge.store.checkpoint import FolderCheckpoint
from tests.convert.cases_deepseek import THREE, V3
from tests.convert.parity import Case, make_checkpoint

if TYPE_CHECKING:
    from pathlib import Path


def test_a_block_that_drafts_tokens_is_left_out(tmp_path: Path):
    make_checkpoint(Case("drafts", *THREE, V3), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    after = {
        f"model.layers.3.{name}.weight": torch.ones(64) for name in ("enorm", "input_layernorm")
    }
    save_file({**tensors, **after}, tmp_path / "model.safetensors")
    with FolderCheckpoint(tmp_path) as source:
        plan = plan_model(source, read_config(tmp_path))
    assert set(plan.ignored) == set(after)
    assert not any(name.startswith("blk.3.") for name in plan.rows)
