"""`/v1/responses` over a fake responder: real HTTP, and OpenAI's own client where there is one."""

import json

import pytest

from llmedge.core.errors import ContextLengthError, EngineError
from llmedge.engine.generation import Constraint
from llmedge.serve.answer import NamedTool
from llmedge.serve.responses import routes
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

PATH = "/v1/responses"
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "Tells it",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def asked(client, **body: object):
    status, answer = client.post(PATH, {"input": "Hello", **body})
    assert status == 200, answer
    return client.responder.calls[-1]


def test_an_answer_is_a_message_with_its_usage(client):
    status, body = client.post(PATH, {"input": "Hello", "model": MODEL, "instructions": "Be kind"})
    assert status == 200
    assert (body["object"], body["status"], body["model"]) == ("response", "completed", MODEL)
    assert body["id"].startswith("resp_")
    (item,) = body["output"]
    assert item["id"].startswith("msg_")
    assert (item["type"], item["role"], item["status"]) == ("message", "assistant", "completed")
    assert item["content"][0]["text"] == "Hello"
    assert body["usage"]["total_tokens"] == 12
    assert body["usage"]["input_tokens_details"]["cached_tokens"] == 3
    assert body["store"] is False
    assert body["instructions"] == "Be kind"
    assert client.responder.calls[0].messages == [
        {"role": "system", "content": "Be kind"},
        {"role": "user", "content": "Hello"},
    ]


def test_energy_is_told_where_it_was_measured():
    with answering(routes, HELLO, ended(energy_j=1.5)) as client:
        _, body = client.post(PATH, {"input": "Hello", "model": MODEL})
    assert body["usage"]["energy_j"] == 1.5


def test_a_stream_has_openais_events_in_their_order(client):
    events = client.events(PATH, {"input": "Hello"})
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(10))
    item_id = events[2]["item"]["id"]
    assert {event["item_id"] for event in events[3:8]} == {item_id}
    assert events[0]["response"]["output"] == []
    assert events[2]["item"]["content"] == []
    assert events[3]["part"]["text"] == ""
    assert events[6]["text"] == "Hello"
    assert events[8]["item"]["content"][0]["text"] == "Hello"


@pytest.mark.parametrize("parts", [HELLO, THOUGHT, CALLS, [], CUT_OFF])
@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls"])
def test_the_last_event_holds_what_is_answered_without_a_stream(parts, reason):
    with answering(routes, parts, ended(reason)) as client:
        last = client.events(PATH, {"input": "Hello"})[-1]["response"]
        whole = client.post(PATH, {"input": "Hello"})[1]
    for response in (last, whole):
        for item in [response, *response["output"]]:
            item.pop("id")
        for key in ("created_at", "completed_at"):
            response.pop(key)
    assert last == whole


def test_reasoning_and_calls_are_items_of_their_own():
    with answering(routes, [*THOUGHT, *CALLS[1:]], ended("tool_calls")) as client:
        events = client.events(PATH, {"input": "Hello", "tools": [WEATHER]})
    output = events[-1]["response"]["output"]
    assert [item["type"] for item in output] == [
        "reasoning",
        "message",
        "function_call",
        "function_call",
    ]
    assert output[0]["content"] == [{"type": "reasoning_text", "text": "hmm"}]
    assert output[2]["call_id"] == "call_a"
    assert json.loads(output[2]["arguments"]) == {"city": "पुणे"}
    done = [e for e in events if e["type"] == "response.function_call_arguments.done"]
    assert [(event["output_index"], event["arguments"]) for event in done] == [
        (2, output[2]["arguments"]),
        (3, ""),
    ]


def test_an_answer_that_is_cut_off_is_incomplete():
    with answering(routes, HELLO, ended("length")) as client:
        events = client.events(PATH, {"input": "Hello", "max_output_tokens": 5})
    assert events[-1]["type"] == "response.incomplete"
    response = events[-1]["response"]
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"][0]["status"] == "incomplete"


def test_an_engine_that_fails_inside_a_stream_makes_a_failed_response():
    with answering(routes, error=EngineError("it broke"), error_after=1) as client:
        events = client.events(PATH, {"input": "Hello"})
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"]["message"] == "it broke"
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "He"


@pytest.mark.parametrize("stream", [True, False])
def test_an_error_before_the_answer_is_a_status(stream: bool):
    with answering(routes, error=ContextLengthError("the prompt has 9 tokens")) as client:
        status, body = client.post(PATH, {"input": "Hello", "stream": stream})
        assert (status, body["error"]["code"]) == (400, "context_length_exceeded")


def test_items_become_messages(client):
    call = asked(
        client,
        input=[
            {"role": "developer", "content": "Be kind"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {
                "type": "message",
                "role": "assistant",
                "id": "msg_1",
                "content": [{"type": "output_text", "text": "Let me see"}],
            },
            {"type": "function_call", "call_id": "a", "name": "weather", "arguments": "{}"},
            {"type": "function_call", "call_id": "b", "name": "time", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "a", "output": "sunny"},
            {
                "type": "function_call_output",
                "call_id": "b",
                "output": [{"type": "input_text", "text": "noon"}],
            },
        ],
    )
    function = {"arguments": "{}"}
    assert call.messages == [
        {"role": "system", "content": "Be kind"},
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "content": "Let me see",
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "weather", **function}},
                {"id": "b", "type": "function", "function": {"name": "time", **function}},
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "sunny"},
        {"role": "tool", "tool_call_id": "b", "content": "noon"},
    ]


def test_every_field_reaches_the_model(client):
    call = asked(
        client,
        tools=[WEATHER],
        tool_choice={"type": "function", "name": "weather"},
        parallel_tool_calls=False,
        max_output_tokens=9,
        temperature=0.5,
        top_p=0.25,
        seed=0,
        reasoning={"effort": "none", "summary": "auto"},
        text={"format": {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True}},
        top_logprobs=2,
        include=["message.output_text.logprobs"],
    )
    assert call.tools[0]["function"] == {
        key: value for key, value in WEATHER.items() if key != "type"
    }
    assert call.tool_choice == NamedTool("weather")
    assert not call.parallel_tool_calls
    assert (call.max_tokens, call.n_logprobs) == (9, 2)
    assert (call.sampling.temperature, call.sampling.top_p, call.sampling.seed) == (0.5, 0.25, 0)
    assert call.template_arguments["enable_thinking"] is False
    assert call.reasoning_budget == 0
    assert call.constraint is not None
    assert (call.constraint.kind, json.loads(call.constraint.text)) == ("json_schema", SCHEMA)
    plain = asked(client, text={"format": {"type": "json_object"}}, reasoning={"effort": "high"})
    assert plain.constraint == Constraint("json_object")
    assert plain.template_arguments["reasoning_effort"] == "high"


def test_log_probabilities_are_given_with_their_bytes(client):
    _, body = client.post(PATH, {"input": "Hello", "top_logprobs": 1})
    (entry,) = body["output"][0]["content"][0]["logprobs"]
    assert (entry["token"], entry["bytes"], entry["logprob"]) == ("He", [72, 101], -0.5)
    assert len(entry["top_logprobs"]) == 1


def test_what_is_not_known_is_named_in_a_header(client):
    asked(client, service_tier="flex", truncation="auto", safety_identifier="x")
    ignored = "safety_identifier, service_tier, truncation"
    assert client.headers["x-llmedge-ignored"] == ignored
    asked(client)
    assert "x-llmedge-ignored" not in client.headers


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({}, "input"),
        ({"input": 1}, "input"),
        ({"input": []}, "0 items"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "item_reference"),
        ({"input": [{"role": "user"}]}, "input[0]"),
        ({"input": [{"type": ["message"]}]}, "input[0]"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input_image",
        ),
        ({"input": "x", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": "x", "conversation": "c"}, "conversation"),
        ({"input": "x", "background": True}, "background"),
        ({"input": "x", "tools": [{"type": "web_search"}]}, "web_search"),
        ({"input": "x", "tools": [{"type": "function"}]}, "tools[0]"),
        ({"input": "x", "tool_choice": "required"}, "no tools"),
        ({"input": "x", "tool_choice": "sometimes"}, "sometimes"),
        ({"input": "x", "tool_choice": {"type": "function", "name": "f"}}, "among the tools"),
        ({"input": "x", "tool_choice": {"type": "mcp"}}, "mcp"),
        ({"input": "x", "max_output_tokens": 0}, "max_output_tokens"),
        ({"input": "x", "temperature": -1}, "temperature"),
        ({"input": "x", "top_logprobs": 21}, "top_logprobs"),
        ({"input": "x", "reasoning": {"effort": "heroic"}}, "heroic"),
        ({"input": "x", "text": {"format": {"type": "grammar"}}}, "grammar"),
    ],
)
def test_a_wrong_request_is_a_400_that_says_why(client, body: dict[str, object], word: str):
    status, answer = client.post(PATH, body)
    assert status == 400
    assert answer["error"]["type"] == "invalid_request_error"
    assert word in answer["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"input": "\xff"}', b"[" * 100_000])
def test_a_body_that_is_not_json_is_a_400(client, body: bytes):
    assert client.post(PATH, body)[0] == 400


def test_a_schema_without_end_is_a_400(client):
    deep: dict[str, object] = {}
    for _ in range(200):
        deep = {"properties": {"a": deep}}
    for schema in (deep, {"maximum": 10**400}, {"enum": list(range(30_000))}):
        text = {"format": {"type": "json_schema", "name": "x", "schema": schema}}
        status, body = client.post(PATH, {"input": "x", "text": text})
        assert (status, body["error"]["type"]) == (400, "invalid_request_error")


def test_another_model_is_a_404(client):
    status, body = client.post(PATH, {"input": "x", "model": "gpt-5"})
    assert (status, body["error"]["code"]) == (404, "model_not_found")


def test_input_tokens_are_counted_without_an_answer(client):
    status, body = client.post("/responses/input_tokens", {"input": "Hello"})
    assert status == 200
    assert body == {"object": "response.input_tokens", "input_tokens": 1 + len("user: Hello\n")}
    assert client.responder.calls == []


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_its_answer(stream: bool, caplog):
    with answering(routes, forever=True) as client:
        client.leave_early(PATH, {"input": "x", "stream": stream})
        wait_until(lambda: client.responder.n_closed == 1)
    assert not caplog.records


@pytest.fixture
def openai():
    return pytest.importorskip("openai")


def test_openais_client_understands_an_answer_and_a_stream(openai, client):
    with openai.OpenAI(base_url=f"{client.url}/v1", api_key="x", max_retries=0) as sdk:
        assert sdk.responses.create(model=MODEL, input="Hello").output_text == "Hello"
        with sdk.responses.stream(model=MODEL, input="Hello") as stream:
            texts = [e.delta for e in stream if e.type == "response.output_text.delta"]
            assert texts == ["He", "llo"]
            assert stream.get_final_response().output_text == "Hello"
        with pytest.raises(openai.NotFoundError):
            sdk.responses.create(model="gpt-5", input="Hello")
        with pytest.raises(openai.BadRequestError, match="previous_response_id"):
            sdk.responses.create(model=MODEL, input="x", previous_response_id="resp_1")


def test_openais_client_understands_reasoning_and_calls(openai):
    with (
        answering(routes, [*THOUGHT, *CALLS[1:]], ended("tool_calls")) as client,
        openai.OpenAI(base_url=f"{client.url}/v1", api_key="x", max_retries=0) as sdk,
    ):
        with sdk.responses.stream(model=MODEL, input="Hello", tools=[WEATHER]) as stream:
            final = stream.get_final_response()
        assert [item.type for item in final.output] == [
            "reasoning",
            "message",
            "function_call",
            "function_call",
        ]
        assert json.loads(final.output[2].arguments) == {"city": "पुणे"}
        # What was answered can be sent back as it is.
        result = {"type": "function_call_output", "call_id": "call_a", "output": "sunny"}
        sdk.responses.create(model=MODEL, input=[*final.output, result])
        assert client.responder.calls[-1].messages[-1]["role"] == "tool"
