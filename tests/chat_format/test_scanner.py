import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmedge.chat_format.scanner import CutOffError, NotACallError, Scanner
from tests.chat_format.steps import run


@given(st.lists(st.sampled_from(["a", "<", "<e", "<end", "<end>", "\n"])), st.integers(0, 9))
def test_text_up_to_a_marker_is_what_find_finds(pieces, n_skipped):
    text, given_out = "".join(pieces), []
    scan = Scanner()
    marker = run(scan, scan.until(("<end>", "\n"), given_out.append), pieces)
    places = [(text.find(mark), mark) for mark in ("<end>", "\n") if mark in text]
    assert marker == (min(places)[1] if places else "")
    assert "".join(given_out) == (text[: min(places)[0]] if places else text)


def test_a_bounded_text_that_is_too_long_or_cut_off_is_left_where_it_was():
    for text, error in (("12345678;", NotACallError), ("1234", CutOffError)):
        scan = Scanner()
        with pytest.raises(error):
            run(scan, scan.text_until((";",), limit=6), list(text))
        assert run(scan, scan.take(), []) == "1"


def test_a_place_can_be_returned_to_after_much_text():
    scan = Scanner()
    scan.add("x" * 10_000)
    assert run(scan, scan.has("x" * 10_000), [])
    mark = scan.mark()
    scan.add("abc" * 10_000)
    assert run(scan, scan.has("abc" * 10_000), [])
    scan.rewind(mark)
    scan.add("")
    assert run(scan, scan.has("abcabc"), []) == "abcabc"
