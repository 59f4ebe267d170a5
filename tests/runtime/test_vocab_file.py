from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llmedge.convert.tokenizer import convert_tokenizer
from llmedge.core.errors import UnsupportedError
from llmedge.gguf.writer import encode_header, encode_metadata
from llmedge.runtime.vocab_file import encode_texts
from tests.convert import checkpoints

if TYPE_CHECKING:
    from pathlib import Path


def test_texts_are_encoded_without_weights(tmp_path: Path):
    folder = checkpoints.byte_level(tmp_path, checkpoints.gpt2(), n_tokens=600)
    metadata, _ = convert_tokenizer(folder, 601, "gpt2")
    path = tmp_path / "vocabulary.gguf"
    head = encode_metadata({"general.architecture": "gpt2"})
    path.write_bytes(encode_header(head + metadata, ()))
    empty, marked = encode_texts(path, ["", "<|im_end|>"])
    assert (list(empty), list(marked)) == ([], [2])


def test_a_vocabulary_that_llama_cpp_refuses_is_named(tmp_path: Path):
    path = tmp_path / "vocabulary.gguf"
    head = {"general.architecture": "llama", "tokenizer.ggml.model": "no such model"}
    path.write_bytes(encode_header(encode_metadata(head), ()))
    with pytest.raises(UnsupportedError, match="no such model"):
        encode_texts(path, ["a"])
