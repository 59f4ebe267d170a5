import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmedge.chat_format.detect import ChatFormat
from llmedge.chat_format.forms import FORMS
from llmedge.chat_format.parser import ChatParser
from llmedge.chat_format.parts import CallArguments, CallEnded, CallStarted, Content, Reasoning
from tests.chat_format.outputs import (
    SAMPLES,
    THINK,
    TIME,
    WEATHER,
    Sample,
    calls,
    format_of,
    joined,
    parse,
)

each_sample = pytest.mark.parametrize(
    "sample", SAMPLES, ids=[f"{sample.family}: {sample.name}" for sample in SAMPLES]
)


@each_sample
def test_a_text_is_read_as_it_was_meant(sample: Sample):
    assert parse(sample.family, sample.text) == sample.parts


@each_sample
def test_no_split_of_a_text_changes_what_is_read(sample: Sample):
    text = sample.text
    for place in range(len(text) + 1):
        assert parse(sample.family, text[:place], text[place:]) == sample.parts, place
    assert parse(sample.family, *text) == sample.parts


@each_sample
def test_a_text_cut_off_anywhere_is_read_the_same_in_pieces(sample: Sample):
    for place in range(len(sample.text)):
        text = sample.text[:place]
        assert parse(sample.family, *text) == parse(sample.family, text), place


def test_every_family_has_samples():
    assert {sample.family for sample in SAMPLES} == set(FORMS)


_PIECES = [
    *("{", "}", "[", "]", '"', "\\", ":", ",", "\n", " ", "(", ")", "'", "=", ";", "```", "json"),
    *('"name": ', '"arguments": ', '"parameters": ', '"get_time"', "get_time", "call:", "{}", "1"),
    *('{"name": "get_time", "arguments": {"a": ', "पुणे", "é"),
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "<function=", "</function>", ">"),
    *("<parameter=", "</parameter>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    *("<seed:tool_call>", "</seed:tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]"),
    *("[CALL_ID]", "<|tool_call|>", "<|tool_call>", "<tool_call|>", '<|"|>', "<|channel|>"),
    *("<|message|>", "<|end|>", "<|start|>assistant", " to=functions.", "analysis", "final"),
    *("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"),
    *('<｜DSML｜invoke name="', '">', '<｜DSML｜parameter name="', '" string="true">'),
    *("</｜DSML｜parameter>", "</｜DSML｜invoke>", "<TOOLCALL>", "<tool_calls>", "<escape>"),
    *("<start_function_call>", "<|channel>thought\n", "<channel|>", "tool_code"),
]


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(sorted(FORMS)), st.lists(st.sampled_from(_PIECES), max_size=25), st.data())
def test_whatever_is_written_is_read_the_same_in_any_pieces(family, pieces, data):
    text = "".join(pieces)
    whole = parse(family, text)
    assert parse(family, *pieces) == whole
    assert parse(family, *text) == whole
    place = data.draw(st.integers(0, len(text)))
    assert parse(family, text[:place], text[place:]) == whole
    open_calls: set[int] = set()
    arguments: dict[int, str] = {}
    for part in whole:
        if isinstance(part, CallStarted):
            assert part.name
            assert not open_calls
            open_calls.add(part.index)
        elif isinstance(part, CallArguments):
            assert part.index in open_calls
            arguments[part.index] = part.text
        elif isinstance(part, CallEnded):
            open_calls.remove(part.index)
            if part.is_whole:
                assert isinstance(json.loads(arguments[part.index]), dict)
    assert not open_calls


# What these families leave out besides marks: ids, the kind of a call, a message's header.
_TERSE = {"gpt_oss", "mistral", "mistral_v11", "mistral_call_id", "deepseek", "deepseek_r1"}


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(sorted(set(FORMS) - _TERSE)),
    st.lists(st.sampled_from([*_PIECES, "word"]), max_size=25),
)
def test_no_word_is_lost(family, pieces):
    numbered = [f"word{place}." if piece == "word" else piece for place, piece in enumerate(pieces)]
    parts = parse(family, *numbered)
    text = "".join(
        part.name if isinstance(part, CallStarted) else getattr(part, "text", "") for part in parts
    )
    for word in numbered:
        assert not word.startswith("word") or word in text


def test_arguments_are_handed_on_as_they_come():
    parser = ChatParser(format_of("hermes"), (WEATHER,))
    assert parser.feed('<tool_call>{"name": "get_weather", "arguments": {"ci') == [
        CallStarted(0, "get_weather"),
        CallArguments(0, '{"ci'),
    ]
    assert parser.feed('ty": "Pu') == [CallArguments(0, 'ty": "Pu')]
    assert parser.feed("ne") == [CallArguments(0, "ne")]
    assert parser.feed('"}}') == [CallArguments(0, '"}'), CallEnded(0)]
    assert parser.finish() == []


def test_text_is_held_back_no_longer_than_it_could_be_markup():
    parser = ChatParser(format_of("hermes"), (WEATHER,))
    assert parser.feed("Hello ") == [Content("Hello")]
    assert parser.feed("you <tool") == [Content(" you")]
    assert parser.feed("box>") == [Content(" <toolbox>")]


def test_without_tools_nothing_is_a_call():
    for sample in SAMPLES:
        parts = parse(sample.family, sample.text, tools=())
        assert all(isinstance(part, Content | Reasoning) for part in parts)


def test_reasoning_that_the_prompt_opened_goes_on():
    assert parse("hermes", "Hm.\n</think>\n\nYes.", is_reasoning=True) == [
        Reasoning("Hm."),
        Content("Yes."),
    ]
    assert parse("hermes", "</think>Yes.", is_reasoning=True) == [Content("Yes.")]
    assert parse(
        "gpt_oss", "Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.", is_reasoning=True
    ) == [
        Reasoning("Hm."),
        Content("Yes."),
    ]


def test_a_mark_of_reasoning_within_the_answer_is_text():
    text = "Write <think> and </think>."
    assert parse("hermes", text) == [Content(text)]
    assert parse("llama", f"{text}") == [Content(text)]


def test_a_parser_says_whether_it_is_in_reasoning():
    parser = ChatParser(format_of("hermes"), ())
    states: list[bool] = []
    for text in ("<thi", "nk>", "Hm. </th", "ink>", "Yes."):
        parser.feed(text)
        states.append(parser.is_reasoning)
    assert states == [False, True, True, False, False]
    assert ChatParser(format_of("hermes"), (), is_reasoning=True).is_reasoning


@pytest.mark.parametrize("family", sorted(FORMS))
def test_the_end_text_closes_reasoning(family):
    parser = ChatParser(format_of(family), (TIME,), is_reasoning=True)
    parts = parser.feed("Hm. And th") + parser.feed(parser.end_text)
    assert not parser.is_reasoning
    parts += parser.feed("Yes.") + parser.finish()
    assert joined(parts) == [Reasoning("Hm. And th"), Content("Yes.")]


def test_a_family_without_reasoning_has_no_end_text():
    assert ChatParser(ChatFormat("hermes")).end_text == ""


def test_finishing_twice_and_feeding_nothing_are_harmless():
    parser = ChatParser(ChatFormat("hermes", THINK), (TIME,))
    assert parser.feed("") == []
    assert parser.feed("a <") == [Content("a")]
    assert parser.finish() == [Content(" <")]
    assert parser.finish() == []


def test_long_and_deep_arguments_are_read_in_little_time():
    long = json.dumps({"a": "x" * 200_000, "b": [[1, 2]] * 20_000})
    text = f'<tool_call>{{"name": "f", "arguments": {long}}}</tool_call>'
    pieces = [text[place : place + 997] for place in range(0, len(text), 997)]
    assert parse("hermes", *pieces) == calls(("f", long))
    deep = "[" * 5000
    parts = parse("hermes", f'<tool_call>{{"name": "f", "arguments": {{"a": {deep}')
    assert CallEnded(0, is_whole=False) in parts
    assert (
        sum(part.text.count("[") for part in parts if not isinstance(part, CallStarted | CallEnded))
        == 5000
    )


def test_reasoning_that_is_cut_short_is_read_as_reasoning():
    for family in FORMS:
        form = format_of(family)
        if form.reasoning is None:
            continue
        for may_call in (False, True):
            closing = form.closing(may_call=may_call)
            rest = "<|channel|>final<|message|>" if family == "gpt_oss" and may_call else ""
            parser = ChatParser(form)
            text = f"{form.reasoning.start}It may{closing}{rest}Yes."
            parts = [*parser.feed(text), *parser.finish()]
            thought, said = (
                "".join(part.text for part in parts if isinstance(part, kind))
                for kind in (Reasoning, Content)
            )
            assert (thought, said) == ("It may", "Yes."), (family, may_call)
