"""What follows the transformer in an embedding model: pooling, and dense layers after it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from llmedge.convert.config import read_json
from llmedge.convert.pooling import read_pooling
from llmedge.convert.rows import source_rows
from llmedge.core.errors import UnsupportedError
from llmedge.store.checkpoint import FolderCheckpoint

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from llmedge.convert.model import ModelPlan
    from llmedge.convert.rows import Rows
    from llmedge.gguf.writer import Value

_IDENTITY = "torch.nn.modules.linear.Identity"


def add_pooling(model: ModelPlan, folder: Path) -> ModelPlan:
    """Return a model with what its checkpoint's `modules.json` asks for after it.

    What the architecture itself says of pooling (a reranker's does) stands.

    Raises:
        UnsupportedError: llama.cpp does not compute it.
        IntegrityError: A file is malformed or missing.
    """
    pooling = read_pooling(folder)
    if pooling is None:
        return model
    name = model.architecture.name
    if pooling.dense and not model.architecture.has_dense:
        raise UnsupportedError(
            f"modules.json asks for dense layers, which llama.cpp does not compute after {name}",
            "use an embedding model of transformer, pooling and normalization",
        )
    rows: dict[str, Rows] = {}
    values: dict[str, Value] = {f"{name}.pooling_type": pooling.type}
    identity = ""
    for number, module in enumerate(pooling.dense, start=2):
        dense, of_dense = _read_dense(module)
        identity += of_dense
        rows[f"dense_{number}.weight"] = dense
        values[f"{name}.dense_{number}_feat_in"] = dense.n_columns
        values[f"{name}.dense_{number}_feat_out"] = dense.n_rows
    merged: Mapping[str, Value] = {**values, **model.metadata}
    return replace(model, rows={**model.rows, **rows}, metadata=merged, identity=identity)


def _read_dense(module: Path) -> tuple[Rows, str]:
    """Return one dense layer and its identity."""
    settings = read_json(module / "config.json") or {}
    if settings.get("bias") or settings.get("activation_function", _IDENTITY) != _IDENTITY:
        raise UnsupportedError(
            f"{module} has a bias or an activation, which llama.cpp does not compute there"
        )
    source = FolderCheckpoint(module)  # closes with the rows that are read from it
    if set(source.tensors) != {"linear.weight"}:
        raise UnsupportedError(f"{module} holds {sorted(source.tensors)}, not linear.weight")
    return source_rows(source, "linear.weight"), source.identity
