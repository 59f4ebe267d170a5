"""The readers of the families' calls, each alone, fed character by character."""

import pytest

from llmedge.chat_format.parts import CallArguments, CallEnded, CallStarted, Content, Part, Sink
from llmedge.chat_format.parts import Reasoning as Thought
from llmedge.chat_format.read_gemma import fenced, marked
from llmedge.chat_format.read_harmony import harmony
from llmedge.chat_format.read_json import (
    after_mark,
    bare,
    deepseek,
    is_name,
    llama,
    mistral,
    tagged,
)
from llmedge.chat_format.read_tags import (
    DEEPSEEK_V3_2,
    DEEPSEEK_V4,
    GLM,
    QWEN3_CODER,
    SEED_OSS,
    Tags,
    tags,
)
from llmedge.chat_format.reading import Reader, attempt, json_calls, plain, skip_marker
from llmedge.chat_format.scanner import NotACallError, Scanner, Steps
from llmedge.chat_format.tools import Tool
from tests.chat_format.outputs import TOOLS, calls, joined
from tests.chat_format.steps import rest, run

KNOWN = {tool.name: tool for tool in TOOLS}
NOW = '{"name": "get_time", "arguments": {}}'
TIME_CALL = calls(("get_time", "{}"))


def read(reader: Reader, text: str, *, sink: Sink | None = None, tools=KNOWN) -> list[Part]:
    """Read a whole answer."""
    scan, sink = Scanner(), sink or Sink()
    run(scan, reader(scan, sink, tools), text)
    assert rest(scan) == ""
    sink.finish()
    return joined(sink.take())


def standing_at(text: str) -> Scanner:
    scan = Scanner()
    scan.add(text)
    scan.end()
    return scan


def test_an_attempt_that_fails_goes_back_and_makes_its_marker_content():
    scan, sink = standing_at("text"), Sink()

    def fails() -> Steps[None]:
        yield from scan.take()
        raise NotACallError

    assert run(scan, attempt(scan, sink, fails(), marker="<call>"), ()) is False
    assert sink.take() == [Content("<call>")]
    assert rest(scan) == "text"


def test_an_attempt_that_works_has_taken_what_it_read():
    scan, sink = standing_at("text"), Sink()

    def works() -> Steps[None]:
        yield from scan.take()

    assert run(scan, attempt(scan, sink, works(), marker="<call>"), ()) is True
    assert sink.take() == []
    assert rest(scan) == "ext"


def test_white_space_goes_with_a_marker_and_stays_without_one():
    for text, is_there, left in ((" \n</a>b", True, "b"), (" \n</b>", False, " \n</b>")):
        scan = standing_at(text)
        assert run(scan, skip_marker(scan, "</a>", "</c>"), ()) is is_there
        assert rest(scan) == left


@pytest.mark.parametrize(
    ("text", "n_calls", "left"),
    [
        (NOW, 1, ""),
        (f"[{NOW}, {NOW}]</a>", 2, "</a>"),
        (f"{NOW}\n{NOW},{NOW}.", 3, "."),
        (f"[{NOW}, 5]", 1, ", 5]"),
    ],
)
def test_calls_stand_alone_in_a_list_or_in_line(text: str, n_calls: int, left: str):
    scan, sink = standing_at(text), Sink()
    run(scan, json_calls(scan, sink), ())
    assert joined(sink.take()) == calls(*[("get_time", "{}")] * n_calls)
    assert rest(scan) == left


def test_a_plain_answer_has_no_calls():
    assert read(plain, f"See <tool_call>{NOW}") == [Content(f"See <tool_call>{NOW}")]


@pytest.mark.parametrize("end", ["</call>", "\n</call>\n", "}</call>", "}\n</call>", ""])
def test_a_tagged_call_is_closed_not_at_all_or_once_too_often(end: str):
    assert read(tagged("<call>", "</call>"), f"<call>\n{NOW}{end}") == TIME_CALL


def test_a_mark_without_a_call_is_content():
    for reader in (tagged("<call>", "</call>"), after_mark("<call>")):
        text = "Use <call>me</call> so."
        assert read(reader, text) == [Content(text)]


def test_calls_after_a_mark_go_on_after_one_another():
    parts = read(after_mark("<call>"), f"Yes.<call>[{NOW}]\n<call>{NOW}")
    assert parts == [Content("Yes."), *calls(*[("get_time", "{}")] * 2)]


def test_a_bare_answer_is_calls_of_offered_tools_only():
    assert read(bare, f"{NOW}; {NOW}") == calls(*[("get_time", "{}")] * 2)
    other = NOW.replace("get_time", "rm")
    assert read(bare, other) == [Content(other)]
    assert read(bare, f"So: {NOW}") == [Content(f"So: {NOW}")]


def test_llamas_mark_begins_calls_anywhere():
    assert read(llama, f"Yes. <|python_tag|>{NOW}") == [Content("Yes."), *TIME_CALL]
    assert read(llama, "<|python_tag|>print(1)") == [Content("<|python_tag|>print(1)")]


@pytest.mark.parametrize(
    "text",
    [
        f"[TOOL_CALLS][{NOW}]",
        f"[TOOL_CALLS] {NOW}",
        "[TOOL_CALLS]get_time[ARGS]{}",
        "[TOOL_CALLS] get_time [CALL_ID]abcdefghi[ARGS] {}",
    ],
)
def test_mistral_writes_a_list_or_a_name_and_arguments(text: str):
    assert read(mistral, f"Yes. {text}") == [Content("Yes."), *TIME_CALL]


@pytest.mark.parametrize("rest_of_it", ["get_time{}", "two words[ARGS]{}", "[ARGS]{}", ""])
def test_mistrals_mark_without_a_name_and_its_divider_is_content(rest_of_it: str):
    text = f"[TOOL_CALLS]{rest_of_it}"
    assert read(mistral, text) == [Content(text)]


_BEGIN, _ONE, _SEP = "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>"
_END = "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"


@pytest.mark.parametrize(
    "text",
    [
        f"{_BEGIN}{_ONE}function{_SEP}get_time\n```json\n{{}}\n```{_END}",
        f"{_BEGIN}{_ONE}get_time{_SEP}{{}}{_END}",
        f"{_ONE}get_time{_SEP}{{}}",
    ],
)
def test_deepseek_fences_arguments_or_leaves_them_bare(text: str):
    assert read(deepseek, text) == TIME_CALL


def test_deepseeks_opening_without_a_call_is_content():
    for text in (f"{_BEGIN}word", f"{_ONE}two words{_SEP}{{}}"):
        assert read(deepseek, text) == [Content(text)]


def test_a_name_is_one_word():
    assert is_name(" get_time\n")
    assert not is_name("get time")
    assert not is_name(" \n")


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("```tool_code\nget_weather(city='Pune', days=3)\n```", '{"city": "Pune", "days": 3}'),
        ('```python\nprint(get_weather(city="a)"))\n```', '{"city": "a)"}'),
        (
            "[get_weather(exact=True, options={'tags': [None]})]",
            '{"exact": true, "options": {"tags": [null]}}',
        ),
        ('```json\n{"name": "get_weather", "parameters": {"city": "पुणे"}}\n```', '{"city": "पुणे"}'),
    ],
)
def test_gemmas_fenced_calls_are_python_or_json(text: str, arguments: str):
    assert read(fenced, text) == calls(("get_weather", arguments))


@pytest.mark.parametrize(
    "text",
    [
        "```tool_code\nos.remove(path='x')\n```",
        "```python\nget_weather('Pune')\n```",
        "```python\nget_weather(city=open('x'))\n```",
        "```python\nget_weather(city=1e999)\n```",
        "```python\nprint(get_weather(city='a')\n```",
        "```c\nget_time()\n```",
        "get_time",
    ],
)
def test_code_that_is_no_call_of_an_offered_tool_by_literals_is_content(text: str):
    assert read(fenced, text) == [Content(text)]


MARKED = marked("<call>", "</call>", "<q>")


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("call:f{}", "{}"),
        ('call:f{city:<q>a "b"\n{,<q>,days:3}', '{"city": "a \\"b\\"\\n{,", "days": 3}'),
        ("f{a:[1,<q>x<q>,{b:None}],c:True}", '{"a": [1, "x", {"b": null}], "c": true}'),
        ('call:f{<q>a<q>:"plain"}', '{"a": "plain"}'),
    ],
)
def test_gemmas_own_notation_is_turned_into_json(text: str, arguments: str):
    assert read(MARKED, f"Yes.\n<call>{text}</call>") == [
        Content("Yes."),
        *calls(("f", arguments)),
    ]


@pytest.mark.parametrize(
    "text", ["call:f{a:word}", "call:f{a:<q>open", "call:f{a:[1", "f{a}", "f{a:"]
)
def test_what_is_malformed_in_gemmas_notation_is_not_whole(text: str):
    parts = read(MARKED, f"<call>{text}")
    assert parts[0] == CallStarted(0, "f")
    assert CallEnded(0, is_whole=False) in parts


def test_gemmas_mark_without_a_name_is_content():
    for text in ("<call>two words{}", "<call>word"):
        assert read(MARKED, text) == [Content(text)]


_CALL = "<|channel|>commentary to=functions.get_time <|constrain|>json<|message|>{}<|call|>"


def test_harmonys_channels_are_reasoning_calls_and_the_answer():
    text = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
    assert read(harmony, text + _CALL) == [Thought("Hm."), *TIME_CALL]
    answer = "<|channel|>final<|message|>Yes.<|return|>"
    assert read(harmony, text + answer) == [Thought("Hm."), Content("Yes.")]


def test_harmonys_receiver_may_stand_before_the_channel():
    text = "<|start|>assistant to=functions.get_time<|channel|>commentary<|message|>{}<|call|>"
    assert read(harmony, text) == TIME_CALL


def test_harmony_without_a_header_is_the_answer():
    assert read(harmony, "Yes <b>.") == [Content("Yes <b>.")]


def test_harmonys_reasoning_that_the_prompt_opened_goes_on():
    sink = Sink()
    sink.enter_reasoning()
    text = "Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes."
    assert read(harmony, text, sink=sink) == [Thought("Hm."), Content("Yes.")]


@pytest.mark.parametrize("receiver", ["browser.search", "x.functions.get_time", "functions."])
def test_harmonys_message_to_another_receiver_is_no_call(receiver: str):
    text = f"<|channel|>commentary to={receiver}<|message|>{{}}"
    assert read(harmony, text) == [Content(text)]
    assert read(harmony, _CALL, tools={}) == [Content(_CALL.removesuffix("<|call|>"))]


def test_harmonys_header_that_is_cut_off_says_nothing():
    assert read(harmony, "<|channel|>fin") == []
    cut = "<|channel|>commentary to=functions.get"
    assert read(harmony, cut) == [Content(cut)]


def _tagged(style: Tags, name: str, *values: tuple[str, str], is_json: bool = False) -> str:
    key_end = style.json_key_end if is_json else style.text_key_end
    inner = "".join(f"{style.key}{key}{key_end}{value}{style.value_end}" for key, value in values)
    return f"{style.openings[0]}{name}{style.name_end}{inner}{''.join(style.closings)}"


each_style = pytest.mark.parametrize(
    "style",
    [QWEN3_CODER, SEED_OSS, GLM, DEEPSEEK_V3_2, DEEPSEEK_V4],
    ids=["qwen3_coder", "seed_oss", "glm", "deepseek_v3_2", "deepseek_v4"],
)


@each_style
def test_what_the_schema_calls_text_is_text(style: Tags):
    text = _tagged(style, "get_weather", ("city", '3 <b> "x"'))
    assert read(tags(style), text) == calls(("get_weather", '{"city": "3 <b> \\"x\\""}'))


@each_style
def test_what_the_schema_calls_something_else_is_json(style: Tags):
    values = (("days", "3"), ("exact", "True"), ("options", "{'tags': [None]}"))
    text = _tagged(style, "get_weather", *values, is_json=True)
    expected = '{"days": 3, "exact": true, "options": {"tags": [null]}}'
    assert read(tags(style), text) == calls(("get_weather", expected))


@each_style
def test_calls_without_arguments_follow_one_another(style: Tags):
    text = _tagged(style, "get_time")
    assert read(tags(style), f"So:\n{text}\n{text}") == [
        Content("So:"),
        *calls(("get_time", "{}"), ("get_time", "{}")),
    ]


@each_style
def test_a_call_that_breaks_off_is_not_whole(style: Tags):
    text = _tagged(style, "get_weather", ("city", "Pune"))
    cut = text[: text.index("Pune") + 4]
    assert read(tags(style), cut) == [
        CallStarted(0, "get_weather"),
        CallArguments(0, '{"city": "Pune'),
        CallEnded(0, is_whole=False),
    ]


@each_style
def test_an_opening_without_a_name_is_content(style: Tags):
    text = f"{style.openings[0]}two words{style.name_end.rstrip()}"
    parts = read(tags(style), text)
    assert all(isinstance(part, Content) for part in parts)
    assert "two words" in "".join(part.text for part in parts if isinstance(part, Content))


@pytest.mark.parametrize(
    ("written", "read_as"),
    [("3", "3"), ("three", '"three"'), ("NaN", '"NaN"'), ("null", "null"), ('"3"', '"3"')],
)
def test_a_value_that_no_schema_knows_is_json_if_it_reads_as_json(written: str, read_as: str):
    text = _tagged(QWEN3_CODER, "get_time", ("zone", written))
    assert read(tags(QWEN3_CODER), text) == calls(("get_time", f'{{"zone": {read_as}}}'))


def test_a_value_of_several_types_is_text_unless_it_is_one_of_the_others():
    tool = Tool("f", "", {"properties": {"a": {"type": ["string", "integer"]}}})
    for written, read_as in (("3", "3"), ("3.5", '"3.5"'), ("true", '"true"')):
        parts = read(tags(GLM), _tagged(GLM, "f", ("a", written)), tools={"f": tool})
        assert parts == calls(("f", f'{{"a": {read_as}}}'))


def test_json_of_a_wrong_type_is_left_as_it_is_where_no_text_is_allowed():
    text = _tagged(GLM, "get_weather", ("days", "3.5"))
    assert read(tags(GLM), text) == calls(("get_weather", '{"days": 3.5}'))
