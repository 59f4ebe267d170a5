from dataclasses import replace

import pytest

from llmedge.gguf.reader import Header, read_header
from llmedge.quantize.trained_types import trained_type, trained_types


def header_of(path, architecture: str, name: str) -> Header:
    header = read_header(path)
    facts = {"general.architecture": architecture, "general.name": name}
    return replace(header, metadata={**header.metadata, **facts})


@pytest.mark.parametrize(
    ("architecture", "name", "expected"),
    [
        ("gemma3", "Gemma 3 4b It Qat Q4_0 Unquantized", "Q4_0"),
        ("gemma3", "gemma-3-1b-it-qat-q4_0-unquantized", "Q4_0"),
        ("gemma3", "gemma-3-1b-it", None),
        ("llama", "llama-qat-q4_0", None),
    ],
)
def test_googles_names_are_known(tiny_model, architecture: str, name: str, expected):
    assert trained_type(header_of(tiny_model, architecture, name)) == expected


def test_the_embedding_gets_6_bits(tiny_model):
    header = header_of(tiny_model, "gemma3", "x-qat-q4_0")
    assert trained_types(header) == {"token_embd.weight": "Q6_K"}
