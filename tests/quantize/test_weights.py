import numpy as np
import pytest

from llmedge.gguf.quant_types import BY_NAME
from llmedge.gguf.reader import read_header
from llmedge.quantize import weights as weights_module
from llmedge.quantize.weights import Part, Weights, n_matrices, round_trip, weighted_error
from tests.gguf_files import write_tiny_model


def add_stack(writer) -> None:
    stack = np.arange(3 * 8 * 256, dtype=np.float32).reshape(3, 8, 256)
    writer.add_tensor("blk.9.ffn_up_exps.weight", stack)


@pytest.fixture
def stacked(tmp_path):
    path = write_tiny_model(tmp_path / "tiny.gguf", change=add_stack)
    importance = {"blk.9.ffn_up_exps.weight": np.array([[1] * 256, [2] * 256, [3] * 256], "f4")}
    header = read_header(path)
    with Weights(header, importance) as reader:
        yield reader, reader.tensors["blk.9.ffn_up_exps.weight"]


def test_parts_are_all_rows_and_stay_inside_one_matrix(stacked, monkeypatch):
    reader, tensor = stacked
    monkeypatch.setattr(weights_module, "_PART_BYTES", 3 * 4 * 256)
    parts = list(reader.parts(tensor))
    assert [part.first for part in parts] == [0, 3, 6, 8, 11, 14, 16, 19, 22]
    rows = np.concatenate([part.rows for part in parts])
    assert np.array_equal(rows.ravel(), np.arange(3 * 8 * 256))
    assert [part.importance[0] for part in parts] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert n_matrices(tensor) == 3


def test_a_sample_is_spread_over_every_matrix(stacked):
    reader, tensor = stacked
    parts = list(reader.sample(tensor, 6))
    assert [part.rows.shape for part in parts] == [(4, 256)] * 3
    assert [int(row[0]) // 256 for part in parts for row in part.rows] == [
        *(0, 2, 4, 6),
        *(8, 10, 12, 14),
        *(16, 18, 20, 22),
    ]


def test_raw_bytes_are_the_files(stacked):
    reader, tensor = stacked
    data = b"".join(bytes(part) for _, part in reader.raw(tensor))
    assert data == np.arange(3 * 8 * 256, dtype=np.float32).tobytes()


def test_an_importance_of_another_size_does_not_count(tiny_model):
    with Weights(read_header(tiny_model), {"output.weight": np.ones((1, 8), "f4")}) as reader:
        (part, *_) = reader.parts(reader.tensors["output.weight"])
    assert part.importance is None


def test_what_a_type_leaves_is_close_and_importance_moves_the_error():
    random = np.random.default_rng(0)
    rows = random.standard_normal((64, 256)).astype(np.float32)
    importance = np.where(np.arange(256) < 16, 100, 0.01).astype(np.float32)
    plain, weighed = Part(0, rows, None), Part(0, rows, importance)
    kind = BY_NAME["Q4_K"]
    assert np.abs(round_trip(plain, kind) - rows).max() < 0.5
    with_it = weighted_error(weighed, round_trip(weighed, kind))
    without = weighted_error(weighed, round_trip(plain, kind))
    assert with_it < 0.9 * without


def test_the_error_is_that_of_the_products():
    random = np.random.default_rng(1)
    rows = random.standard_normal((8, 32)).astype(np.float32)
    other = rows + random.standard_normal((8, 32)).astype(np.float32) / 10
    inputs = random.standard_normal((200_000, 32)).astype(np.float32)
    part = Part(0, rows, np.square(inputs).mean(axis=0))
    products = np.square(inputs @ (other - rows).T).mean(axis=0).sum()
    assert weighted_error(part, other) == pytest.approx(products, rel=0.02)
