import contextlib
import hashlib
import json
import os
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmedge.core.errors import NotFoundError, UsageError
from llmedge.measure.corpus import (
    KINDS,
    LANGUAGES,
    MIN_CHUNK_TOKENS,
    UDHR_LANGUAGES,
    Corpus,
    calibration_corpus,
    file_corpus,
    read_chunks,
    read_conversations,
    read_pieces,
    shipped_corpus,
    udhr_corpus,
)


def chars(text: str) -> list[int]:
    return [ord(char) for char in text]


def corpus(tmp_path: Path, text: str) -> Corpus:
    path = tmp_path / "text.txt"
    path.write_text(text, encoding="utf-8")
    return file_corpus(path)


SCRIPTS = {
    **dict.fromkeys(("en", "hi-Latn"), "LATIN"),
    **dict.fromkeys(("hi", "mr"), "DEVANAGARI"),
    "bn": "BENGALI",
    "ta": "TAMIL",
    "te": "TELUGU",
    "kn": "KANNADA",
    "ml": "MALAYALAM",
    "gu": "GUJARATI",
    "pa": "GURMUKHI",
    "or": "ORIYA",
    "ur": "ARABIC",
}


def five_grams(text: str) -> list[tuple[str, ...]]:
    words = text.split()
    return [tuple(words[i : i + 5]) for i in range(len(words) - 4)]


def words_of(corpus: Corpus) -> str:
    if not corpus.is_chat:
        return corpus.path.read_text(encoding="utf-8")
    turns = [turn for conversation in read_conversations(corpus) for turn in conversation.messages]
    return "\n\n".join(turn["content"] for turn in turns)


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_long_enough_and_do_not_repeat_themselves(kind: str):
    for corpus, n_words in ((calibration_corpus(kind), 1500), (shipped_corpus(kind), 650)):
        text = words_of(corpus)
        assert len(text.split()) >= n_words
        assert text == unicodedata.normalize("NFC", text)
        assert len(set(five_grams(text))) > 0.98 * len(five_grams(text))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "code"])
def test_what_is_measured_on_was_not_calibrated_with(kind: str):
    one, other = words_of(calibration_corpus(kind)), words_of(shipped_corpus(kind))
    assert len(set(five_grams(one)) & set(five_grams(other))) < 0.002 * len(five_grams(other))


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_language_is_written_in_its_script(language: str):
    for corpus in (calibration_corpus(language), shipped_corpus(language)):
        letters = [char for char in words_of(corpus) if char.isalpha()]
        own = sum(SCRIPTS[language] in unicodedata.name(char, "") for char in letters)
        assert own > 0.99 * len(letters)


def test_conversations_alternate_and_end_with_an_answer():
    languages: set[str] = set()
    for corpus in (calibration_corpus("chat"), shipped_corpus("chat")):
        for conversation in read_conversations(corpus):
            roles = [turn["role"] for turn in conversation.messages]
            roles = roles[1:] if roles[0] == "system" else roles
            assert roles == ["user", "assistant"] * (len(roles) // 2)
            languages.add(conversation.language)
    assert languages == set(LANGUAGES)


def test_a_line_that_is_no_conversation_is_named(tmp_path: Path):
    path = tmp_path / "chat.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "a"}]}\n{"messages": [1]}\n')
    with pytest.raises(UsageError, match=r"line 2 of .*chat\.jsonl"):
        list(read_conversations(file_corpus(path)))


def test_a_language_without_a_text_is_refused():
    with pytest.raises(UsageError, match="'xx'") as caught:
        shipped_corpus("xx")
    assert "en, hi, mr" in caught.value.hint


@pytest.mark.parametrize("language", UDHR_LANGUAGES)
def test_the_declaration_is_plain_text_in_its_script(language: str):
    corpus = udhr_corpus(language)
    assert (corpus.name, corpus.language) == (f"udhr:{language}", language)
    text = corpus.path.read_text(encoding="utf-8")
    letters = [char for char in text if char.isalpha()]
    assert all(SCRIPTS[language] in unicodedata.name(char, "") for char in letters)
    assert text == unicodedata.normalize("NFC", text)
    assert not set(text) & set("<>&{}")
    paragraphs = text.removesuffix("\n").split("\n\n")
    assert 49 <= len(paragraphs) <= 51
    assert all(len(paragraph) > 15 and "\n" not in paragraph for paragraph in paragraphs)


def test_the_declaration_is_small_and_what_was_fetched():
    folder = udhr_corpus("en").path.parent
    facts = json.loads((folder / "SOURCE.json").read_text(encoding="utf-8"))
    texts = {path.name: path.read_bytes() for path in folder.glob("*.txt")}
    assert set(texts) == {f"{language}.txt" for language in UDHR_LANGUAGES} == set(facts["sha256"])
    for name, data in texts.items():
        assert hashlib.sha256(data).hexdigest() == facts["sha256"][name]
    assert sum(map(len, texts.values())) <= 250_000
    assert "MIT License" in (folder / "LICENSE").read_text(encoding="utf-8")


def test_the_declaration_is_not_shipped_in_every_language():
    with pytest.raises(UsageError, match="not shipped in 'or'") as caught:
        udhr_corpus("or")
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


@contextlib.contextmanager
def without_rights(path: Path):
    """Let nobody read a file; the superuser, who may read all, becomes another for a while."""
    path.chmod(0)
    path.parent.chmod(0o755)
    is_superuser = os.geteuid() == 0
    if is_superuser:
        for folder in path.parents:
            if folder.stat().st_uid == 0 and not folder.stat().st_mode & 1:
                folder.chmod(0o755)
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_superuser:
            os.seteuid(0)


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are POSIX's")
def test_a_text_that_may_not_be_read_is_not_found_with_the_reason(tmp_path: Path):
    path = tmp_path / "secret.txt"
    path.write_text("words " * 100)
    with (
        without_rights(path),
        pytest.raises(NotFoundError, match=r"secret\.txt cannot be read: Permission denied"),
    ):
        file_corpus(path)


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from(["wörd ", "अक\n", "字"]))
def test_spans_of_a_text_never_cut_a_character_and_share_none(
    tmp_path_factory, first: int, length: int, word: str
):
    path = tmp_path_factory.getbasetemp() / "span.txt"
    text = word * 60
    path.write_bytes(text.encode())

    def read(*span: int) -> str:
        return "".join(read_pieces(Corpus("span", path, span=span)))

    middle = first + length
    spans = [read(0, first), read(first, middle), read(middle, 10_000)]
    assert all(part in text for part in spans)
    assert sum(map(len, spans)) <= len(text)


def test_spans_of_conversations_hold_whole_ones_and_each_is_in_one_span(tmp_path: Path):
    path = tmp_path / "chat.jsonl"
    lines = [
        json.dumps({"language": str(n), "messages": [{"role": "user", "content": "x" * (n % 7)}]})
        for n in range(50)
    ]
    path.write_text("\n".join(lines))
    found: list[str] = []
    for start in range(0, path.stat().st_size, 97):
        span = Corpus("chat", path, span=(start, start + 97))
        found += [conversation.language for conversation in read_conversations(span)]
    assert found == [str(n) for n in range(50)]


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


@settings(deadline=None)
@given(st.text(alphabet="ab \n", min_size=64, max_size=400), st.integers(8, 64))
def test_no_token_is_lost_or_doubled(tmp_path_factory, text: str, n_ctx: int):
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(text.encode())
    chunks = list(read_chunks(file_corpus(path), chars, n_ctx=n_ctx, bos=None))
    joined = "".join(chr(token) for chunk in chunks for token in chunk)
    assert text.startswith(joined)
    assert len(text) - len(joined) < max(MIN_CHUNK_TOKENS, n_ctx)
