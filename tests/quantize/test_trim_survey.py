from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llmedge.core.errors import NotFoundError, UnsupportedError, UsageError
from llmedge.quantize.trim_survey import survey_vocabulary
from tests.gguf_files import replace_value
from tests.quantize.trim_models import vocabulary_of, write_by_score, write_byte_level

if TYPE_CHECKING:
    from pathlib import Path


def test_roles_are_those_in_force_written_or_not(tmp_path: Path):
    path = write_byte_level(tmp_path / "b.gguf")
    survey = survey_vocabulary(path, [])
    roles = {key.removeprefix("tokenizer.ggml."): token for key, token in survey.roles.items()}
    # 11 is llama.cpp's own choice where a file names no `bos`; `eot` it finds by its text.
    assert roles["bos_token_id"] == 11
    assert roles["eos_token_id"] == 2
    assert roles["eot_token_id"] in (0, 2)
    assert survey.used is None


def test_special_tokens_are_those_that_do_not_show(tmp_path: Path):
    path = write_by_score(tmp_path / "s.gguf")
    special = {vocabulary_of(path).tokens[token] for token in survey_vocabulary(path, []).special}
    assert special == {b"<unk>", b"<s>", b"</s>"}


def test_what_a_chat_renders_is_found(tmp_path: Path):
    path = write_byte_level(tmp_path / "b.gguf")
    vocabulary = vocabulary_of(path)
    template = {vocabulary.piece(token) for token in survey_vocabulary(path, []).template}
    assert {b"user", b"<", b">", b"\n", b"{"} <= template


def test_a_template_that_fails_keeps_what_its_source_says(tmp_path: Path):
    source = "{{ raise_exception('no') }} user"
    path = write_byte_level(
        tmp_path / "b.gguf",
        change=lambda w: replace_value(w, "tokenizer.chat_template", source),
    )
    template = survey_vocabulary(path, []).template
    assert vocabulary_of(path).index[b"user"] in template


def test_a_texts_tokens_are_found(tmp_path: Path):
    path, text = write_byte_level(tmp_path / "b.gguf"), tmp_path / "text.txt"
    text.write_text("the milk the milk " * 20, encoding="utf-8")
    vocabulary = vocabulary_of(path)
    used = {vocabulary.piece(token) for token in survey_vocabulary(path, [text]).used or ()}
    assert used == {b"the", b"milk", b" "}


def test_a_text_that_cannot_be_read_is_named(tmp_path: Path):
    path, text = write_byte_level(tmp_path / "b.gguf"), tmp_path / "text.txt"
    with pytest.raises(NotFoundError):
        survey_vocabulary(path, [text])
    text.write_bytes(b"\xff" * 100)
    with pytest.raises(UsageError, match="not UTF-8"):
        survey_vocabulary(path, [text])


def test_a_pre_tokenizer_that_llama_cpp_does_not_know_is_refused(tmp_path: Path):
    path = write_byte_level(tmp_path / "b.gguf", pre="no-such")
    with pytest.raises(UnsupportedError, match="unknown pre-tokenizer type: 'no-such'"):
        survey_vocabulary(path, [])
