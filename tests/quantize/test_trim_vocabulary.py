from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llmedge.core.errors import IntegrityError, UnsupportedError
from llmedge.quantize.trim_vocabulary import Kind, Merges
from tests.gguf_files import replace_value
from tests.quantize.trim_models import vocabulary_of, write_by_score, write_byte_level

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import gguf


def edit(key: str, change: Callable[[list], object]) -> Callable[[gguf.GGUFWriter], None]:
    """Return a change of one list in a model's metadata."""

    def apply(writer: gguf.GGUFWriter) -> None:
        replace_value(writer, key, change(list(writer.kv_data[0][key].value)))

    return apply


def remove(key: str) -> Callable[[gguf.GGUFWriter], None]:
    return lambda writer: writer.kv_data[0].pop(key)


def test_a_token_stands_for_the_bytes_it_adds_to_a_text(tmp_path: Path):
    byte_level = vocabulary_of(write_byte_level(tmp_path / "b.gguf"))
    pieces = {byte_level.piece(token) for token in range(len(byte_level))}
    assert {bytes([byte]) for byte in range(256)} <= pieces
    assert {" किताब".encode(), b" milk", b"<|im_end|>"} <= pieces
    by_score = vocabulary_of(write_by_score(tmp_path / "s.gguf"))
    pieces = {by_score.piece(token) for token in range(len(by_score))}
    assert {b"\n", b"\x00", b"\xff", "▁milk".encode(), b"<s>"} <= pieces


def test_parts_by_merges_are_those_of_every_merge():
    index = {text: token for token, text in enumerate([b"a", b"b", b"c", b"ab", b"bc", b"abc"])}
    merges = Merges([b"b c", b"a b", b"ab c", b"a bc", b"x y", b"  a", b"nospace"], index)
    assert set(merges.parts_of(index[b"abc"])) == {0, 2, 3, 4}
    assert list(merges.parts_of(index[b"a"])) == []
    everything = bytearray([1] * 6)
    assert merges.among(everything) == merges.lines
    without_ab = bytearray([1, 1, 1, 0, 1, 1])
    assert merges.among(without_ab) == [b"b c", b"a bc", b"x y", b"  a", b"nospace"]


def test_parts_by_score_are_the_halves_that_can_meet(tmp_path: Path):
    vocabulary = vocabulary_of(write_by_score(tmp_path / "s.gguf"))
    index = vocabulary.index
    whole = index["▁दूध".encode()]
    parts = {vocabulary.tokens[part].decode() for part in vocabulary.parts_of(whole)}
    assert parts == {"▁दू", "ध"}  # `दूध` and `ूध` are no tokens: nothing can meet them
    assert list(vocabulary.parts_of(index[b"<s>"])) == []


def test_a_file_without_kinds_has_normal_tokens(tmp_path: Path):
    path = write_byte_level(tmp_path / "b.gguf", change=remove("tokenizer.ggml.token_type"))
    assert set(vocabulary_of(path).kinds) == {Kind.NORMAL}


def test_an_empty_token_keeps_the_name_that_llama_cpp_gives_it(tmp_path: Path):
    def empty(tokens: list) -> list:
        return [*tokens[:300], "", *tokens[301:]]

    path = write_byte_level(tmp_path / "b.gguf", change=edit("tokenizer.ggml.tokens", empty))
    assert vocabulary_of(path).tokens[300] == b"[EMPTY_300]"


@pytest.mark.parametrize("model", ["bert", "t5", "rwkv", "plamo2", "no_vocab", "whitespace"])
def test_other_tokenizers_are_refused_by_name(tmp_path: Path, model: str):
    path = write_byte_level(
        tmp_path / "b.gguf", change=lambda w: replace_value(w, "tokenizer.ggml.model", model)
    )
    with pytest.raises(UnsupportedError, match=f"the tokenizer '{model}'"):
        vocabulary_of(path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (remove("tokenizer.ggml.tokens"), "tokens is missing"),
        (remove("tokenizer.ggml.merges"), "merges is missing"),
        (edit("tokenizer.ggml.tokens", lambda tokens: tokens[:-1]), "636 rows for 635 tokens"),
        (edit("tokenizer.ggml.tokens", lambda tokens: [*tokens[:-1], "!"]), "spelt alike"),
        (edit("tokenizer.ggml.tokens", lambda tokens: [*tokens[:-1], "x" * 2000]), "2000 bytes"),
        (edit("tokenizer.ggml.token_type", lambda kinds: kinds[1:]), "token_type is not a list"),
        (edit("tokenizer.ggml.token_type", lambda kinds: [0.5] * 636), "token_type is not a list"),
        (lambda w: w.add_token_scores([0.0] * 10), "scores is not a list of 636"),
        (lambda w: w.tensors[0].pop("token_embd.weight"), "no matrix token_embd.weight"),
    ],
)
def test_a_vocabulary_that_contradicts_itself_is_refused(tmp_path: Path, change, why: str):
    path = write_byte_level(tmp_path / "b.gguf", change=change)
    with pytest.raises(IntegrityError, match=why):
        vocabulary_of(path)
