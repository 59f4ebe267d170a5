from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import gguf
import numpy as np
import pytest

from llmedge.core.errors import IntegrityError, UnsupportedError
from llmedge.gguf.reader import read_header
from llmedge.gguf.writer import encode_metadata
from llmedge.quantize import trim_file
from llmedge.quantize.trim_file import plan_file, require_known_tensors, write_file
from tests.quantize.trim_models import write_by_score, write_byte_level

if TYPE_CHECKING:
    from pathlib import Path

N_VOCAB = 636
METADATA = encode_metadata({"general.architecture": "qwen2"})
KEPT = array("i", [0, 1, 5, 6, 7, 300, 634, 635])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_byte_level(tmp_path / "b.gguf")


@pytest.mark.parametrize("block_bytes", [1, 100, 1000, 1 << 22])
def test_rows_of_kept_tokens_are_copied_bit_for_bit(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
):
    monkeypatch.setattr(trim_file, "_BLOCK_BYTES", block_bytes)
    header = read_header(source)
    target = tmp_path / "t.gguf"
    layout = plan_file(header, METADATA, KEPT)
    progress: list[int] = []
    write_file(header, layout, target, lambda n_bytes, _: progress.append(n_bytes))
    assert target.stat().st_size == layout.file_bytes
    assert progress == sorted(progress)
    assert layout.file_bytes - 32 < progress[-1] <= layout.file_bytes
    new = {tensor.name: tensor.data for tensor in gguf.GGUFReader(target).tensors}
    old = {tensor.name: tensor.data for tensor in gguf.GGUFReader(source).tensors}
    assert new.keys() == old.keys()
    for name, data in old.items():
        is_cut = name in ("token_embd.weight", "output.weight", "output.bias")
        assert np.array_equal(new[name], data[list(KEPT)] if is_cut else data), name


def test_embeddings_by_layer_are_cut_as_well(tmp_path: Path):
    rows = np.arange(N_VOCAB * 32, dtype=np.float32).reshape(N_VOCAB, 32)
    source = write_byte_level(
        tmp_path / "b.gguf", change=lambda w: w.add_tensor("per_layer_token_embd.weight", rows)
    )
    header = read_header(source)
    require_known_tensors(header, N_VOCAB)
    target = tmp_path / "t.gguf"
    write_file(header, plan_file(header, METADATA, KEPT), target, lambda *_: None)
    new = {tensor.name: tensor.data for tensor in gguf.GGUFReader(target).tensors}
    assert np.array_equal(new["per_layer_token_embd.weight"], rows[list(KEPT)])


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("blk.1.nextn.embed_tokens.weight", (N_VOCAB, 32)),
        ("blk.0.ffn_gate_tid2eid.weight", (N_VOCAB, 2)),
        ("cls.output.weight", (32, N_VOCAB)),
        ("d2t", (40,)),
        ("per_layer_token_embd.weight", (600, 32)),
        ("output_b", (N_VOCAB,)),
    ],
)
def test_a_tensor_that_may_depend_on_the_vocabulary_is_refused_by_name(
    tmp_path: Path, name: str, shape: tuple[int, ...]
):
    source = write_byte_level(
        tmp_path / "b.gguf", change=lambda w: w.add_tensor(name, np.zeros(shape, np.float32))
    )
    with pytest.raises(UnsupportedError, match=rf"the tensor {name} with shape"):
        require_known_tensors(read_header(source), N_VOCAB)


def test_an_output_with_other_rows_than_the_embedding_is_refused(tmp_path: Path):
    path = tmp_path / "s.gguf"
    wrong = np.zeros((300, 64), np.float32)
    write_by_score(path, change=lambda w: w.add_tensor("output.weight", wrong))
    with pytest.raises(UnsupportedError, match=r"output\.weight"):
        require_known_tensors(read_header(path), read_header(path).tensors[0].shape[1])


def test_a_source_that_becomes_shorter_is_an_error(source: Path, tmp_path: Path):
    header = read_header(source)
    layout = plan_file(header, METADATA, KEPT)
    source.write_bytes(source.read_bytes()[: header.data_offset + 1000])
    with pytest.raises(IntegrityError, match=r"became shorter while token_embd\.weight"):
        write_file(header, layout, tmp_path / "t.gguf", lambda *_: None)
