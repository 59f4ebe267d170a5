from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmedge.core.errors import UsageError
from llmedge.store.reference import (
    FileReference,
    HubReference,
    NameReference,
    model_name,
    parse_reference,
    variant_name,
)
from tests.fakes import works_or_is_refused

COMMIT = "0c1e57098b3a4b2e8f1d6a7c9e0f1a2b3c4d5e6f"


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("smollm2", NameReference("smollm2")),
        ("SmolLM2:q4_k_m", NameReference("smollm2", "Q4_K_M")),
        ("gemma-3.1b_it:IQ4_NL", NameReference("gemma-3.1b_it", "IQ4_NL")),
        ("Org/Name", HubReference("Org/Name")),
        ("Org/Name:Q8_0", HubReference("Org/Name", None, "Q8_0")),
        (f"Org/Name@{COMMIT}:Q8_0", HubReference("Org/Name", COMMIT, "Q8_0")),
        ("Org/Name@refs/pr/3", HubReference("Org/Name", "refs/pr/3")),
        ("./file.gguf", FileReference(Path("file.gguf"))),
        ("file.gguf", FileReference(Path("file.gguf"))),
        ("folder/file.GGUF", FileReference(Path("folder/file.GGUF"))),
        ("/abs/file", FileReference(Path("/abs/file"))),
        ("../up", FileReference(Path("../up"))),
        (r"C:\models\x.bin", FileReference(Path(r"C:\models\x.bin"))),
        ("~/x", FileReference(Path("~/x").expanduser())),
    ],
)
def test_the_three_forms_are_told_apart(text: str, reference: object):
    assert parse_reference(text) == reference


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a b",
        "a:",
        ":a",
        "a/b/c",
        "a@b",
        "-x",
        "a:b:c",
        "नाम",
        "a/b@",
        "x" * 301,
        "a\n",
        "a/",
        "@a/b",
        "~nobody-here/x.gguf",
    ],
)
def test_anything_else_is_refused_with_the_forms(text: str):
    with pytest.raises(UsageError, match="does not name a model") as caught:
        parse_reference(text)
    assert "name:Q4_K_M" in caught.value.hint


PARTS = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,10}", fullmatch=True)


@given(PARTS, PARTS | st.none(), PARTS | st.none(), PARTS | st.none())
def test_a_reference_written_out_is_read_back(name, org, revision, variant):
    variant = variant.upper() if variant else None
    reference = (
        HubReference(f"{org}/{name}", revision, variant) if org else NameReference(name, variant)
    )
    assert parse_reference(str(reference)) == reference


@given(st.text(max_size=40))
def test_any_text_is_a_reference_or_a_usage_error(text: str):
    with works_or_is_refused("does not name a model"):
        parse_reference(text)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m-instruct"),
        ("gemma-3-270m-q4_k_m.gguf", "gemma-3-270m"),
        ("Qwen3-0.6B-IQ4_XS.gguf", "qwen3-0.6b"),
        ("model-f16.gguf", "model"),
        ("model-BF16.gguf", "model"),
        ("gpt-oss-20b-mxfp4.gguf", "gpt-oss-20b"),
        ("Phi 4 (mini).gguf", "phi-4-mini"),
        ("plain.gguf", "plain"),
        ("q4_0.gguf", "q4_0"),
        ("हिन्दी.gguf", "model"),
    ],
)
def test_a_files_name_gives_the_models_name(file: str, name: str):
    assert model_name(Path(file)) == name
    assert parse_reference(model_name(Path(file))) == NameReference(name)


@pytest.mark.parametrize(
    ("file", "variant"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1"),
        ("gemma-3-270m-it-q4_k_m.gguf", "Q4_K_M"),
        ("model-BF16.gguf", "BF16"),
        ("model.gguf", ""),
        ("model-Q4_0-trim-en.gguf", ""),
    ],
)
def test_a_file_name_may_end_with_a_quant_type(file: str, variant: str):
    assert variant_name(Path(file)) == variant
