from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmedge.core.errors import NotFoundError, UsageError
from llmedge.measure.corpus import (
    LANGUAGES,
    MIN_CHUNK_TOKENS,
    Corpus,
    file_corpus,
    read_chunks,
    shipped_corpus,
)


def chars(text: str) -> list[int]:
    return [ord(char) for char in text]


def corpus(tmp_path: Path, text: str) -> Corpus:
    path = tmp_path / "text.txt"
    path.write_text(text, encoding="utf-8")
    return file_corpus(path)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_text_is_shipped_for_each_language(language: str):
    text = shipped_corpus(language).path.read_text(encoding="utf-8")
    assert len(text.split()) > 300
    words = text.split()
    five_grams = [tuple(words[i : i + 5]) for i in range(len(words) - 4)]
    assert len(set(five_grams)) / len(five_grams) > 0.98


def test_hindi_is_written_in_devanagari():
    text = shipped_corpus("hi").path.read_text(encoding="utf-8")
    letters = [char for char in text if char.isalpha()]
    assert sum("\u0900" <= char <= "\u097f" for char in letters) > 0.99 * len(letters)


def test_a_language_without_a_text_is_refused():
    with pytest.raises(UsageError, match="'xx'") as caught:
        shipped_corpus("xx")
    assert "en, hi" in caught.value.hint


def test_chunks_join_to_the_text(tmp_path: Path):
    text = "".join(f"line {n} with some words\n" for n in range(2000))
    chunks = list(read_chunks(corpus(tmp_path, text), chars, n_ctx=100, bos=None))
    assert all(len(chunk) == 100 for chunk in chunks[:-1])
    joined = "".join(chr(token) for chunk in chunks for token in chunk)
    assert text.startswith(joined)
    assert len(text) - len(joined) < MIN_CHUNK_TOKENS


def test_every_chunk_begins_with_bos_where_there_is_one(tmp_path: Path):
    chunks = list(read_chunks(corpus(tmp_path, "word " * 100), chars, n_ctx=64, bos=-1))
    assert all(chunk[0] == -1 and -1 not in chunk[1:] for chunk in chunks)
    assert all(len(chunk) == 64 for chunk in chunks[:-1])


def test_a_short_rest_is_a_chunk_of_its_own_when_it_is_long_enough(tmp_path: Path):
    lengths = [len(c) for c in read_chunks(corpus(tmp_path, "x" * 150), chars, n_ctx=100, bos=None)]
    assert lengths == [100, 50]
    lengths = [len(c) for c in read_chunks(corpus(tmp_path, "x" * 110), chars, n_ctx=100, bos=None)]
    assert lengths == [100]


def test_a_text_that_is_too_short_is_refused_with_its_length(tmp_path: Path):
    with pytest.raises(UsageError, match=r"text.txt has only 5 tokens"):
        list(read_chunks(corpus(tmp_path, "short"), chars, n_ctx=100, bos=None))


def test_a_text_that_is_not_utf8_is_refused(tmp_path: Path):
    path = tmp_path / "latin.txt"
    path.write_bytes(b"caf\xe9 " * 100)
    with pytest.raises(UsageError, match="not UTF-8"):
        list(read_chunks(file_corpus(path), chars, n_ctx=100, bos=None))


def test_a_missing_text_is_not_found(tmp_path: Path):
    with pytest.raises(NotFoundError):
        file_corpus(tmp_path / "none.txt")


def test_memory_does_not_grow_with_the_text(tmp_path: Path):
    import tracemalloc

    path = tmp_path / "long.txt"
    path.write_text("many words in a long text\n" * 400_000, encoding="utf-8")
    tracemalloc.start()
    try:
        n = sum(
            1
            for _ in read_chunks(file_corpus(path), lambda t: [1] * (len(t) // 4), n_ctx=512, bos=0)
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert n > 4000
    assert peak < 1 << 20


def test_a_text_without_spaces_is_still_cut(tmp_path: Path):
    pieces: list[int] = []

    def tokenize(text: str) -> list[int]:
        pieces.append(len(text))
        return chars(text)

    list(read_chunks(corpus(tmp_path, "अ" * 200_000), tokenize, n_ctx=512, bos=None))
    assert max(pieces) < 50_000
    assert sum(pieces) == 200_000


@given(st.text(alphabet="ab \n", min_size=64, max_size=400), st.integers(8, 64))
def test_no_token_is_lost_or_doubled(tmp_path_factory, text: str, n_ctx: int):
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(text.encode())
    chunks = list(read_chunks(file_corpus(path), chars, n_ctx=n_ctx, bos=None))
    joined = "".join(chr(token) for chunk in chunks for token in chunk)
    assert text.startswith(joined)
    assert len(text) - len(joined) < max(MIN_CHUNK_TOKENS, n_ctx)
