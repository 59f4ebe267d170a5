import pytest

from llmedge.core.errors import UnsupportedError, UsageError
from llmedge.gguf.mixes import MIXES, find_mix

REQUIRED = ["Q4_0", "Q4_1", "Q4_K_S", "Q4_K_M", "IQ4_NL", "IQ4_XS", "Q5_K_M", "Q6_K", "Q8_0", "F16"]


def test_the_mixes_that_are_promised_are_there():
    assert set(REQUIRED) <= set(MIXES)


def test_the_numbers_are_llama_cpps_own():
    import llama_cpp.llama_cpp as lib

    for mix in MIXES.values():
        prefix = "LLAMA_FTYPE_ALL_" if mix.name == "F32" else "LLAMA_FTYPE_MOSTLY_"
        assert getattr(lib, prefix + mix.name) == mix.ftype, mix.name


def test_a_mix_is_found_in_any_case():
    assert find_mix("q4_k_m") is MIXES["Q4_K_M"]


def test_an_unknown_mix_is_refused_with_what_is_close():
    with pytest.raises(UsageError, match="unknown mix 'Q4_KM'") as caught:
        find_mix("Q4_KM")
    assert "did you mean Q4_K_" in caught.value.hint
    assert "IQ4_NL" in caught.value.hint


def test_a_mix_that_needs_an_importance_matrix_says_so():
    with pytest.raises(UnsupportedError, match="IQ2_XS needs an importance matrix"):
        find_mix("iq2_xs")
