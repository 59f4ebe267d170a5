"""Both kinds of completions over a scripted responder, without a socket."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest
from starlette.applications import Starlette

from llmedge.core.errors import BusyError, EngineError, LlmedgeError, NotFoundError
from llmedge.engine.generation import ChatPrompt, GenerationReport, Started
from llmedge.serve.answer import ChatCall, ChatPart, Content, Ended, Reasoning, ServedModel
from llmedge.serve.errors import on_client_left, on_llmedge_error
from llmedge.serve.handlers import routes
from llmedge.serve.stream import ClientLeft
from tests.fakes import FakeEngine
from tests.serve.asgi import Reply, ask
from tests.serve.endpoint import CHAT, HELLO, TEXT

END = Ended(GenerationReport(10, 4, 5, 0.0, 0.5, 2.0, "stop"), "stop")


class ScriptedResponder:
    """Answers chats with given parts, raises the errors among them, and waits at a number."""

    def __init__(self, *script: ChatPart | BaseException | float) -> None:
        self.script = script or (Started(10), Content("Yes."), END)
        self.engine = FakeEngine()
        self.calls: list[ChatCall] = []
        self.n_closed = 0

    async def model(self, name: str | None) -> FakeEngine:
        if name not in (None, self.engine.info.id):
            raise NotFoundError(f"no {name}")
        return self.engine

    def models(self) -> Sequence[ServedModel]:
        return [ServedModel(self.engine.info, is_loaded=True)]

    async def prompt(self, engine: FakeEngine, call: ChatCall) -> ChatPrompt:
        return ChatPrompt(call.messages)

    async def chat(self, engine: FakeEngine, call: ChatCall) -> AsyncIterator[ChatPart]:
        assert engine is self.engine
        self.calls.append(call)
        try:
            for step in self.script:
                if isinstance(step, BaseException):
                    raise step
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    yield step
        finally:
            self.n_closed += 1


def application(responder: ScriptedResponder) -> Starlette:
    handlers = {LlmedgeError: on_llmedge_error, ClientLeft: on_client_left}
    return Starlette(
        routes=routes(responder, "llmedge-1", keep_alive_s=0.1), exception_handlers=handlers
    )


def post(responder: ScriptedResponder, path: str = CHAT, **fields: object) -> Reply:
    app = application(responder)
    leaves = fields.pop("leaves", None)
    body = {**(HELLO if path.endswith(CHAT[3:]) else {"prompt": "Once"}), **fields}
    return asyncio.run(ask(app, "POST", path, body, leaves=leaves))


@pytest.mark.parametrize("path", [CHAT, TEXT, "/chat/completions", "/completions"])
def test_both_kinds_are_answered_with_and_without_the_version(path: str):
    reply = post(ScriptedResponder(), path)
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert (reply.json["model"], reply.json["system_fingerprint"]) == ("fake:Q4_0", "llmedge-1")
    assert "x-llmedge-ignored" not in reply.headers


def test_each_choice_is_asked_for_on_its_own():
    responder = ScriptedResponder()
    choices = post(responder, n=3).json["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2]
    assert len(responder.calls) == responder.n_closed == 3


def test_each_prompt_of_a_completion_has_its_choices():
    responder = ScriptedResponder()
    body = post(responder, TEXT, prompt=["a", "bcd"], n=2).json
    assert len(body["choices"]) == len(responder.engine.requests) == 4
    assert body["usage"]["prompt_tokens"] == 4
    assert responder.calls == []


def test_a_stream_is_chunks_usage_where_it_was_asked_for_and_done():
    script = (Started(10), Reasoning("Hm."), Content("Yes."), END)
    plain = post(ScriptedResponder(*script), stream=True)
    assert plain.headers["content-type"].startswith("text/event-stream")
    assert plain.headers["cache-control"] == "no-store"
    *chunks, done = plain.events
    assert done == "[DONE]"
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "Hm."},
        {"content": "Yes."},
        {},
    ]
    *_, usage, done = post(
        ScriptedResponder(*script), stream=True, stream_options={"include_usage": True}
    ).events
    assert (usage["choices"], usage["usage"]["total_tokens"], done) == ([], 15, "[DONE]")


def test_a_silence_in_a_stream_is_filled():
    reply = post(ScriptedResponder(Started(10), 0.35, Content("Yes."), END), stream=True)
    assert 2 <= reply.body.count(b": keep-alive\n\n") <= 4
    assert reply.events[-1] == "[DONE]"


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_that_cannot_be_answered_gets_its_status(stream: bool):
    responder = ScriptedResponder(BusyError("too many", retry_after_s=7))
    reply = post(responder, stream=stream, n=2)
    assert (reply.status, reply.headers["retry-after"]) == (429, "7")
    assert responder.n_closed == len(responder.calls)
    assert post(ScriptedResponder(), stream=stream, model="other").status == 404


def test_an_error_in_a_stream_is_its_last_event_without_done():
    events = post(
        ScriptedResponder(Started(10), Content("Ye"), EngineError("it broke")), stream=True
    ).events
    assert events[-2]["choices"][0]["delta"] == {"content": "Ye"}
    assert events[-1]["error"]["message"] == "it broke"


def test_a_bug_in_a_stream_is_told_without_its_details(caplog: pytest.LogCaptureFixture):
    responder = ScriptedResponder(Started(10), Content("Ye"), KeyError("secret"))
    reply = post(responder, stream=True)
    assert reply.events[-1]["error"]["message"] == "an internal error"
    assert b"secret" not in reply.body
    assert "KeyError" in caplog.text


def test_an_error_in_an_answer_that_is_not_streamed_is_its_status():
    reply = post(ScriptedResponder(Started(10), Content("Ye"), EngineError("it broke")))
    assert (reply.status, reply.json["error"]["message"]) == (503, "it broke")


def test_who_leaves_before_the_answer_ends_it():
    gone = asyncio.Event()
    gone.set()
    for stream in (True, False):
        responder = ScriptedResponder(60.0)
        assert post(responder, stream=stream, leaves=gone).status == 499
        assert responder.n_closed == len(responder.calls)


def test_what_is_ignored_is_named_in_both_ways():
    for stream in (True, False):
        assert post(ScriptedResponder(), stream=stream, mystery=1).headers["x-llmedge-ignored"] == (
            "mystery"
        )


def test_tokens_that_the_model_does_not_have_are_refused_before_it_is_asked():
    responder = ScriptedResponder()
    responder.engine.info = type(responder.engine.info)("fake:Q4_0", n_ctx=64, n_vocab=10)
    reply = post(responder, TEXT, prompt=[1, 2, 10])
    assert (reply.status, responder.engine.requests) == (400, [])


def test_a_choice_that_cannot_be_answered_ends_the_others_before_the_status_is_sent():
    class SecondFails(ScriptedResponder):
        async def chat(self, engine: FakeEngine, call: ChatCall) -> AsyncIterator[ChatPart]:
            if self.calls:
                self.script = (BusyError("too many", retry_after_s=7),)
            async with contextlib.aclosing(super().chat(engine, call)) as parts:
                async for part in parts:
                    yield part

    async def run() -> tuple[int, int]:
        responder = SecondFails()
        app = application(responder)
        reply = await ask(app, "POST", CHAT, {**HELLO, "n": 2, "stream": True})
        return reply.status, responder.n_closed

    assert asyncio.run(run()) == (429, 2)


USER = {"role": "user", "content": "Hello"}


@pytest.mark.parametrize("prefix", ["/v1", ""])
def test_a_chats_prompt_is_counted_without_an_answer(prefix: str):
    responder = ScriptedResponder()
    reply = post(responder, f"{prefix}/chat/completions/input_tokens", messages=[USER])
    assert (reply.status, reply.json) == (200, {"input_tokens": len("<user>Hello")})
    assert responder.calls == []


def test_what_the_model_was_asked_is_told_to_who_wants_it():
    reply = post(ScriptedResponder(), verbose=True, top_k=3)
    assert reply.json["__verbose"]["prompt"] == "<user>Hello"
    assert reply.json["__verbose"]["generation_settings"]["top_k"] == 3
    assert "__verbose" not in post(ScriptedResponder()).json
