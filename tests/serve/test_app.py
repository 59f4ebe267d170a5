"""The endpoint over a fake engine: real HTTP on a socket, a real uvicorn on a thread."""

import asyncio
import http.client
import json
import socket
import statistics
import threading
import time

import pytest
from starlette.applications import Starlette

from llmedge.core.errors import ContextLengthError, EngineError, UsageError
from llmedge.engine.engine import ModelInfo
from llmedge.serve.app import build_app
from llmedge.serve.guard import GuardOptions
from llmedge.serve.limits import Drain, Limits
from llmedge.serve.metrics import Meters
from llmedge.serve.pool import ModelPool, ModelSource, pool_of
from llmedge.serve.server import ServeOptions, bind
from tests.fakes import FakeEngine
from tests.serve.asgi import ask
from tests.serve.endpoint import CHAT, HELLO, TEXT, Client, serving, wait_until


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def client(engine: FakeEngine):
    with serving(engine) as client:
        yield client


def test_health_tells_the_truth(client: Client, engine: FakeEngine):
    for state, is_healthy in (("ready", True), ("restarting", False), ("failed", False)):
        engine.state = state
        expected = (200, {"status": "ok"}) if is_healthy else (503, {"status": "error"})
        assert client.get("/health") == client.get("/ready") == expected


def test_the_model_is_listed_with_its_facts(client: Client):
    status, body = client.get("/v1/models")
    assert status == 200
    assert body["object"] == "list"
    (card,) = body["data"]
    assert (card["id"], card["object"], card["owned_by"]) == ("fake:Q4_0", "model", "llmedge")
    assert card["meta"]["n_ctx"] == 4096
    assert client.get("/v1/models/fake:Q4_0") == (200, card)
    status, body = client.get("/v1/models/other")
    assert (status, body["error"]["code"]) == (404, "model_not_found")


def test_a_chat_is_answered_in_openais_shape(client: Client, engine: FakeEngine):
    status, body = client.post(CHAT, {**HELLO, "model": "fake:Q4_0"})
    assert status == 200
    assert body["object"] == "chat.completion"
    assert body["id"].startswith("chatcmpl-")
    assert body["model"] == "fake:Q4_0"
    assert body["system_fingerprint"].startswith("llmedge-")
    (choice,) = body["choices"]
    message = {"role": "assistant", "content": "Hello world", "refusal": None}
    assert choice["message"] == message
    assert (choice["index"], choice["finish_reason"]) == (0, "stop")
    assert body["usage"] == {
        "prompt_tokens": 11,
        "completion_tokens": 11,
        "total_tokens": 22,
        "prompt_tokens_details": {"cached_tokens": 1},
    }
    assert body["timings"]["predicted_n"] == 11
    assert len(engine.requests) == 1


def test_a_chat_is_streamed_in_openais_shape(client: Client):
    *chunks, done = client.events(CHAT, HELLO)
    assert done == "[DONE]"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content") or "" for delta in deltas) == "Hello world"
    assert deltas[-1] == {}
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None, None, None, "stop"]
    assert not any("usage" in chunk for chunk in chunks)


def test_usage_comes_only_when_it_is_asked_for_and_without_choices(client: Client):
    events = client.events(CHAT, {**HELLO, "stream_options": {"include_usage": True}})
    assert events[-1] == "[DONE]"
    assert events[-2]["choices"] == []
    assert events[-2]["usage"]["total_tokens"] == 22
    assert not any("usage" in event for event in events[:-2])


def test_a_text_is_completed_in_both_ways(client: Client):
    status, body = client.post("/v1/completions", {"prompt": "Once"})
    assert (status, body["object"]) == (200, "text_completion")
    assert body["choices"][0]["text"] == "Hello world"
    assert body["usage"]["total_tokens"] == 15
    *chunks, done = client.events("/v1/completions", {"prompt": "Once"})
    assert done == "[DONE]"
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "Hello world"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_ignored_fields_are_named_in_a_header(client: Client):
    _, _, headers = client.request("POST", CHAT, {**HELLO, "mystery": 1})
    assert headers["x-llmedge-ignored"] == "mystery"


@pytest.mark.parametrize("name", ["नमस्ते", "a\r\nX-Evil: 1", "", "x" * 10_000, "a\0b"])
def test_names_that_are_unsafe_in_a_header_are_counted(client: Client, name: str):
    status, _, headers = client.request("POST", CHAT, {**HELLO, name: 1, "fine": 1})
    assert status == 200
    assert headers["x-llmedge-ignored"] == "fine, 1 more"
    assert "x-evil" not in headers


def test_another_model_is_a_404_and_runs_nothing(client: Client, engine: FakeEngine):
    status, body = client.post(CHAT, {**HELLO, "model": "gpt-4o"})
    assert (status, body["error"]["code"]) == (404, "model_not_found")
    assert engine.requests == []


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[1]", {"messages": []}, {"prompt": "x"}])
def test_a_wrong_body_is_a_400_in_openais_shape(client: Client, body: object):
    status, answer = client.post(CHAT, body)
    assert status == 400
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert answer["error"]["type"] == "invalid_request_error"


def test_a_page_elsewhere_cannot_post_a_form(client: Client, engine: FakeEngine):
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        status, answer = client.post(CHAT, json.dumps(HELLO).encode(), Content_Type=kind)
        assert status == 400
        assert "content type" in answer["error"]["message"]
    assert engine.requests == []


def test_another_host_name_is_refused(client: Client):
    for host in ("evil.example", "evil.example:80", "", "127.0.0.1.evil.example"):
        status, text, _ = client.request("GET", "/v1/models", Host=host)
        assert status == 400
        assert "is not served here" in json.loads(text)["error"]["message"]
    for host in ("localhost", "localhost:1", "127.0.0.1:99", "[::1]:5"):
        assert client.request("GET", "/v1/models", Host=host)[0] == 200


def test_a_body_that_is_too_large_is_refused(client: Client):
    status, answer = client.post(CHAT, b'{"messages": "' + b"x" * (5 << 20))
    assert status == 413
    assert "more than" in answer["error"]["message"]


def test_unknown_paths_and_methods_are_errors_in_openais_shape(client: Client):
    status, body = client.get("/v1/nothing")
    assert (status, body["error"]["message"]) == (404, "GET /v1/nothing: Not Found")
    status, text, headers = client.request("GET", CHAT)
    assert (status, json.loads(text)["error"]["type"]) == (405, "invalid_request_error")
    assert headers["allow"] == "POST"


def test_a_prompt_that_is_too_long_is_a_400_also_for_a_stream():
    engine = FakeEngine(error=ContextLengthError("the prompt has 9 tokens, the context holds 4"))
    with serving(engine) as client:
        for stream in (False, True):
            status, body = client.post(CHAT, {**HELLO, "stream": stream})
            assert (status, body["error"]["code"]) == (400, "context_length_exceeded")
            assert "9 tokens" in body["error"]["message"]


def test_an_engine_that_fails_is_a_503():
    with serving(FakeEngine(error=EngineError("out of memory"))) as client:
        status, body = client.post(CHAT, HELLO)
        assert (status, body["error"]["type"]) == (503, "server_error")


def test_an_error_inside_a_stream_is_its_last_event_and_there_is_no_done():
    with serving(FakeEngine(error=EngineError("it broke"), error_after=1)) as client:
        events = client.events(CHAT, HELLO)
        assert events[-1]["error"]["message"] == "it broke"
        assert "[DONE]" not in events
        assert events[1]["choices"][0]["delta"]["content"] == "Hello"


def test_a_bug_is_a_500_without_its_details(caplog: pytest.LogCaptureFixture):
    engine = FakeEngine()
    engine.error = KeyError("/secret/path")  # type: ignore[assignment]
    with serving(engine) as client:
        status, body = client.post(CHAT, HELLO)
    assert status == 500
    assert "secret" not in json.dumps(body)
    assert "KeyError" in caplog.text


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("path", "fields"), [(CHAT, HELLO), (TEXT, {"prompt": "a"})])
def test_a_client_that_leaves_cancels_its_generation_and_is_no_bug(
    path: str, fields: dict[str, object], stream: bool, caplog: pytest.LogCaptureFixture
):
    engine = FakeEngine(forever=True)
    with serving(engine) as client:
        body = json.dumps({**fields, "stream": stream}).encode()
        host, port = client.host.split(":")
        with socket.create_connection((host, int(port))) as connection:
            head = (
                f"POST {path} HTTP/1.1\r\nHost: {client.host}\r\nContent-Type: application/json\r\n"
            )
            connection.sendall(
                head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
            )
            if stream:
                assert connection.recv(100)
            else:
                wait_until(lambda: engine.requests)
        wait_until(lambda: engine.n_cancelled == 1)
        assert client.get("/health")[0] == 200
    assert "bug in" not in caplog.text


def test_an_answer_does_not_wait_for_the_client_to_confirm_its_head(client: Client):
    connection = http.client.HTTPConnection(client.host, timeout=20)
    took_s = []
    for _ in range(15):
        start = time.monotonic()
        connection.request("GET", "/health")
        assert connection.getresponse().read()
        took_s.append(time.monotonic() - start)
    connection.close()
    # The confirmation is sent after 40 ms.
    assert statistics.median(took_s) < 0.03


def test_a_port_that_is_taken_is_a_usage_error(client: Client):
    port = int(client.host.split(":")[1])
    with pytest.raises(UsageError, match="cannot be listened on") as caught:
        bind(ServeOptions(port=port))
    assert "--port" in caught.value.hint


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("127.0.0.1", 70000),
        ("256.1.1.1", 0),
        ("no.such.host.invalid", 0),
        ("a..b", 0),
        ("x" * 100, 0),
    ],
)
def test_an_address_that_cannot_be_meant_is_a_usage_error(host: str, port: int):
    with pytest.raises(UsageError):
        bind(ServeOptions(host=host, port=port))


def application(engine: FakeEngine, **options) -> Starlette:
    meters = Meters()
    pool = pool_of(engine, Limits(), Drain(), meters)
    guard = GuardOptions(api_keys=("a-key-1234",))
    return build_app(pool, meters, guard, fingerprint="llmedge-1", **options)


def test_every_dialect_is_behind_the_guard_and_has_an_id(engine: FakeEngine):
    app = application(engine)
    for path in (CHAT, TEXT, "/v1/responses", "/v1/messages", "/api/chat", "/tokenize"):
        reply = asyncio.run(ask(app, "POST", path, HELLO))
        assert reply.status == 401
        assert reply.headers["x-request-id"].startswith("req-")
        known = asyncio.run(ask(app, "POST", path, b"{", authorization="Bearer a-key-1234"))
        assert known.status == 400, path
    assert engine.requests == []


def test_what_the_application_is_told_reaches_the_answers():
    app = application(FakeEngine(["late"], pause_s=0.25), keep_alive_s=0.1)
    key = {"authorization": "Bearer a-key-1234"}
    reply = asyncio.run(ask(app, "POST", CHAT, {**HELLO, "stream": True}, **key))
    assert reply.events[0]["system_fingerprint"] == "llmedge-1"
    assert b": keep-alive\n\n" in reply.body


def test_a_path_with_one_slash_too_many_is_not_redirected(engine: FakeEngine):
    key = {"authorization": "Bearer a-key-1234"}
    reply = asyncio.run(ask(application(engine), "POST", f"{CHAT}/", HELLO, **key))
    assert (reply.status, reply.json["error"]["type"]) == (404, "invalid_request_error")


def test_the_pool_is_swept_while_the_application_lives():
    closed = threading.Event()

    class Watched(FakeEngine):
        def close(self) -> None:
            closed.set()

    info, meters = ModelInfo("a"), Meters()
    pool = ModelPool([ModelSource(info, Watched)], Limits(), Drain(), meters, ttl_s=0.05)
    pool.adopt(Watched(info=info))
    app = build_app(pool, meters, GuardOptions(), fingerprint="llmedge-1")

    async def live() -> None:
        async with app.router.lifespan_context(app):
            assert await asyncio.to_thread(closed.wait, 10)
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1  # this one: nobody sweeps any more

    asyncio.run(live())
    assert pool.engines == {}
