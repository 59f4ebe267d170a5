"""Checkpoints for tests: a safetensors file written by hand, so that any type can be in it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from llmedge.store.checkpoint import FolderCheckpoint

if TYPE_CHECKING:
    from pathlib import Path

    from llmedge.convert.rows import Rows

NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
}
Stored = np.ndarray | tuple[str, np.ndarray]


def store(folder: Path, tensors: dict[str, Stored]) -> FolderCheckpoint:
    """Write tensors and open them; `("F8_E4M3", bytes)` gives a type that numpy has no name for."""
    header, body = {}, b""
    for name, stored in tensors.items():
        dtype, array = stored if isinstance(stored, tuple) else (NAMES[stored.dtype.name], stored)
        data = array.tobytes()
        offsets = [len(body), len(body) + len(data)]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": offsets}
        body += data
    text = json.dumps(header).encode()
    folder.mkdir(parents=True)
    path = folder / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return FolderCheckpoint(folder)


def bfloat16(values: np.ndarray) -> tuple[str, np.ndarray]:
    """Cut floats down to bfloat16."""
    return "BF16", (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def whole(rows: Rows) -> np.ndarray:
    """Read a tensor at once."""
    return rows.read(0, rows.n_rows).reshape(rows.shape)


def in_ranges(rows: Rows, cuts: list[int]) -> np.ndarray:
    """Read a tensor range by range."""
    stops = [*sorted({cut % (rows.n_rows + 1) for cut in cuts}), rows.n_rows]
    pieces, start = [], 0
    for stop in stops:
        pieces.append(rows.read(start, stop))
        assert pieces[-1].shape == (stop - start, rows.n_columns)
        assert pieces[-1].dtype == np.float32
        start = stop
    return np.concatenate(pieces).reshape(rows.shape)
