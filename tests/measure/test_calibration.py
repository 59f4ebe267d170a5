from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmedge.core.errors import NotFoundError, UsageError
from llmedge.measure.calibration import (
    PRESETS,
    CalibrationOptions,
    Selection,
    _share_out,
    dataset_name,
    draw,
    language_weights,
    parse_weights,
    select_chunks,
)
from llmedge.measure.corpus import KINDS, LANGUAGES, Corpus, calibration_corpus, read_chunks
from llmedge.measure.model_text import ModelText

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from llmedge.measure.corpus import Conversation
    from llmedge.runtime.model import Model

BOS = -1


class Letters:
    """A model's text whose tokens are letters; the corpora are files of the test's."""

    def __init__(self, *, can_chat: bool = True) -> None:
        self._can_chat = can_chat

    def chunks(
        self, corpus: Corpus, n_ctx: int, *, language: str | None = None
    ) -> Iterator[list[int]]:
        def chat(conversation: Conversation) -> list[int]:
            if language not in (None, conversation.language):
                return []
            return self.plain("".join(turn["content"] for turn in conversation.messages))

        can_chat = chat if self._can_chat else None
        return read_chunks(corpus, self.plain, can_chat, n_ctx=n_ctx, bos=BOS)

    def plain(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Letters:
    """Texts of known lengths: 20 chunks of 33 tokens, and a conversation in three languages."""

    def corpus(kind: str) -> Corpus:
        path = tmp_path / (f"{kind}.jsonl" if kind == "chat" else f"{kind}.txt")
        if path.exists():
            return Corpus(kind, path)
        if kind == "chat":
            rows = [
                {"language": code, "messages": [{"role": "user", "content": code[0] * 64}]}
                for code in ("en", "hi", "ta")
            ]
            path.write_text("\n".join(map(json.dumps, rows)))
        else:
            path.write_text("".join(f"{number:032}" for number in range(20)))
        return Corpus(kind, path)

    monkeypatch.setattr("llmedge.measure.calibration.calibration_corpus", corpus)
    return Letters()


def drawn(text: Letters, weights: dict[str, float], **options) -> Selection:
    options = {"n_ctx": 33, "n_tokens": 330, **options}
    return draw(text, CalibrationOptions(weights, **options))  # type: ignore[arg-type]


def numbers(selection: Selection) -> list[tuple[str, int]]:
    return [(chunk.kind, int("".join(map(chr, chunk.tokens[1:])))) for chunk in selection.chunks]


def test_each_kind_gets_its_share_of_the_tokens(text: Letters):
    selection = drawn(text, {"en": 0.5, "hi": 0.3, "ta": 0.2})
    assert selection.shares == {"en": 5 * 33, "hi": 3 * 33, "ta": 2 * 33}
    assert selection.notes == ()


def test_shares_need_not_add_up_to_one(text: Letters):
    assert drawn(text, {"en": 50, "hi": 50}).shares == drawn(text, {"en": 0.1, "hi": 0.1}).shares


def test_every_chunk_is_whole_and_begins_with_bos_and_none_comes_twice(text: Letters):
    selection = drawn(text, {"en": 1, "hi": 1}, n_tokens=33 * 40)
    assert {len(chunk.tokens) for chunk in selection.chunks} == {33}
    assert {chunk.tokens[0] for chunk in selection.chunks} == {BOS}
    assert numbers(selection) == [(kind, n) for kind in ("en", "hi") for n in range(20)]


def test_what_a_short_text_cannot_give_goes_to_the_others_in_proportion(text: Letters):
    selection = drawn(text, {"en": 8, "hi": 2, "ta": 1}, n_tokens=33 * 32)
    assert selection.shares == {"en": 20 * 33, "hi": 8 * 33, "ta": 4 * 33}


def test_texts_that_are_too_short_together_are_all_taken_and_that_is_said(text: Letters):
    selection = drawn(text, {"en": 1}, n_tokens=33 * 30)
    assert selection.shares == {"en": 20 * 33}
    assert selection.notes == ("the texts are shorter than asked for: 660 of 990 tokens",)


def test_the_seed_draws_other_chunks_and_the_same_seed_the_same(text: Letters):
    first, again = (numbers(drawn(text, {"en": 1, "hi": 1})) for _ in range(2))
    other = numbers(drawn(text, {"en": 1, "hi": 1}, seed=1))
    assert first == again != other
    for found in (first, other):
        assert found == sorted(found)  # in the order of the text
    # As it is on every system and with every version of Python and numpy.
    assert first == [("en", n) for n in (3, 5, 7, 8, 19)] + [("hi", n) for n in (1, 5, 6, 7, 12)]


def test_memory_holds_what_may_be_taken_and_not_the_text(tmp_path: Path):
    import tracemalloc

    path = tmp_path / "long.txt"
    path.write_text("many words in a long text\n" * 100_000)
    tracemalloc.start()
    try:
        options = CalibrationOptions({}, (path,), n_tokens=640, n_ctx=64)
        draw(Letters(), options)  # type: ignore[arg-type]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


class Counting(Letters):
    n_read = 0

    def plain(self, text: str) -> list[int]:
        self.n_read += len(text)
        return super().plain(text)


def long_text(path: Path) -> Path:
    path.write_text("".join(f"{number:07} " for number in range(1_000_000)))
    return path


def test_of_a_long_text_only_what_is_taken_is_read_and_that_is_said(tmp_path: Path):
    text, path = Counting(), long_text(tmp_path / "long.txt")
    options = CalibrationOptions({}, (path,), n_tokens=33 * 10, n_ctx=33)
    selection = draw(text, options)  # type: ignore[arg-type]
    assert text.n_read < 50_000
    assert selection.shares == {"long.txt": 330}
    assert selection.notes == (
        "long.txt has 8.0 MB: 10 pieces from all over it were read, not the whole",
    )
    words = ["".join(map(chr, chunk.tokens[1:])).split() for chunk in selection.chunks]
    places = [int(row[1]) for row in words]
    assert places == sorted(places)
    assert places[-1] - places[0] > 300_000
    again = draw(text, options)  # type: ignore[arg-type]
    other = draw(text, replace(options, seed=1))  # type: ignore[arg-type]
    assert selection == again
    assert other.chunks != selection.chunks


def test_a_long_text_is_read_whole_where_most_of_it_is_wanted(tmp_path: Path):
    path = long_text(tmp_path / "long.txt")
    options = CalibrationOptions({}, (path,), n_tokens=33 * 20_000, n_ctx=33)
    assert draw(Letters(), options).notes == ()  # type: ignore[arg-type]


def test_conversations_are_left_out_with_a_note_where_the_model_cannot_chat(text: Letters):
    text = Letters(can_chat=False)
    selection = drawn(text, {"chat": 1, "en": 1})
    assert selection.shares == {"en": 330}
    (note,) = selection.notes
    assert note.startswith("chat is left out: chat holds conversations")


def test_conversations_of_one_language_can_be_chosen(text: Letters):
    selection = drawn(text, {"chat-hi": 1, "chat-ta": 1})
    assert selection.shares == {"chat-hi": 66, "chat-ta": 66}
    letters = {chunk.kind: set(map(chr, chunk.tokens[1:])) for chunk in selection.chunks}
    assert letters == {"chat-hi": {"h"}, "chat-ta": {"t"}}


def test_a_language_without_conversations_is_left_out_with_a_note(text: Letters):
    selection = drawn(text, {"chat-ur": 1, "en": 1})
    assert selection.shares == {"en": 330}
    assert selection.notes[0].startswith("chat-ur is left out")


def test_no_conversation_is_taken_twice(text: Letters):
    with pytest.raises(UsageError, match="chat holds the conversations of every language"):
        drawn(text, {"chat": 1, "chat-hi": 1})


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.txt"
    path.write_text("".join(f"{number:032}" for number in range(20)))
    return path


def test_a_file_alone_is_all_that_is_taken(text: Letters, mine: Path):
    assert drawn(text, {}, files=(mine,)).shares == {"mine.txt": 330}


def test_a_file_beside_kinds_gets_half(text: Letters, mine: Path):
    shares = drawn(text, {"en": 3, "hi": 2}, files=(mine,)).shares
    assert shares == {"en": 99, "hi": 66, "mine.txt": 165}


def test_files_without_weights_share_the_half(text: Letters, mine: Path):
    other = mine.with_name("other.txt")
    other.write_bytes(mine.read_bytes())
    shares = drawn(text, {"en": 1}, files=(mine, other), n_tokens=33 * 8).shares
    assert shares == {"en": 4 * 33, "mine.txt": 66, "other.txt": 66}


def test_a_file_may_have_a_weight_of_its_own(text: Letters, mine: Path):
    shares = drawn(text, {"mine.txt": 4, "en": 1}, files=(mine,)).shares
    assert shares == {"mine.txt": 8 * 33, "en": 66}


@pytest.mark.parametrize(
    ("weights", "options", "why"),
    [
        ({"en": 0}, {}, "every weight is 0"),
        ({"en": float("nan")}, {}, "the weight of en is nan"),
        ({"xx": 1}, {}, "unknown kind of text 'xx'"),
        ({"en": 1}, {"n_tokens": 32}, "32 tokens are not one chunk of 33"),
        ({"en": 1}, {"n_ctx": 8}, "not one chunk of 8"),
        ({"en": 1}, {"n_ctx": 1000, "n_tokens": 1000}, "no text of en has 1000 tokens"),
    ],
)
def test_what_cannot_be_drawn_is_refused(text: Letters, weights, options, why: str):
    with pytest.raises(UsageError, match=why):
        drawn(text, weights, **options)


def test_files_that_cannot_be_told_apart_are_refused(text: Letters, tmp_path: Path):
    for files in ((tmp_path / "a" / "x.txt", tmp_path / "b" / "x.txt"), (tmp_path / "hi",)):
        with pytest.raises(UsageError, match="stands for something else"):
            drawn(text, {}, files=files)


def test_a_file_that_is_not_there_is_not_found(text: Letters, tmp_path: Path):
    with pytest.raises(NotFoundError, match=r"none\.txt"):
        drawn(text, {}, files=(tmp_path / "none.txt",))


@given(
    st.dictionaries(
        st.sampled_from("abcdef"),
        st.tuples(st.floats(0.01, 100), st.integers(0, 60)),
        min_size=1,
    ),
    st.integers(1, 200),
)
def test_shares_are_as_near_to_the_weights_as_whole_chunks_allow(kinds, n_chunks: int):
    weights = {kind: weight for kind, (weight, _) in kinds.items()}
    available = {kind: n for kind, (_, n) in kinds.items()}
    taken = _share_out(weights, available, n_chunks)
    assert sum(taken.values()) == min(n_chunks, sum(available.values()))
    assert all(0 <= taken[kind] <= available[kind] for kind in kinds)
    free = [kind for kind in kinds if taken[kind] < available[kind]]
    for one in free:
        for other in taken:
            # Nobody who could have had more has less than his share of what another got.
            if taken[other] > 0:
                assert weights[one] / (2 * taken[one] + 1) <= weights[other] / (
                    2 * taken[other] - 1
                ) * (1 + 1e-9)


def test_weights_are_read_as_they_are_written():
    assert parse_weights(" hi=0.4, en=0.3 ,chat-hi=.2") == {"hi": 0.4, "en": 0.3, "chat-hi": 0.2}
    assert parse_weights("hi-Latn=1") == {"hi-Latn": 1.0}
    assert parse_weights("a=b.txt=2", ["a=b.txt"]) == {"a=b.txt": 2.0}


@pytest.mark.parametrize(
    ("wrong", "why", "hint"),
    [
        ("hin=1", "'hin'", "did you mean 'hi'"),
        ("klingon=1", "'klingon'", "known: en, hi"),
        ("en=1,hi", "hi has no weight", "hi=0.4"),
        ("hi=", "the weight of hi is '', no number", "hi=0.4"),
        ("hi=a lot", "'a lot', no number", "hi=0.4"),
        ("hi=-1", "the weight of hi is -1.0", "at least 0"),
        ("hi=inf", "the weight of hi is inf", "at least 0"),
        ("hi=1,hi=2", "hi has two weights", "each kind one"),
        ("hi=0", "every weight is 0", "hi=0.4"),
        ("", "unknown kind of text ''", "known"),
    ],
)
def test_weights_that_cannot_be_meant_are_refused(wrong: str, why: str, hint: str):
    with pytest.raises(UsageError, match=why) as caught:
        parse_weights(wrong)
    assert hint in caught.value.hint


def test_a_product_is_calibrated_in_its_languages_with_a_little_english():
    weights = language_weights(["hi", "ta"])
    assert set(weights) == {"hi", "ta", "chat-hi", "chat-ta", "en"}
    assert sum(weights.values()) == pytest.approx(1)
    assert weights["hi"] == weights["ta"] > weights["en"]
    alone = language_weights(["en"])
    assert set(alone) == {"en", "chat-en"}
    assert alone["en"] == pytest.approx(0.75)
    assert language_weights(["hi", "hi"]) == language_weights(["hi"])


@pytest.mark.parametrize("languages", [[], ["fr"]])
def test_a_language_without_a_text_cannot_be_calibrated_in(languages: list[str]):
    with pytest.raises(UsageError) as caught:
        language_weights(languages)
    assert "en, hi" in caught.value.hint


def test_a_dataset_says_whose_text_it_is():
    assert dataset_name("hi") == "llmedge/hi"
    assert dataset_name("chat-hi") == "llmedge/chat-hi"
    assert dataset_name("mine.txt") == "mine.txt"


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_names_kinds_that_are_shipped(name: str):
    for kind, weight in PRESETS[name].items():
        assert weight > 0
        assert calibration_corpus("chat" if kind.startswith("chat") else kind).path.is_file()
    assert set(PRESETS["balanced"]) == set(KINDS)
    assert set(LANGUAGES) <= {"en", *PRESETS["indic"]}


def test_a_real_model_gets_all_that_is_shipped_in_proportion(loaded: Model):
    options = CalibrationOptions(PRESETS["balanced"])
    chunks = select_chunks(ModelText(loaded), options)
    shares = Selection(chunks, ()).shares
    assert sum(shares.values()) == 20_480
    assert set(shares) == set(KINDS)
    assert shares["chat"] > shares["code"] >= shares["hi"]
    assert max(shares[code] for code in LANGUAGES) <= 3 * 512
