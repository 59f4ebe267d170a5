from pathlib import Path

import gguf
import pytest

from llmedge.device.work import work_of
from llmedge.gguf.memory import KvCacheOptions
from llmedge.gguf.reader import read_header
from tests.gguf_files import write_tiny_model


def test_a_tied_embedding_is_read_once_and_its_rows_are_not_multiplied_in_prompts(smollm2: Path):
    header = read_header(smollm2)
    work = work_of(header, KvCacheOptions(256))
    names = {tensor.name for tensor in header.tensors}
    assert "output.weight" not in names
    assert sum(work.streamed_bytes.values()) == header.tensor_bytes
    assert sum(work.prompt_weights.values()) == sum(
        t.n_weights for t in header.tensors if t.name.startswith("blk.") and len(t.shape) > 1
    )
    assert (work.n_layers, work.n_recurrent) == (30, 0)


def test_an_embedding_beside_an_output_matrix_is_only_looked_up(tmp_path: Path):
    header = read_header(write_tiny_model(tmp_path / "tiny.gguf"))
    sizes = {tensor.name: tensor.n_bytes for tensor in header.tensors}
    work = work_of(header, KvCacheOptions(256))
    looked_up = sizes["token_embd.weight"] if "output.weight" in sizes else 0
    assert sum(work.streamed_bytes.values()) == header.tensor_bytes - looked_up


def test_of_experts_only_the_chosen_ones_count(tmp_path: Path):
    def change(writer: gguf.GGUFWriter) -> None:
        writer.add_expert_count(8)
        writer.add_expert_used_count(2)
        import numpy as np

        writer.add_tensor("blk.0.ffn_up_exps.weight", np.zeros((8, 32, 256), np.float16))

    plain = work_of(read_header(write_tiny_model(tmp_path / "a.gguf")), KvCacheOptions(256))
    header = read_header(write_tiny_model(tmp_path / "b.gguf", change=change))
    mixed = work_of(header, KvCacheOptions(256))
    added = sum(mixed.streamed_bytes.values()) - sum(plain.streamed_bytes.values())
    assert added == pytest.approx(2 * 32 * 256 * 2)
