import pytest

from llmedge.core.errors import NotFoundError
from llmedge.store.gguf_names import choose_gguf, model_files, variant_of

FILES = ["README.md", "m-Q2_K.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf", "mmproj-m-F16.gguf"]


def test_the_usual_variant_is_llama_cpps():
    assert choose_gguf("a/m", FILES, None) == ["m-Q4_K_M.gguf"]
    assert choose_gguf("a/m", ["m-Q2_K.gguf", "m-Q8_0.gguf"], None) == ["m-Q8_0.gguf"]
    assert choose_gguf("a/m", ["m-Q6_K.gguf", "m-Q2_K.gguf"], None) == ["m-Q2_K.gguf"]


@pytest.mark.parametrize("variant", ["Q8_0", "q8_0"])
def test_a_variant_is_found_whatever_its_case(variant: str):
    assert choose_gguf("a/m", FILES, variant) == ["m-Q8_0.gguf"]


def test_a_variant_in_parts_comes_with_all_of_them():
    parts = [f"BF16/m-BF16-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    assert choose_gguf("a/m", [*reversed(parts), *FILES], "BF16") == parts
    with pytest.raises(NotFoundError, match="00002-of-00003"):
        choose_gguf("a/m", [parts[0], parts[2]], "BF16")


def test_a_variant_that_is_not_there_lists_the_others_and_suggests_one():
    with pytest.raises(NotFoundError, match="a/m:Q4_K_S is not among") as caught:
        choose_gguf("a/m", FILES, "Q4_K_S")
    assert caught.value.hint == "did you mean a/m:Q4_K_M? It has Q2_K, Q4_K_M, Q8_0"


def test_a_checkpoint_has_no_variants_yet():
    with pytest.raises(NotFoundError) as caught:
        choose_gguf("a/m", ["model.safetensors"], "Q4_K_M")
    assert "llmedge convert a/m" in caught.value.hint


def test_projectors_drafts_and_later_parts_are_no_models():
    files = ["mtp-m-Q8_0.gguf", "m-imatrix.gguf", "m-F16-00002-of-00002.gguf", *FILES]
    assert model_files(files) == ["m-Q2_K.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf"]


@pytest.mark.parametrize(
    ("path", "variant"),
    [("x/m-Q4_K_M-00001-of-00002.gguf", "Q4_K_M"), ("m.f16.gguf", "F16"), ("model.gguf", "model")],
)
def test_a_files_name_tells_its_variant(path: str, variant: str):
    assert variant_of(path) == variant
