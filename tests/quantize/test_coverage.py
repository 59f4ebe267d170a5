import numpy as np
import pytest

from llmedge.core.errors import UnsupportedError
from llmedge.core.progress import SilentProgress
from llmedge.gguf.mixes import find_mix
from llmedge.gguf.reader import read_header
from llmedge.quantize.coverage import EXPECTED_METADATA, read_coverage
from llmedge.quantize.execute import quantize
from llmedge.quantize.job import QuantizeOptions
from llmedge.quantize.weights import Weights
from tests.gguf.imatrix_files import write_imatrix
from tests.gguf_files import write_tiny_model

NAMES = [
    *(f"blk.0.attn_{part}.weight" for part in ("q", "k", "v", "output")),
    *(f"blk.0.ffn_{part}.weight" for part in ("gate", "up", "down")),
    "output.weight",
]


def ones(names, n_matrices: int = 1):
    random = np.random.default_rng(0)
    return {name: (random.random((n_matrices, 256)) + 1, [10.0] * n_matrices) for name in names}


def test_what_is_covered_is_counted_and_the_rest_named(tiny_model, tmp_path):
    path = write_imatrix(tmp_path / "imatrix.gguf", ones(NAMES[:-2]))
    coverage = read_coverage(path, read_header(tiny_model))
    assert coverage.n_tensors == 6
    assert coverage.uncovered == ("blk.0.ffn_down.weight", "output.weight")
    assert coverage.metadata.keys() == EXPECTED_METADATA.keys()


def test_a_matrix_of_another_model_is_refused(tiny_model, tmp_path):
    other = write_imatrix(tmp_path / "other.gguf", ones(["blk.9.attn_q.weight"]))
    with pytest.raises(UnsupportedError, match="covers no tensor"):
        read_coverage(other, read_header(tiny_model))
    sums = {"blk.0.attn_q.weight": ([[1.0] * 64], [1.0])}
    narrow = write_imatrix(tmp_path / "narrow.gguf", sums)
    with pytest.raises(UnsupportedError, match="64 columns"):
        read_coverage(narrow, read_header(tiny_model))


def test_experts_that_no_token_reached_are_named(tmp_path):
    def add_experts(writer):
        writer.add_tensor("blk.9.ffn_up_exps.weight", np.ones((3, 8, 256), np.float32))

    model = write_tiny_model(tmp_path / "tiny.gguf", change=add_experts)
    sums = {"blk.9.ffn_up_exps.weight": (np.full((3, 256), 2.0), [4.0, 0.0, 4.0])}
    path = write_imatrix(tmp_path / "imatrix.gguf", sums)
    assert read_coverage(path, read_header(model)).unreached == ("blk.9.ffn_up_exps.weight: 1",)


def test_a_tensor_that_is_not_covered_gets_more_bits_instead_of_garbage(
    tiny_model, tmp_path, settings
):
    path = write_imatrix(tmp_path / "imatrix.gguf", ones(NAMES[:-2]))
    options = QuantizeOptions(output=tmp_path / "out", imatrix=path)
    report = quantize(tiny_model, find_mix("IQ2_XS"), options, settings, SilentProgress())
    types = {tensor.name: tensor.quant_type.name for tensor in read_header(report.path).tensors}
    assert types["blk.0.ffn_up.weight"] == "IQ2_XS"
    assert types["blk.0.ffn_down.weight"] == "Q3_K"


@pytest.mark.parametrize("sums_and_counts", [([[3.0] * 256], [0.0]), ([[0.0] * 256], [10.0])])
def test_a_tensor_that_no_token_reached_is_named_and_gets_more_bits(
    tiny_model, tmp_path, settings, sums_and_counts
):
    entries = {**ones(NAMES), "blk.0.ffn_down.weight": sums_and_counts}
    path = write_imatrix(tmp_path / "imatrix.gguf", entries)
    options = QuantizeOptions(output=tmp_path / "out", imatrix=path)
    report = quantize(tiny_model, find_mix("IQ2_XS"), options, settings, SilentProgress())
    assert report.coverage.unreached == ("blk.0.ffn_down.weight",)
    types = {tensor.name: tensor.quant_type.name for tensor in read_header(report.path).tensors}
    assert types["blk.0.ffn_down.weight"] == "Q3_K"


def test_columns_that_nothing_entered_are_no_garbage_on_another_text(
    tiny_model, tmp_path, settings
):
    """A block whose weights all count for nothing would become zeros."""
    name = "blk.0.ffn_down.weight"
    sums = np.random.default_rng(0).random((1, 256)) + 1
    errors: list[float] = []
    for n_dead in (0, 128):
        dead = sums.copy()
        dead[:, :n_dead] = 0
        path = write_imatrix(tmp_path / "i.gguf", {**ones(NAMES), name: (dead, [10.0])})
        options = QuantizeOptions(output=tmp_path / "out", imatrix=path, overwrite=True)
        report = quantize(tiny_model, find_mix("IQ4_XS"), options, settings, SilentProgress())
        rows = [read_rows(file, name)[:, :128] for file in (tiny_model, report.path)]
        errors.append(float(np.square(rows[1] - rows[0]).sum() / np.square(rows[0]).sum()))
    assert errors[1] < 1.5 * errors[0] < 0.02


def read_rows(path, name: str):
    with Weights(read_header(path), {}) as weights:
        return np.concatenate([part.rows for part in weights.parts(weights.tensors[name])])
