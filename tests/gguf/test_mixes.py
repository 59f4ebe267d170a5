import ctypes
from pathlib import Path

import numpy as np
import pytest

from llmedge.core.errors import UnsupportedError, UsageError
from llmedge.gguf.mixes import MIXES, Mix, find_mix, require_imatrix
from llmedge.runtime.library import library

REQUIRED = ["Q4_0", "Q4_1", "Q4_K_S", "Q4_K_M", "IQ4_NL", "IQ4_XS", "Q5_K_M", "Q6_K", "Q8_0", "F16"]


def test_the_mixes_that_are_promised_are_there():
    assert set(REQUIRED) <= set(MIXES)


def test_the_numbers_are_llama_cpps_own():
    lib = library()

    for mix in MIXES.values():
        prefix = "LLAMA_FTYPE_ALL_" if mix.name == "F32" else "LLAMA_FTYPE_MOSTLY_"
        assert getattr(lib, prefix + mix.name) == mix.ftype, mix.name


def test_a_mix_is_found_in_any_case():
    assert find_mix("q4_k_m") is MIXES["Q4_K_M"]


def test_an_unknown_mix_is_refused_with_what_is_close():
    with pytest.raises(UsageError, match="unknown mix 'Q4_KM'") as caught:
        find_mix("Q4_KM")
    assert "did you mean Q4_K_M?" in caught.value.hint
    assert "IQ4_NL" in caught.value.hint
    for name in ("Q3_K", "Q4_K", "Q5_K"):  # a quant type, for which there are several mixes
        with pytest.raises(UsageError) as caught:
            find_mix(name)
        assert f"did you mean {name}_M?" in caught.value.hint


def test_a_mix_that_needs_an_importance_matrix_is_refused_without_one():
    mix = find_mix("iq2_xs")
    with pytest.raises(UnsupportedError, match="IQ2_XS needs an importance matrix") as caught:
        require_imatrix(mix, has_imatrix=False)
    assert "Q2_K" in caught.value.hint
    assert require_imatrix(mix, has_imatrix=True) is mix
    assert require_imatrix(find_mix("Q2_K"), has_imatrix=False).name == "Q2_K"


def test_every_mix_of_llama_cpp_is_there_but_the_one_that_it_refuses_itself():
    lib = library()

    numbers = {getattr(lib, name): name for name in dir(lib) if name.startswith("LLAMA_FTYPE_")}
    left = set(numbers) - {mix.ftype for mix in MIXES.values()}
    assert {numbers[number] for number in left} == {
        "LLAMA_FTYPE_GUESSED",
        "LLAMA_FTYPE_MOSTLY_NVFP4",
    }


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
def test_a_mix_uses_an_importance_matrix_when_its_base_type_rounds_otherwise_with_one(mix: Mix):
    lib = library()

    if mix.imatrix == "requires" and mix.name != "Q2_K_S":
        return  # ggml aborts on some of them without one
    folder = Path(lib.__file__).parent / "lib"
    found = sorted(folder.glob("*ggml-base*"), key=lambda path: len(path.name))
    ggml = ctypes.CDLL(str(found[0]))
    random = np.random.default_rng(3)
    row, weights = random.standard_normal((2, 1024)).astype(np.float32)
    weights = weights**2

    def quantized(imatrix: int | None) -> bytes:
        out = ctypes.create_string_buffer(mix.base.row_bytes(row.size))
        ggml.ggml_quantize_chunk(
            mix.base.id,
            ctypes.c_void_p(row.ctypes.data),
            out,
            ctypes.c_int64(0),
            ctypes.c_int64(1),
            ctypes.c_int64(row.size),
            ctypes.c_void_p(imatrix),
        )
        return out.raw

    assert any(quantized(None))
    assert (quantized(None) == quantized(weights.ctypes.data)) == (mix.imatrix == "none")
