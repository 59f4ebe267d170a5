import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmedge.measure.repetition import (
    MAX_UNIT_CHARS,
    MIN_CHARS,
    MIN_COPIES,
    is_echo,
    is_repeating,
)


@pytest.mark.parametrize(
    "text",
    [
        "The answer is 1" + "0" * 60,
        "छाइ " * 30,
        "Delhi is big. " + "It is the capital of India. " * 5,
        "- rice\n- dal\n" * 8,
        "ాాాాాాాాాాాాాాాాాాాాాాాాాాాాాాాాాాాాాాాాాాాా",
        "one two three " * 6 + "one tw",
    ],
)
def test_a_loop_at_the_end_is_found(text: str):
    assert is_repeating(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ha ha ha ha",
        "0" * (MIN_CHARS - 1),
        "It is the capital of India. " * 3,
        "0" * 100 + " is a large number, and then the text goes on.",
        "1. rice\n2. dal\n3. roti\n4. sabzi\n5. chutney\n6. papad\n7. achar\n8. dahi",
        "The capital of Karnataka is Bengaluru.",
    ],
)
def test_what_is_no_loop_is_let_pass(text: str):
    assert not is_repeating(text)


@given(
    st.text(st.characters(categories=["L", "P"]), min_size=1, max_size=60),
    st.integers(MIN_COPIES, 12),
    st.text(max_size=40),
)
def test_any_unit_that_is_repeated_often_enough_is_found(unit: str, copies: int, before: str):
    loop = " ".join([unit] * copies)
    if len(loop) >= MIN_CHARS:
        assert is_repeating(f"{before} {loop}")


@given(st.text(max_size=2 * MAX_UNIT_CHARS))
def test_white_space_does_not_matter(text: str):
    assert is_repeating(text) == is_repeating(" \n ".join(text.split()))


@pytest.mark.parametrize(
    ("answer", "question", "is_one"),
    [
        ("भारत की राजधानी क्या है?", "भारत की राजधानी क्या है? एक वाक्य में उत्तर दीजिए।", True),
        (" bharat KI rajdhani", "Bharat ki rajdhani kya hai?", True),
        ("भारत की राजधानी नई दिल्ली है।", "भारत की राजधानी क्या है?", False),
        ("", "What?", False),
        ("?!", "What?!", False),
    ],
)
def test_an_echo_says_nothing_new(answer: str, question: str, is_one: bool):
    assert is_echo(answer, question) == is_one
