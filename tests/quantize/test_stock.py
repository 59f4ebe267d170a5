import pytest

from llmedge.gguf.mixes import find_mix
from llmedge.gguf.quant_types import BY_NAME, F16, align
from llmedge.gguf.reader import read_header
from llmedge.quantize.kernels import KERNELS
from llmedge.quantize.stock import best_stock, stock_types
from llmedge.runtime.quantizer import Quantizer, QuantizerOptions
from tests.gguf.model_headers import MODELS

ALL = {name for names in KERNELS.values() for name in names}


def size(header, types) -> int:
    return sum(align(BY_NAME[types[t.name]].row_bytes(t.n_weights), 32) for t in header.tensors)


@pytest.mark.parametrize("name", ["smollm2", "falcon", "tied embeddings"])
def test_types_are_llama_cpps_own(tmp_path, name: str):
    path = MODELS[name].write(tmp_path / "model.gguf", F16)
    header = read_header(path)
    for mix in (find_mix("Q4_K_M"), find_mix("Q3_K_M")):
        with Quantizer(header, QuantizerOptions(mix.ftype, 1)) as quantizer:
            expected = {tensor.name: tensor.target_type for tensor in quantizer.plan()}
        assert stock_types(header, mix, has_imatrix=False) == expected


def test_the_best_mix_is_the_largest_of_the_ladder_that_fits(tmp_path):
    header = read_header(MODELS["tied embeddings"].write(tmp_path / "model.gguf", F16))
    sizes = {
        name: size(header, stock_types(header, find_mix(name), has_imatrix=True))
        for name in ("Q5_K_S", "Q4_K_M", "Q4_K_S")
    }
    exactly = best_stock(header, sizes["Q4_K_M"], ALL, has_imatrix=True)
    assert exactly is find_mix("Q4_K_M")
    assert best_stock(header, sizes["Q4_K_M"] - 1, ALL, has_imatrix=True) is find_mix("Q4_K_S")
    assert best_stock(header, sizes["Q5_K_S"] + 1, ALL, has_imatrix=True) is find_mix("Q5_K_S")
    assert best_stock(header, 1000, ALL, has_imatrix=True) is None


def test_a_mix_with_slow_types_is_no_rival(tmp_path):
    header = read_header(MODELS["tied embeddings"].write(tmp_path / "model.gguf", F16))
    budget = size(header, stock_types(header, find_mix("Q3_K_M"), has_imatrix=True))
    assert best_stock(header, budget, ALL, has_imatrix=True) is find_mix("Q3_K_M")
    assert best_stock(header, budget, KERNELS["arm"], has_imatrix=True) is None
