from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from llmedge.convert.tokenizer import convert_tokenizer
from llmedge.core.errors import UnsupportedError, UsageError
from llmedge.gguf.writer import encode_header, encode_metadata
from llmedge.runtime.vocab_file import ask_vocab, encode_texts
from tests.convert import checkpoints

if TYPE_CHECKING:
    from pathlib import Path

    from llmedge.runtime.model import Model


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


def _refuse(model: Model) -> None:
    raise UsageError(f"no question about {model.path.name}")


def _crash(model: Model) -> None:
    del model
    os.abort()


def _sleep(model: Model) -> None:
    del model
    time.sleep(60)


def test_a_questions_own_error_comes_back(tiny_model: Path):
    with pytest.raises(UsageError, match=r"no question about tiny"):
        ask_vocab(tiny_model, _refuse)


def test_a_vocabulary_that_crashes_or_hangs_is_refused(tiny_model: Path):
    with pytest.raises(UnsupportedError, match=r"ends llama\.cpp by"):
        ask_vocab(tiny_model, _crash)
    with pytest.raises(UnsupportedError, match="hangs"):
        ask_vocab(tiny_model, _sleep, silence_s=3)
