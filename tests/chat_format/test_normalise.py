import json

import pytest

from llmedge.chat_format.detect import detect
from llmedge.chat_format.normalise import describe_tools, normalise
from llmedge.chat_format.parser import ChatParser
from llmedge.chat_format.parts import CallArguments, CallEnded, CallStarted
from llmedge.chat_format.template_traits import TemplateTraits
from llmedge.core.errors import UsageError
from tests.chat_format.outputs import TIME, TOOLS, WEATHER, format_of
from tests.chat_format.rendering import SMALL, render, traits_of
from tests.chat_format.test_detect import REAL

ARGUMENTS = {"city": 'पुणे "x"', "days": 3, "exact": True}
CALL = {"name": "get_weather", "arguments": json.dumps(ARGUMENTS)}
SECOND = {"name": "get_time", "arguments": ""}
TALK = [
    {"role": "developer", "content": "BE BRIEF"},
    {"role": "user", "content": [{"type": "text", "text": "ONE"}, {"type": "text", "text": "TWO"}]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "call_abcdefghijklmnop", "type": "function", "function": CALL},
            {"id": "call_2", "type": "function", "function": SECOND},
        ],
    },
    {"role": "tool", "tool_call_id": "call_abcdefghijklmnop", "content": "RAIN"},
    {"role": "tool", "tool_call_id": "call_2", "content": "NOON"},
]
HERMES = format_of("hermes")


def shown(source: str) -> str:
    """Render the talk as the server would."""
    traits = traits_of(source)
    messages = normalise(TALK, TOOLS, detect(source), traits)
    tools = [tool.to_json() for tool in TOOLS] if traits.has_tools else None
    return render(source, messages, tools)


def read_back(source: str, text: str) -> list[tuple[str, object]]:
    """Parse what stands in a prompt after the question as the model's own text."""
    answer = text[text.rindex("TWO") + 3 :]
    if detect(source).family == "llama":  # calls have no mark there: they fill the message
        pieces = answer.split("<|start_header_id|>assistant<|end_header_id|>")
        pieces = [piece.split("<|eot_id|>")[0] for piece in pieces[1:]]
    else:
        pieces = [answer]
    found: list[tuple[str, object]] = []
    for piece in pieces:
        parser = ChatParser(detect(source), TOOLS)
        names: list[str] = []
        arguments: list[str] = []
        for part in parser.feed(piece) + parser.finish():
            if isinstance(part, CallStarted):
                names.append(part.name)
            elif isinstance(part, CallArguments):
                arguments.append(part.text)
            elif isinstance(part, CallEnded):
                assert part.is_whole
        found += [(name, json.loads(text)) for name, text in zip(names, arguments, strict=True)]
    return found


@pytest.mark.parametrize("name", SMALL)
def test_calls_through_a_small_template_are_read_back(name: str):
    text = shown(SMALL[name])
    assert all(word in text for word in ("BE BRIEF", "ONE\nTWO", "RAIN", "NOON", "get_weather"))
    assert read_back(SMALL[name], text) == [("get_weather", ARGUMENTS), ("get_time", {})]


@pytest.mark.parametrize("name", sorted(REAL))
def test_calls_through_a_real_template_are_read_back(name: str, llama_templates):
    text = shown(llama_templates[name])
    assert all(word in text for word in ("BE BRIEF", "ONE\nTWO", "RAIN", "NOON", "get_weather"))
    assert read_back(llama_templates[name], text) == [("get_weather", ARGUMENTS), ("get_time", {})]


def test_what_a_template_wants_is_learnt():
    assert traits_of(SMALL["hermes"]) == TemplateTraits()
    assert traits_of(SMALL["gemma"]) == TemplateTraits(
        has_system=False,
        has_late_system=False,
        can_repeat=False,
        has_tools=False,
        has_calls=False,
        has_results=False,
    )
    assert traits_of(SMALL["mistral"]) == TemplateTraits(
        keeps_system=False, has_late_system=False, wants_short_ids=True
    )
    assert traits_of(SMALL["deepseek"]) == TemplateTraits(
        has_late_system=False,
        has_tools=False,
        wants_objects=False,
        wants_no_content=True,
        has_parallel_calls=False,
    )


def test_tools_are_described_where_the_template_does_not():
    text = describe_tools((WEATHER,), HERMES)
    assert json.dumps(WEATHER.to_json(), ensure_ascii=False) in text
    assert '<tool_call>\n{"name": "NAME", "arguments": {"ARGUMENT": "VALUE"}}' in text


def test_late_and_repeated_messages_find_a_place():
    messages = [
        {"role": "user", "content": "a"},
        {"role": "system", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "system", "content": "d"},
    ]
    traits = TemplateTraits(has_late_system=False)
    assert [m["content"] for m in normalise(messages, (), HERMES, traits)] == ["a", "b\n\nc", "d"]
    traits = TemplateTraits(has_late_system=False, can_repeat=False)
    assert [m["content"] for m in normalise(messages, (), HERMES, traits)] == ["a\n\nb\n\nc\n\nd"]
    assert [m["role"] for m in normalise(messages, (), HERMES, TemplateTraits())] == [
        m["role"] for m in messages
    ]


def test_several_system_messages_at_the_beginning_become_one():
    messages = [{"role": "system", "content": "a"}, {"role": "developer", "content": "b"}]
    messages.append({"role": "user", "content": "c"})
    first, second = normalise(messages, (), HERMES, TemplateTraits())
    assert first == {"role": "system", "content": "a\n\nb"}
    assert second == {"role": "user", "content": "c"}


def test_results_find_their_calls():
    bare = {"role": "assistant", "tool_calls": [{"function": CALL}, {"function": SECOND}]}
    results = [{"role": "tool", "content": "1"}, {"role": "tool", "content": "2"}]
    done = normalise([bare, *results], (), HERMES, TemplateTraits())
    calls = done[0]["tool_calls"]
    assert isinstance(calls, list)
    assert [m["tool_call_id"] for m in done[1:]] == [call["id"] for call in calls]
    assert [m["name"] for m in done[1:]] == ["get_weather", "get_time"]
    short = normalise(TALK, (), HERMES, TemplateTraits(wants_short_ids=True))
    assert all(len(str(message["tool_call_id"])) == 9 for message in short[-2:])


def test_reasoning_is_given_under_the_names_that_templates_use():
    message = {"role": "assistant", "content": "a", "reasoning_content": "b"}
    assert normalise([message], (), HERMES, TemplateTraits()) == [{**message, "thinking": "b"}]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"role": "robot", "content": ""}, r"messages\[0\] has the role 'robot'"),
        ({"content": "a"}, "has the role 'None'"),
        ({"role": "user"}, "has no content"),
        ({"role": "user", "content": 3}, "neither text nor a list of parts"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "a part of type 'image_url'"),
        ({"role": "user", "content": ["a"]}, "a part of type 'None'"),
        ({"role": "assistant", "tool_calls": [{}]}, "has no name"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},
            r"the arguments of the call of f in messages\[0\] are no JSON object: '{'",
        ),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": [1]}}]},
            "are no JSON object",
        ),
    ],
)
def test_malformed_messages_are_refused(message, words):
    with pytest.raises(UsageError, match=words):
        normalise([message], (TIME,), HERMES, TemplateTraits())
    with pytest.raises(UsageError, match="no messages"):
        normalise([], (), HERMES, TemplateTraits())
