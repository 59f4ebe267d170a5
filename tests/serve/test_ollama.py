"""Ollama's API over a fake responder: real HTTP, and Ollama's own client where there is one."""

import json

import pytest

from llmedge.core.errors import EngineError
from llmedge.engine.generation import Constraint, TextPrompt
from llmedge.serve.ollama import routes
from tests.serve.dialects import (
    CALLS,
    CUT_OFF,
    MODEL,
    THOUGHT,
    answering,
    ended,
    wait_until,
)

CHAT = "/api/chat"
HI = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
ONCE = {"model": MODEL, "prompt": "Once"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells it",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def asked(client, path: str = CHAT, **body: object):
    status, answer = client.post(path, {**(HI if path == CHAT else ONCE), "stream": False, **body})
    assert status == 200, answer
    return client.responder.calls[-1]


def test_a_chat_is_streamed_as_lines_unless_it_is_asked_otherwise(client):
    *parts, last = client.lines(CHAT, HI)
    assert [part["message"]["content"] for part in parts] == ["He", "llo"]
    assert {part["done"] for part in parts} == {False}
    assert {part["model"] for part in parts} == {MODEL}
    assert (last["done"], last["done_reason"]) == (True, "stop")
    assert last["message"] == {"role": "assistant", "content": ""}
    assert (last["prompt_eval_count"], last["eval_count"]) == (7, 5)
    assert (last["prompt_eval_duration"], last["eval_duration"]) == (250_000_000, 500_000_000)
    assert last["total_duration"] >= last["load_duration"] >= 0
    status, whole = client.post(CHAT, {**HI, "stream": False})
    assert (status, whole["message"]["content"]) == (200, "Hello")
    assert whole["done"] is True


def test_a_text_is_generated_as_a_chat_of_one_question(client):
    *parts, last = client.lines("/api/generate", {**ONCE, "system": "Be kind"})
    assert "".join(part["response"] for part in parts) == "Hello"
    assert (last["response"], last["done_reason"]) == ("", "stop")
    assert client.responder.calls[0].messages == [
        {"role": "system", "content": "Be kind"},
        {"role": "user", "content": "Once"},
    ]


def test_a_raw_prompt_reaches_the_engine_as_it_is(client):
    options = {"num_predict": 3, "stop": ["."]}
    body = {**ONCE, "raw": True, "options": options, "format": "json"}
    *parts, last = client.lines("/api/generate", body)
    assert [part["response"] for part in parts] == ["Hel", "lo"]
    assert last["eval_count"] == 5
    (generation,) = client.responder.engine.requests
    assert generation.prompt == TextPrompt("Once")
    assert (generation.max_tokens, generation.stop) == (3, (".",))
    assert generation.constraint == Constraint("json_object")
    assert client.responder.calls == []


def test_thoughts_and_calls_have_fields_of_their_own():
    with answering(routes, [*THOUGHT, *CALLS[1:]], ended("tool_calls")) as client:
        lines = client.lines(CHAT, {**HI, "tools": [WEATHER], "think": True})
        _, whole = client.post(CHAT, {**HI, "tools": [WEATHER], "stream": False})
    calls = [
        {"id": "call_a", "function": {"index": 0, "name": "weather", "arguments": {"city": "पुणे"}}},
        {"id": "call_b", "function": {"index": 1, "name": "time", "arguments": {}}},
    ]
    assert whole["message"] == {
        "role": "assistant",
        "content": "Hello",
        "thinking": "hmm",
        "tool_calls": calls,
    }
    messages = [line["message"] for line in lines]
    assert "".join(message.get("thinking", "") for message in messages) == "hmm"
    assert [call for message in messages for call in message.get("tool_calls", [])] == calls
    assert lines[-1]["done_reason"] == "stop"


def test_a_call_that_was_cut_off_is_not_a_call():
    with answering(routes, CUT_OFF, ended("length")) as client:
        lines = client.lines(CHAT, HI)
        _, whole = client.post(CHAT, {**HI, "stream": False})
    assert whole["message"] == {"role": "assistant", "content": '{"city": "Pu'}
    assert "".join(line["message"]["content"] for line in lines) == '{"city": "Pu'
    assert lines[-1]["done_reason"] == whole["done_reason"] == "length"


def test_messages_keep_their_calls_thoughts_and_results_together(client):
    call = {"function": {"name": "weather", "arguments": {"city": "पुणे"}}}
    other = {"function": {"name": "time", "arguments": {}}}
    messages = [
        *HI["messages"],
        {"role": "assistant", "thinking": "hmm", "tool_calls": [call, other]},
        {"role": "tool", "tool_name": "time", "content": "noon"},
        {"role": "tool", "content": "sunny"},
    ]
    turned = asked(client, messages=messages).messages
    assert turned[1]["reasoning_content"] == "hmm"
    first, second = turned[1]["tool_calls"]
    assert json.loads(first["function"]["arguments"]) == {"city": "पुणे"}
    assert turned[2] == {"role": "tool", "content": "noon", "tool_call_id": second["id"]}
    assert turned[3] == {"role": "tool", "content": "sunny", "tool_call_id": first["id"]}


def test_every_option_reaches_the_model(client):
    options = {
        "num_predict": 9,
        "num_ctx": 2048,
        "temperature": 0.5,
        "top_k": 7,
        "top_p": 0.25,
        "min_p": 0.125,
        "seed": 0,
        "repeat_penalty": 1.5,
        "stop": "END",
    }
    call = asked(client, options=options, think="low", format={"type": "object"})
    sampling = call.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.5, 7, 0.25)
    assert (sampling.min_p, sampling.seed, sampling.repeat_penalty) == (0.125, 0, 1.5)
    assert (call.max_tokens, call.stop) == (9, ("END",))
    assert call.template_arguments["reasoning_effort"] == "low"
    assert call.constraint == Constraint("json_schema", '{"type":"object"}')
    endless = asked(client, options={"num_predict": -1, "seed": -1}, think=False)
    assert (endless.max_tokens, endless.sampling.seed) == (None, None)
    assert endless.template_arguments["enable_thinking"] is False
    assert endless.reasoning_budget == 0


def test_log_probabilities_come_with_the_text(client):
    first, second, _ = client.lines(CHAT, {**HI, "logprobs": True, "top_logprobs": 1})
    assert first["logprobs"][0]["token"] == "He"
    assert first["logprobs"][0]["top_logprobs"][0]["logprob"] == -0.5
    assert "logprobs" not in second
    assert client.responder.calls[0].n_logprobs == 1


def test_what_is_ignored_is_named_in_a_header(client):
    asked(client, keep_alive="5m", options={"num_gpu": 1, "mirostat": 2})
    ignored = "keep_alive, options.mirostat, options.num_gpu"
    assert client.headers["x-llmedge-ignored"] == ignored


def test_a_request_without_a_question_only_loads(client):
    for path, body in ((CHAT, {"model": MODEL}), ("/api/generate", {"model": MODEL})):
        status, answer = client.post(path, body)
        assert (status, answer["done"], answer["done_reason"]) == (200, True, "load")
    assert client.responder.calls == []


@pytest.mark.parametrize(
    ("path", "body", "word"),
    [
        (CHAT, {"messages": HI["messages"]}, "model"),
        (CHAT, {**HI, "messages": [{"role": "robot", "content": "x"}]}, "robot"),
        (CHAT, {**HI, "messages": [{"role": "user", "images": ["aGk="]}]}, "images"),
        (CHAT, {**HI, "format": "xml"}, "xml"),
        (CHAT, {**HI, "think": "heroic"}, "heroic"),
        (CHAT, {**HI, "options": {"num_ctx": 100_000}}, "num_ctx is 100000"),
        (CHAT, {**HI, "options": {"num_predict": 0}}, "num_predict"),
        (CHAT, {**HI, "options": {"temperature": "hot"}}, "options"),
        (CHAT, {**HI, "options": {"top_p": 2}}, "top_p"),
        (CHAT, {**HI, "tools": [{"type": "function"}]}, "function"),
        (CHAT, {**HI, "logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ("/api/generate", {**ONCE, "template": "{{ .Prompt }}"}, "template"),
        ("/api/generate", {**ONCE, "suffix": "end"}, "suffix"),
        ("/api/generate", {**ONCE, "context": [1]}, "context"),
        ("/api/generate", {**ONCE, "images": ["aGk="]}, "images"),
        ("/api/generate", {**ONCE, "raw": True, "system": "x"}, "system"),
        ("/api/embed", {"model": MODEL, "input": []}, "0 items"),
        ("/api/embed", {"model": MODEL, "input": "x", "dimensions": 5}, "dimensions"),
        ("/api/pull", {"model": "llama3"}, "/api/pull"),
        ("/api/create", {"model": "x"}, "/api/create"),
        ("/api/push", {"model": "x"}, "/api/push"),
        ("/api/copy", {"source": "x", "destination": "y"}, "/api/copy"),
    ],
)
def test_a_wrong_request_is_a_400_in_ollamas_form(client, path: str, body: object, word: str):
    status, answer = client.post(path, body)
    assert status == 400
    assert list(answer) == ["error"]
    assert word in answer["error"]


def test_a_model_is_not_deleted_over_http(client):
    status, text = client.request("DELETE", "/api/delete", {"model": MODEL})
    assert status == 400
    assert "not done over HTTP" in json.loads(text)["error"]


@pytest.mark.parametrize("path", [CHAT, "/api/generate", "/api/embed", "/api/show"])
def test_another_model_is_a_404(client, path: str):
    body = {**HI, "prompt": "x", "input": "x", "model": "llama3"}
    status, answer = client.post(path, body)
    assert status == 404
    assert "llama3" in answer["error"]


def test_an_error_inside_a_stream_is_its_last_line():
    with answering(routes, error=EngineError("it broke"), error_after=1) as client:
        assert client.lines(CHAT, HI)[-1] == {"error": "it broke"}
    with answering(routes, error=EngineError("it broke")) as client:
        assert client.post(CHAT, HI) == (503, {"error": "it broke"})


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_its_answer(stream: bool, caplog):
    with answering(routes, forever=True) as client:
        client.leave_early(CHAT, {**HI, "stream": stream})
        wait_until(lambda: client.responder.n_closed == 1)
    assert not caplog.records


def test_models_are_listed_with_their_facts(client):
    _, tags = client.get("/api/tags")
    mine, other = tags["models"]
    assert (mine["name"], mine["model"], mine["size"]) == (MODEL, MODEL, 1000)
    assert mine["modified_at"] == "2023-11-14T22:13:20Z"
    assert len(mine["digest"]) == 64
    assert mine["digest"] != other["digest"]
    assert mine["details"]["parameter_size"] == "134.52M"
    assert other["details"]["parameter_size"] == "7.6B"
    assert mine["details"]["quantization_level"] == "Q4_0"
    (running,) = client.get("/api/ps")[1]["models"]
    assert (running["name"], running["context_length"]) == (MODEL, 4096)
    assert set(client.get("/api/version")[1]) == {"version"}


def test_a_model_is_shown_also_while_it_is_not_loaded(client):
    _, shown = client.post("/api/show", {"model": MODEL})
    assert shown["model_info"]["llama.context_length"] == 8192
    assert shown["capabilities"] == ["completion", "tools", "embedding"]
    assert client.post("/api/show", {"name": "other"})[0] == 200


def test_texts_are_embedded_normalised_and_cut(client):
    body = {"model": MODEL, "input": ["a", "bb"], "dimensions": 2, "truncate": True}
    status, answer = client.post("/api/embed", body)
    assert status == 200
    assert answer["embeddings"] == [[0.6, 0.8], [0.6, 0.8]]
    assert answer["prompt_eval_count"] == 3
    assert client.headers["x-llmedge-ignored"] == "truncate"
    _, older = client.post("/api/embeddings", {"model": MODEL, "prompt": "abc"})
    assert older == {"embedding": [3.0, 4.0, 3.0, 0.0]}


@pytest.fixture
def ollama():
    return pytest.importorskip("ollama")


def test_ollamas_client_understands_all_of_it(ollama):
    with answering(routes, [*THOUGHT, *CALLS[1:]], ended("tool_calls")) as client:
        sdk = ollama.Client(host=client.url)
        answer = sdk.chat(model=MODEL, messages=HI["messages"], tools=[WEATHER])
        assert answer.message.content == "Hello"
        assert answer.message.tool_calls[0].function.arguments == {"city": "पुणे"}
        parts = list(sdk.chat(model=MODEL, messages=HI["messages"], stream=True, think=True))
        assert "".join(part.message.content for part in parts) == "Hello"
        assert "".join(part.message.thinking or "" for part in parts) == "hmm"
        assert parts[-1].eval_count == 5
        # What was answered can be sent back as it is.
        result = {"role": "tool", "tool_name": "weather", "content": "sunny"}
        sdk.chat(model=MODEL, messages=[*HI["messages"], answer.message, result])
        assert client.responder.calls[-1].messages[-1]["tool_call_id"] == "call_0"
        assert sdk.generate(model=MODEL, prompt="Once").response == "Hello"
        assert next(iter(sdk.generate(MODEL, "Once", raw=True, stream=True))).response == "Hel"
        assert len(sdk.embed(model=MODEL, input=["a", "b"]).embeddings) == 2
        assert len(sdk.embeddings(model=MODEL, prompt="a").embedding) == 4
        assert [model.model for model in sdk.list().models] == [MODEL, "other"]
        assert sdk.ps().models[0].context_length == 4096
        assert sdk.show(MODEL).modelinfo["general.architecture"] == "llama"
        for refused in (lambda: sdk.pull("llama3"), lambda: sdk.delete(MODEL)):
            with pytest.raises(ollama.ResponseError, match="not done over HTTP"):
                refused()
        sdk._client.close()
