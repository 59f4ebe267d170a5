"""`/v1/messages` over a fake responder: real HTTP, and Anthropic's client where there is one."""

import json

import pytest

from llmedge.core.errors import ContextLengthError, EngineError
from llmedge.serve.answer import NamedTool
from llmedge.serve.anthropic import routes
from tests.serve.dialects import (
    CALLS,
    CUT_OFF,
    HELLO,
    MODEL,
    THOUGHT,
    answering,
    ended,
    wait_until,
)

PATH = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
HI = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 9}
WEATHER = {
    "name": "weather",
    "description": "Tells it",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
PIXEL = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="},
}


def asked(client, **body: object):
    status, answer = client.post(PATH, {**HI, **body})
    assert status == 200, answer
    return client.responder.calls[-1]


def test_an_answer_is_a_message_with_its_usage(client):
    status, body = client.post(PATH, {**HI, "model": MODEL})
    assert status == 200
    assert body.pop("id").startswith("msg_")
    assert body == {
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [{"type": "text", "text": "Hello"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 4,
            "cache_read_input_tokens": 3,
            "cache_creation_input_tokens": 0,
            "output_tokens": 5,
        },
    }
    assert client.responder.calls[0].max_tokens == 9


def test_energy_is_told_where_it_was_measured():
    with answering(routes, HELLO, ended(energy_j=1.5)) as client:
        _, body = client.post(PATH, {**HI, "model": MODEL})
    assert body["usage"]["energy_j"] == 1.5


def test_a_stream_has_anthropics_events_in_their_order(client):
    events = client.events(PATH, HI)
    assert [event["type"] for event in events] == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0]["message"]["content"] == []
    assert events[0]["message"]["usage"]["input_tokens"] == 7
    assert events[2]["content_block"] == {"type": "text", "text": ""}
    assert events[3]["delta"] == {"type": "text_delta", "text": "He"}
    assert events[6]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert events[6]["usage"]["output_tokens"] == 5


def test_thoughts_and_calls_are_blocks_of_their_own():
    with answering(routes, [*THOUGHT, *CALLS[1:]], ended("tool_calls")) as client:
        events = client.events(PATH, {**HI, "tools": [WEATHER]})
        _, whole = client.post(PATH, {**HI, "tools": [WEATHER]})
    starts = [e["content_block"] for e in events if e["type"] == "content_block_start"]
    assert [block["type"] for block in starts] == ["thinking", "text", "tool_use", "tool_use"]
    assert starts[2] == {"type": "tool_use", "id": "call_a", "name": "weather", "input": {}}
    deltas = [(e["index"], e["delta"]) for e in events if e["type"] == "content_block_delta"]
    assert (0, {"type": "signature_delta", "signature": ""}) in deltas
    arguments = [delta["partial_json"] for index, delta in deltas if index == 2]
    assert json.loads("".join(arguments)) == {"city": "पुणे"}
    stops = [event["index"] for event in events if event["type"] == "content_block_stop"]
    assert stops == [0, 1, 2, 3]
    assert events[-2]["delta"]["stop_reason"] == whole["stop_reason"] == "tool_use"
    assert whole["content"] == [
        {"type": "thinking", "thinking": "hmm", "signature": ""},
        {"type": "text", "text": "Hello"},
        {"type": "tool_use", "id": "call_a", "name": "weather", "input": {"city": "पुणे"}},
        {"type": "tool_use", "id": "call_b", "name": "time", "input": {}},
    ]


def test_a_call_that_was_cut_off_is_not_a_call():
    with answering(routes, CUT_OFF, ended("length")) as client:
        _, body = client.post(PATH, {**HI, "tools": [WEATHER]})
    assert body["stop_reason"] == "max_tokens"
    assert body["content"] == [{"type": "text", "text": '{"city": "Pu'}]


def test_an_answer_without_text_has_an_empty_block():
    with answering(routes, []) as client:
        assert client.post(PATH, HI)[1]["content"] == [{"type": "text", "text": ""}]
        kinds = [event["type"] for event in client.events(PATH, HI)]
        assert kinds[2:4] == ["content_block_start", "content_block_stop"]


@pytest.mark.parametrize(("text", "reason"), [("END", "stop_sequence"), ("<eot>", "end_turn")])
def test_the_stop_text_is_told_where_it_is_the_clients(text: str, reason: str):
    with answering(routes, HELLO, ended(stop_text=text)) as client:
        _, body = client.post(PATH, {**HI, "stop_sequences": ["END"]})
        assert body["stop_reason"] == reason
        assert body["stop_sequence"] == ("END" if text == "END" else None)


def test_blocks_become_messages(client):
    call = asked(
        client,
        system=[{"type": "text", "text": "Be kind", "cache_control": {"type": "ephemeral"}}],
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hmm", "signature": "x"},
                    {"type": "redacted_thinking", "data": "x"},
                    {"type": "text", "text": "Let me see"},
                    {"type": "tool_use", "id": "a", "name": "weather", "input": {"city": "पुणे"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Here it is"},
                    {"type": "tool_result", "tool_use_id": "a", "content": "sunny"},
                    {
                        "type": "tool_result",
                        "tool_use_id": "b",
                        "is_error": True,
                        "content": [{"type": "text", "text": "no"}],
                    },
                ],
            },
        ],
    )
    function = {"name": "weather", "arguments": '{"city":"पुणे"}'}
    assert call.messages == [
        {"role": "system", "content": "Be kind"},
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "content": "Let me see",
            "reasoning_content": "hmm",
            "tool_calls": [{"id": "a", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "a", "content": "sunny"},
        {"role": "tool", "tool_call_id": "b", "content": "no"},
        {"role": "user", "content": "Here it is"},
    ]
    assert not call.continues


def test_every_field_reaches_the_model(client):
    call = asked(
        client,
        tools=[WEATHER],
        tool_choice={"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        stop_sequences=["END"],
        temperature=0.5,
        top_p=0.25,
        top_k=7,
        thinking={"type": "enabled", "budget_tokens": 50},
        output_config={
            "effort": "low",
            "format": {"type": "json_schema", "schema": {"type": "object"}},
        },
    )
    function = call.tools[0]["function"]
    assert function["parameters"] == WEATHER["input_schema"]
    assert call.tool_choice == NamedTool("weather")
    assert not call.parallel_tool_calls
    assert (call.stop, call.reasoning_budget) == (("END",), 50)
    sampling = call.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.25, 7)
    assert call.template_arguments == {
        "enable_thinking": True,
        "thinking": True,
        "reasoning_effort": "low",
    }
    assert call.constraint.kind == "json_schema"
    assert asked(client, tools=[WEATHER], tool_choice={"type": "any"}).tool_choice == "required"
    assert asked(client, tools=[WEATHER], tool_choice={"type": "none"}).tool_choice == "none"
    off = asked(client, thinking={"type": "disabled"})
    assert (off.template_arguments["thinking"], off.reasoning_budget) == (False, 0)


def test_a_last_message_of_the_assistant_is_continued(client):
    messages = [*HI["messages"], {"role": "assistant", "content": "I th"}]
    assert asked(client, messages=messages).continues


def test_what_is_not_known_is_named_in_a_header(client):
    asked(client, service_tier="auto", metadata={"user_id": "x"})
    assert client.headers["x-llmedge-ignored"] == "metadata, service_tier"


def test_tokens_are_counted_with_system_tools_and_thoughts(client):
    plain = {"messages": HI["messages"]}
    status, body = client.post(COUNT, plain)
    assert (status, body) == (200, {"input_tokens": 1 + len("user: Hello\n")})
    assert client.post(COUNT, {**plain, "system": "Be kind"})[1]["input_tokens"] == 14 + 15
    assert client.post(COUNT, {**plain, "tools": [WEATHER]})[1]["input_tokens"] > 50
    assert client.responder.calls == []


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"messages": HI["messages"]}, "max_tokens"),
        ({"max_tokens": 9}, "messages"),
        ({**HI, "messages": []}, "0 items"),
        ({**HI, "max_tokens": 0}, "max_tokens"),
        ({**HI, "messages": [{"role": "user", "content": [PIXEL]}]}, "image"),
        (
            {
                **HI,
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "tool_result", "tool_use_id": "a", "content": [PIXEL]}
                        ],
                    }
                ],
            },
            "image",
        ),
        ({**HI, "messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "audio"),
        (
            {
                **HI,
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}],
                    }
                ],
            },
            "tool_use",
        ),
        ({**HI, "tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search"),
        ({**HI, "tools": [{"name": "f"}]}, "input_schema"),
        ({**HI, "tool_choice": {"type": "any"}}, "no tools"),
        ({**HI, "tool_choice": {"type": "tool", "name": "f"}}, "among the tools"),
        ({**HI, "stop_sequences": [""]}, "stop_sequences"),
        ({**HI, "top_k": -1}, "top_k"),
        ({**HI, "thinking": {"type": "enabled", "budget_tokens": 0}}, "budget_tokens"),
    ],
)
def test_a_wrong_request_is_a_400_in_anthropics_form(client, body: dict[str, object], word: str):
    status, answer = client.post(PATH, body)
    assert (status, answer["type"]) == (400, "error")
    assert answer["error"]["type"] == "invalid_request_error"
    assert word in answer["error"]["message"]


def test_other_errors_have_anthropics_words():
    with answering(routes) as client:
        status, body = client.post(PATH, {**HI, "model": "claude"})
        assert (status, body["error"]["type"]) == (404, "not_found_error")
    for error, status, kind in (
        (ContextLengthError("too long"), 400, "invalid_request_error"),
        (EngineError("it broke"), 503, "overloaded_error"),
    ):
        with answering(routes, error=error) as client:
            for stream in (True, False):
                got, body = client.post(PATH, {**HI, "stream": stream})
                assert (got, body["error"]["type"]) == (status, kind)


def test_an_error_inside_a_stream_is_its_last_event():
    with answering(routes, error=EngineError("it broke"), error_after=1) as client:
        events = client.events(PATH, HI)
    assert events[-1] == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "it broke"},
    }


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_its_answer(stream: bool, caplog):
    with answering(routes, forever=True) as client:
        client.leave_early(PATH, {**HI, "stream": stream})
        wait_until(lambda: client.responder.n_closed == 1)
    assert not caplog.records


@pytest.fixture
def anthropic():
    return pytest.importorskip("anthropic")


def test_anthropics_client_understands_all_of_it(anthropic):
    with (
        answering(routes, [*THOUGHT, *CALLS[1:]], ended("tool_calls")) as client,
        anthropic.Anthropic(base_url=client.url, api_key="x", max_retries=0) as sdk,
    ):
        asked = {"model": MODEL, "max_tokens": 9, "messages": HI["messages"], "tools": [WEATHER]}
        message = sdk.messages.create(**asked)
        assert [b.type for b in message.content] == ["thinking", "text", "tool_use", "tool_use"]
        with sdk.messages.stream(**asked) as stream:
            assert "".join(stream.text_stream) == "Hello"
            final = stream.get_final_message()
        assert [b.type for b in final.content] == [b.type for b in message.content]
        assert final.content[2].input == message.content[2].input == {"city": "पुणे"}
        assert final.usage.output_tokens == 5
        assert final.usage.input_tokens == message.usage.input_tokens == 4
        assert final.stop_reason == "tool_use"
        # What was answered can be sent back as it is.
        result = {"type": "tool_result", "tool_use_id": "call_a", "content": "sunny"}
        turns = [
            *HI["messages"],
            {"role": "assistant", "content": final.content},
            {"role": "user", "content": [result]},
        ]
        sdk.messages.create(model=MODEL, max_tokens=9, messages=turns)
        assert client.responder.calls[-1].messages[-1]["content"] == "sunny"
        assert sdk.messages.count_tokens(model=MODEL, messages=HI["messages"]).input_tokens == 13
        with pytest.raises(anthropic.NotFoundError):
            sdk.messages.create(model="claude", max_tokens=9, messages=HI["messages"])


@pytest.mark.parametrize(
    "untyped", [{"output_config": {"format": {"schema": {}}}}, {"system": [{"text": "x"}]}]
)
def test_a_part_that_does_not_say_its_type_is_refused(client, untyped: dict[str, object]):
    status, answer = client.post("/v1/messages", {**HI, **untyped})
    assert status == 400
    assert "type" in answer["error"]["message"]
