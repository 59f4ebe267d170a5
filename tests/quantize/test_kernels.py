import pytest

from llmedge.gguf.quant_types import BY_NAME
from llmedge.quantize.kernels import KERNELS, fast_types


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("n_in", [576, 640, 768, 2048])
def test_every_processor_has_types_of_4_and_8_bits_that_fit(kernels, n_in: int):
    types = fast_types(kernels, n_in)
    assert all(n_in % kind.block_weights == 0 for kind in types)
    bits = [kind.bits_per_weight for kind in types]
    assert bits == sorted(bits)
    assert min(bits) <= 4.5
    assert max(bits) == 8.5


def test_phones_never_get_a_type_without_a_fast_kernel():
    names = {kind.name for kind in fast_types("arm", 2048)}
    assert names == {"MXFP4", "Q4_0", "IQ4_NL", "Q4_K", "Q5_K", "Q6_K", "Q8_0"}


def test_five_bits_exist_for_rows_that_are_no_multiple_of_256():
    assert "Q5_0" in {kind.name for kind in fast_types("generic", 576)}
    assert "Q5_0" not in {kind.name for kind in fast_types("generic", 768)}


def test_all_names_are_quant_types():
    assert all(name in BY_NAME for names in KERNELS.values() for name in names)
