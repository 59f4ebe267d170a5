from itertools import pairwise

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from llmedge.runtime.grapheme import GraphemeDetokenizer
from llmedge.runtime.vocab import Detokenizer

TEXTS = [
    "क्षत्रिय ज्ञान श्रम प्रश्न स्त्री र्‍या",
    "ஸ்ரீரங்கம் க்ஷேத்திரம் கொ",
    "ক্ষমা ৰ্ক ল্‌ক",
    "സ്ത്രീ ന്‍റെ",
    "👩🏽‍🌾👨‍👩‍👧‍👦🇮🇳🇮🇳🇩 ❤️‍🔥 1️⃣",
    "e\u0301a\u0308\u0323 각 각 \r\n\n",
    "plain text, as most is",
]
CHARACTERS = "कष्ञि‍‌ெகொ👩🏽🌾🇮🇳e\u0301\r\n a"


def stream(raw: bytes, cuts: list[int]) -> list[str]:
    detokenizer = GraphemeDetokenizer()
    parts = [detokenizer.feed(raw[a:b]) for a, b in pairwise([0, *cuts, len(raw)])]
    return [*parts, detokenizer.finish()]


def boundaries(text: str) -> set[int]:
    return {0, *(found.end() for found in regex.finditer(r"\X", text))}


@given(st.sampled_from(TEXTS) | st.text(CHARACTERS, max_size=30), st.data())
@settings(deadline=None)
def test_any_split_of_the_bytes_shows_whole_clusters_that_join_to_the_text(
    text: str, data: st.DataObject
):
    raw = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=40)))
    shown, ends = "", boundaries(text)
    for part in stream(raw, cuts):
        shown += part
        assert len(shown) in ends
    assert shown == text


@pytest.mark.parametrize("text", TEXTS)
def test_no_more_than_the_last_cluster_is_held_back(text: str):
    raw = text.encode()
    *shown, held = stream(raw, list(range(1, len(raw))))
    assert "".join(shown) + held == text
    assert len(regex.findall(r"\X", held)) <= 1


@pytest.mark.parametrize("cluster", ["क्ष", "ज्ञि", "👩🏽‍🌾", "🇮🇳", "e\u0301", "ன்", "\r\n"])
def test_a_cluster_is_shown_when_the_next_has_begun(cluster: str):
    detokenizer = GraphemeDetokenizer()
    for character in cluster:
        assert detokenizer.feed(character.encode()) == ""
    assert detokenizer.feed(b"x") == cluster
    assert detokenizer.finish() == "x"


@given(st.lists(st.binary(max_size=6), max_size=20))
def test_bytes_that_are_no_text_become_replacement_characters(pieces: list[bytes]):
    detokenizer = GraphemeDetokenizer()
    streamed = "".join(detokenizer.feed(piece) for piece in pieces) + detokenizer.finish()
    assert streamed == b"".join(pieces).decode("utf-8", "replace")


def test_a_cluster_without_an_end_is_not_held_for_ever():
    detokenizer, plain = GraphemeDetokenizer(), Detokenizer()
    mark = "\u0301".encode()
    n_held = n_most = 0
    text = ""
    for _ in range(1000):
        part = detokenizer.feed(mark)
        text += part
        n_held += len(plain.feed(mark)) - len(part)
        n_most = max(n_most, n_held)
    assert n_most <= 64
    assert text + detokenizer.finish() == "\u0301" * 1000
