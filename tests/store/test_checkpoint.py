from __future__ import annotations

import contextlib
import json
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from llmedge.core.errors import IntegrityError, LlmedgeError, NotFoundError, UnsupportedError
from llmedge.store.checkpoint import FolderCheckpoint, TensorEntry

if TYPE_CHECKING:
    from pathlib import Path

MATRIX = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    return folder


def raw_file(path: Path, header: object, data: bytes = b"") -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def entry(dtype: str, shape: list[int], start: int, stop: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def test_rows_of_stacked_matrices_are_read_by_their_number(folder: Path):
    save_file({"a": MATRIX, "b": np.ones(3, np.float16)}, folder / "model.safetensors")
    with FolderCheckpoint(folder) as checkpoint:
        assert checkpoint.tensors["a"] == TensorEntry("F32", (2, 3, 4))
        assert checkpoint.tensors["a"].n_rows == 6
        assert checkpoint.n_bytes == 24 * 4 + 3 * 2
        rows = np.frombuffer(checkpoint.read_rows("a", 2, 5), np.float32).reshape(3, 4)
        np.testing.assert_array_equal(rows, MATRIX.reshape(6, 4)[2:5])


def test_shards_are_read_as_one(folder: Path):
    save_file({"a": MATRIX}, folder / "model-1.safetensors")
    save_file({"b": MATRIX + 1}, folder / "model-2.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with FolderCheckpoint(folder) as checkpoint:
        assert set(checkpoint.tensors) == {"a", "b"}
        assert np.frombuffer(checkpoint.read_rows("b", 0, 1), np.float32)[0] == 1


def test_the_identity_changes_with_the_contents(folder: Path):
    path = folder / "model.safetensors"
    save_file({"a": MATRIX}, path)
    with FolderCheckpoint(folder) as checkpoint:
        before = checkpoint.identity
    save_file({"a": MATRIX, "b": MATRIX}, path)
    with FolderCheckpoint(folder) as checkpoint:
        assert checkpoint.identity != before


def test_a_missing_shard_is_named(folder: Path):
    index = {"weight_map": {"a": "model-1.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(NotFoundError, match=r"model-1\.safetensors"):
        FolderCheckpoint(folder)


def test_an_index_cannot_name_a_file_elsewhere(folder: Path):
    save_file({"a": MATRIX}, folder.parent / "other.safetensors")
    index = {"weight_map": {"a": "../other.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(NotFoundError):
        FolderCheckpoint(folder)


def test_pickles_are_refused_with_a_way_out(folder: Path):
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(UnsupportedError, match="pickles") as refused:
        FolderCheckpoint(folder)
    assert "weights_only=True" in refused.value.hint


def test_the_way_out_of_pickles_works(folder: Path):
    torch.save({"a": torch.ones(2, 3), "b": torch.ones(1)}, folder / "pytorch_model.bin")
    with pytest.raises(UnsupportedError) as refused:
        FolderCheckpoint(folder)
    program = refused.value.hint.partition('python -c "')[2].removesuffix('"')
    program = program.replace("FILE.bin", "pytorch_model.bin")
    subprocess.run([sys.executable, "-c", program], cwd=folder, check=True)
    with FolderCheckpoint(folder) as checkpoint:
        assert set(checkpoint.tensors) == {"a", "b"}


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_folder_without_weights_is_not_found(folder: Path, name: str):
    with pytest.raises(NotFoundError):
        FolderCheckpoint(folder if name == "empty" else folder / name)


@pytest.mark.parametrize(
    ("header", "data"),
    [
        (b"{", b""),
        ([1], b""),
        ({"a": entry("F32", [2], 0, 4)}, bytes(4)),
        ({"a": entry("F32", [2], 0, 8)}, bytes(4)),
        ({"a": entry("F32", [2], 0, 8)}, bytes(12)),
        ({"a": entry("F32", [2], 4, 12)}, bytes(12)),
        ({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 4, 12)}, bytes(12)),
        ({"a": entry("F32", [-2, -1], 0, 8)}, bytes(8)),
        ({"a": entry("X9", [2], 0, 8)}, bytes(8)),
        ({"a": entry("F32", [0, 2], 0, 0)}, b""),
        (b"[" * 300_000, b""),
        ({"a": {"dtype": "F32"}}, b""),
        ({"a": entry("F32", [2], -8, 0)}, bytes(8)),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(folder: Path, header: object, data: bytes):
    raw_file(folder / "model.safetensors", header, data)
    with pytest.raises((IntegrityError, UnsupportedError)):
        FolderCheckpoint(folder)


def test_a_header_longer_than_the_file_is_refused_at_once(folder: Path):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 62) + b"{}")
    with pytest.raises(IntegrityError, match="truncated"):
        FolderCheckpoint(folder)


@given(data=st.binary(max_size=200))
@settings(max_examples=50, deadline=None)
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes):
    folder = tmp_path_factory.mktemp("fuzz")
    raw_file(folder / "model.safetensors", data)
    with contextlib.suppress(LlmedgeError):
        FolderCheckpoint(folder).close()


def test_a_file_that_shrinks_while_it_is_read_is_an_error(folder: Path):
    save_file({"a": MATRIX}, folder / "model.safetensors")
    with FolderCheckpoint(folder) as checkpoint:
        size = (folder / "model.safetensors").stat().st_size
        with (folder / "model.safetensors").open("r+b") as file:
            file.truncate(size - 8)
        with pytest.raises(IntegrityError, match="shorter"):
            checkpoint.read_rows("a", 0, 6)
