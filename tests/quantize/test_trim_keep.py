from __future__ import annotations

from typing import TYPE_CHECKING

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmedge.core.errors import NotFoundError, UnsupportedError, UsageError
from llmedge.quantize import trim_keep
from llmedge.quantize.trim_keep import Selection, Wishes, find_tokens, select_tokens
from tests.quantize.test_trim_vocabulary import edit
from tests.quantize.trim_models import (
    DEVANAGARI,
    LATIN,
    WORDS,
    vocabulary_of,
    write_by_score,
    write_byte_level,
)

if TYPE_CHECKING:
    from pathlib import Path

    from llmedge.quantize.trim_vocabulary import Vocabulary

BOTH = frozenset({"Latin", "Devanagari"})


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return vocabulary_of(write_byte_level(tmp_path_factory.mktemp("keep") / "b.gguf"))


@pytest.fixture(scope="module")
def by_score(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return vocabulary_of(write_by_score(tmp_path_factory.mktemp("keep") / "s.gguf"))


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep no token for the sake of round numbers."""
    monkeypatch.setattr(trim_keep, "ROWS_MULTIPLE", 1)


def pieces(vocabulary: Vocabulary, selection: Selection) -> set[str]:
    kept = (vocabulary.piece(token) for token in selection.kept)
    return {piece.decode("utf-8", "replace").replace("▁", " ") for piece in kept}


def select(vocabulary: Vocabulary, *scripts: str, pinned=(), used=None) -> Selection:
    return select_tokens(vocabulary, Wishes(frozenset(scripts), frozenset(pinned), used))


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("name", ["byte_level", "by_score"])
def test_a_script_is_kept_whole_and_others_go(request: pytest.FixtureRequest, name: str):
    vocabulary: Vocabulary = request.getfixturevalue(name)
    shown = pieces(vocabulary, select(vocabulary, *BOTH))
    assert {f" {word}" for word in (*LATIN, *DEVANAGARI, "2014", "₹500")} <= shown
    assert not {" книга", "к", " 牛奶", "牛", " xп"} & shown


@pytest.mark.usefixtures("exact")
def test_single_bytes_and_parts_of_characters_stay(byte_level: Vocabulary):
    selection = select(byte_level, "Tamil")
    kept = {byte_level.piece(token) for token in selection.kept}
    assert {bytes([byte]) for byte in range(256)} <= kept
    assert b"\xe7\x89" in kept  # of 牛
    assert "牛".encode() not in kept


@pytest.mark.usefixtures("exact")
def test_special_tokens_stay_whatever_they_are_called(by_score: Vocabulary):
    kept = set(select(by_score, "Tamil").kept)
    assert {by_score.index[text] for text in (b"<unk>", b"<s>", b"</s>", b"\n")} <= kept


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("name", ["byte_level", "by_score"])
def test_a_pinned_token_keeps_what_it_is_merged_from(request: pytest.FixtureRequest, name: str):
    vocabulary: Vocabulary = request.getfixturevalue(name)
    (whole,) = [
        token
        for token in range(len(vocabulary))
        if vocabulary.piece(token).decode("utf-8", "replace").replace("▁", " ") == " книга"
    ]
    shown = pieces(vocabulary, select(vocabulary, "Latin", pinned=[whole]))
    assert {" книга", " книг", " кн", "а"} <= shown
    assert " вода" not in shown


@pytest.mark.usefixtures("exact")
def test_a_text_decides_within_the_scripts(byte_level: Vocabulary):
    used = frozenset(byte_level.index[text] for text in ("Ġmilk".encode(), "Ġthe".encode()))
    shown = pieces(byte_level, select(byte_level, "Latin", used=used))
    assert {" milk", " mil", " the", "a"} <= shown
    assert not {" water", "water", " молоко"} & shown


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=8), st.data())
@settings(max_examples=40, deadline=None)
def test_every_kept_token_has_the_parts_it_is_merged_from(
    byte_level: Vocabulary, by_score: Vocabulary, words: list[str], data: st.DataObject
):
    for vocabulary in (byte_level, by_score):
        some = st.integers(0, len(vocabulary) - 1)
        used = data.draw(st.one_of(st.none(), st.frozensets(some, max_size=30)))
        pinned = data.draw(st.frozensets(some, max_size=10))
        scripts = frozenset(data.draw(st.sets(st.sampled_from(["Latin", "Han", "Cyrillic"]))))
        try:
            selection = select_tokens(vocabulary, Wishes(scripts, pinned, used))
        except UsageError:
            continue
        kept = set(selection.kept)
        assert pinned <= kept
        assert all(part in kept for token in kept for part in vocabulary.parts_of(token))


def test_rows_are_rounded_up_with_tokens_of_low_ids(byte_level: Vocabulary, monkeypatch):
    monkeypatch.setattr(trim_keep, "ROWS_MULTIPLE", 1)
    exact = set(select(byte_level, *BOTH).kept)
    monkeypatch.setattr(trim_keep, "ROWS_MULTIPLE", 128)
    rounded = select(byte_level, *BOTH)
    assert len(exact) % 128 != 0
    assert len(rounded.kept) == -(-len(exact) // 128) * 128
    assert exact < set(rounded.kept)


def test_rounding_finds_parts_of_higher_ids(by_score: Vocabulary, monkeypatch):
    monkeypatch.setattr(trim_keep, "ROWS_MULTIPLE", 64)
    assert len(select(by_score, "Latin", "Devanagari", "Han").kept) % 64 == 0


@pytest.mark.usefixtures("exact")
def test_rows_that_no_token_has_go(tmp_path: Path):
    def pad(writer: gguf.GGUFWriter) -> None:
        edit("tokenizer.ggml.tokens", lambda tokens: [*tokens[:-2], "[PAD634]", "[PAD635_]"])(
            writer
        )
        kinds = "tokenizer.ggml.token_type"
        edit(kinds, lambda old: [*old[:-2], *[gguf.TokenType.UNUSED] * 2])(writer)

    vocabulary = vocabulary_of(write_byte_level(tmp_path / "b.gguf", change=pad))
    selection = select(vocabulary, "Latin", "Devanagari", "Cyrillic", "Han")
    assert list(selection.kept) == list(range(634))
    assert next(row.script for row in selection.counts() if row.n_dropped) == "padding"


@pytest.mark.usefixtures("exact")
def test_counts_and_new_ids_agree_with_what_is_kept(byte_level: Vocabulary):
    selection = select(byte_level, *BOTH)
    counts = selection.counts()
    assert sum(row.n_kept for row in counts) == len(selection.kept)
    assert sum(row.n_dropped for row in counts) == len(byte_level) - len(selection.kept)
    new_ids = selection.new_ids()
    assert [new_ids[token] for token in selection.kept] == list(range(len(selection.kept)))
    assert sum(new == -1 for new in new_ids) == len(byte_level) - len(selection.kept)


def test_nothing_to_trim_is_said(byte_level: Vocabulary):
    with pytest.raises(UsageError, match="nothing to trim: all 636 tokens"):
        select(byte_level, "Latin", "Devanagari", "Cyrillic", "Han")


def test_a_vocabulary_that_could_lose_text_is_refused(tmp_path: Path):
    def rename(tokens: list) -> list:
        return ["<byte>" if token == "<0xD0>" else token for token in tokens]

    path = write_by_score(tmp_path / "s.gguf", change=edit("tokenizer.ggml.tokens", rename))
    with pytest.raises(UnsupportedError, match="no tokens for 1 single bytes such as 0xd0"):
        select(vocabulary_of(path), *BOTH)


def test_a_list_names_tokens_by_id_or_text(byte_level: Vocabulary, tmp_path: Path):
    path = tmp_path / "tokens.txt"
    path.write_text("17\n книга\n\nĠmilk\n", encoding="utf-8")
    found = find_tokens(byte_level, path)
    assert 17 in found
    assert {byte_level.piece(token) for token in found - {17}} == {" книга".encode(), b" milk"}


@pytest.mark.parametrize("line", ["636", "99999999999", "no such token", "-1"])
def test_a_line_that_names_no_token_is_shown(byte_level: Vocabulary, tmp_path: Path, line: str):
    path = tmp_path / "tokens.txt"
    path.write_text(f"1\n{line}\n", encoding="utf-8")
    with pytest.raises(UsageError, match=rf"tokens.txt, line 2: '{line}' is no token"):
        find_tokens(byte_level, path)


def test_a_long_line_is_clipped_and_an_editors_mark_is_no_token(
    byte_level: Vocabulary, tmp_path: Path
):
    path = tmp_path / "tokens.txt"
    path.write_text("17\n", encoding="utf-8-sig")
    assert find_tokens(byte_level, path) == {17}
    path.write_text("x" * 100_000)
    with pytest.raises(UsageError, match=r"line 1: 'x{80}…' is no token"):
        find_tokens(byte_level, path)


def test_a_list_that_is_no_text_is_refused(byte_level: Vocabulary, tmp_path: Path):
    path = tmp_path / "tokens.txt"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8"):
        find_tokens(byte_level, path)
    with path.open("wb") as file:
        file.truncate(17 << 20)
    with pytest.raises(UsageError, match="too long"):
        find_tokens(byte_level, path)
    with pytest.raises(NotFoundError):
        find_tokens(byte_level, tmp_path)
