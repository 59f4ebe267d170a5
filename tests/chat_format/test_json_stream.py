import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmedge.chat_format.json_stream import MAX_DEPTH, arguments, call, string, value
from llmedge.chat_format.parts import CallArguments, CallEnded, CallStarted, Sink
from llmedge.chat_format.scanner import NotACallError, Scanner
from tests.chat_format.outputs import calls, joined
from tests.chat_format.steps import rest, run

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    SCALARS.filter(lambda value: value not in (float("inf"), float("-inf"))),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def read(text: str) -> tuple[bool, str, str]:
    """Read a value from single characters; return what is said of it, it, and what is left."""
    scan, given_out = Scanner(), []
    is_whole = run(scan, value(scan, given_out.append), text)
    n_left = len(rest(scan))
    return is_whole, "".join(given_out), text[len(text) - n_left :]


def read_call(text: str, known: tuple[str, ...] | None = None):
    """Read a call; return its parts and what is left, or the error."""
    scan, sink = Scanner(), Sink()
    scan.add(text)
    try:
        run(scan, call(scan, sink, known), ())
    except NotACallError:
        assert sink.take() == []
        raise
    return joined(sink.take()), rest(scan)


@given(VALUES, st.booleans())
def test_any_value_is_handed_on_as_it_is(one: object, is_ascii: bool):
    text = json.dumps(one, ensure_ascii=is_ascii)
    scan, given_out = Scanner(), []
    assert run(scan, value(scan, given_out.append), [*text, " }"])
    assert "".join(given_out) == text
    assert rest(scan) in (" }", "")  # what nobody waited for was not fed


@pytest.mark.parametrize(
    ("text", "left"),
    [("{}}", "}"), ('"a",', ","), ("12, 3", ", 3"), ("\n [1]\n", "\n"), ("null}", "}")],
)
def test_what_follows_a_value_is_left(text: str, left: str):
    scan, given_out = Scanner(), []
    scan.add(text)
    assert run(scan, value(scan, given_out.append), ())
    assert "".join(given_out) == text.strip().removesuffix(left.strip())
    assert rest(scan) == left


@pytest.mark.parametrize(
    "text", ["", "{", '{"a": [1}', "[1", '"a', "word", "-", "9" * 300, "[" * (MAX_DEPTH + 1)]
)
def test_what_breaks_off_or_does_not_match_is_not_whole(text: str):
    assert read(text)[0] is False


def test_as_deep_as_is_allowed_is_whole():
    text = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert read(text) == (True, text, "")


def test_control_characters_in_strings_are_escaped_and_escapes_kept():
    assert read('{"a":\n"1\n2\t\\n\\""}')[1] == '{"a":\n"1\\n2\\t\\n\\""}'


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "f", "arguments": {"a": 1}}',
        '{"arguments": {"a": 1}, "name": "f"}',
        '{"id": "x", "type": "function", "name": "f", "parameters": {"a": 1}}',
        '{"name": "f", "arguments": "{\\"a\\": 1}"}',
        ' {"name" : "f" , "arguments" :{"a": 1}, "id": 7}',
    ],
)
def test_a_call_is_read_in_any_order_and_way(text: str):
    assert read_call(text) == (calls(("f", '{"a": 1}')), "")


@pytest.mark.parametrize("text", ['{"name": "f"}', '{"name": "f", "arguments": null}'])
def test_a_call_without_arguments_has_empty_ones(text: str):
    assert read_call(text) == (calls(("f", "{}")), "")


@pytest.mark.parametrize("given", ["[1]", '"word"', "5"])
def test_arguments_that_are_no_object_are_told_and_not_whole(given: str):
    parts, _ = read_call(f'{{"name": "f", "arguments": {given}}}')
    assert parts == calls(("f", given.strip('"')), whole=False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"name": "", "arguments": {}}',
        '{"name": 5, "arguments": {}}',
        '{"city": "Pune"}',
        '{"name": "f", "city": "Pune"}',
        '{"arguments": {"a": 1}}',
        '{"name" "f"}',
        '{"name": "f"',
    ],
)
def test_what_is_no_call_is_an_error_and_gives_nothing_out(text: str):
    with pytest.raises(NotACallError):
        read_call(text)


def test_only_known_names_are_called_where_they_are_given():
    assert read_call('{"name": "f", "arguments": {}}', ("f",)) == (calls(("f", "{}")), "")
    with pytest.raises(NotACallError):
        read_call('{"name": "g", "arguments": {}}', ("f",))


def test_what_is_malformed_after_the_arguments_is_left():
    parts, left = read_call('{"name": "f", "arguments": {}; more')
    assert (parts, left) == (calls(("f", "{}")), "; more")


def test_arguments_that_break_off_end_their_call():
    scan, sink = Scanner(), Sink()
    index = sink.start_call("f")
    assert run(scan, arguments(scan, sink, index), ['{"a":', " 1"]) is False
    assert joined(sink.take()) == [
        CallStarted(0, "f"),
        CallArguments(0, '{"a": 1'),
        CallEnded(0, is_whole=False),
    ]


def test_a_string_is_read_with_its_escapes():
    scan = Scanner()
    assert run(scan, string(scan), ' "प\\u0915\\"\n",') == 'पक"\n'


@pytest.mark.parametrize("text", ["", "word", '"open', '"\\x"', f'"{"x" * 300}"'])
def test_what_is_no_string_is_no_part_of_a_call(text: str):
    scan = Scanner()
    with pytest.raises(NotACallError):
        run(scan, string(scan), text)
