"""A responder over a fake engine, and a real uvicorn on a thread that serves a dialect's routes."""

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route

from llmedge.core.errors import LlmedgeError, NotFoundError
from llmedge.engine.engine import Embedding, EngineState, EngineStats, ModelInfo, Score
from llmedge.engine.generation import (
    ChatPrompt,
    Delta,
    Event,
    Finished,
    Generation,
    GenerationReport,
    Started,
    TokenChance,
    TokenChances,
)
from llmedge.serve.answer import (
    CallArguments,
    CallEnded,
    CallStarted,
    ChatCall,
    ChatPart,
    Content,
    Ended,
    Reasoning,
    ServedModel,
)
from llmedge.serve.errors import on_bug, on_client_left
from llmedge.serve.stream import ClientLeft

MODEL = "fake:Q4_0"
REPORT = GenerationReport(
    n_prompt=7,
    n_cached=3,
    n_generated=5,
    queue_s=0.0,
    prompt_s=0.25,
    generation_s=0.5,
    finish_reason="stop",
)
CHANCES = TokenChances(TokenChance(72, b"He", -0.5), [TokenChance(72, b"He", -0.5)])
HELLO = [Content("He", (CHANCES,)), Content("llo")]
THOUGHT = [Reasoning("hm"), Reasoning("m"), *HELLO]
CALLS = [
    Content("Let me see."),
    CallStarted(0, "call_a", "weather"),
    CallArguments(0, '{"city": '),
    CallArguments(0, '"पुणे"}'),
    CallEnded(0),
    CallStarted(1, "call_b", "time"),
    CallEnded(1),
]
CUT_OFF = [CallStarted(0, "call_a", "weather"), CallArguments(0, '{"city": "Pu')]


def ended(reason="stop", stop_text=None, energy_j=None) -> Ended:
    report = msgspec.structs.replace(REPORT, stop_text=stop_text, energy_j=energy_j)
    return Ended(report, reason)


class FakeEngine:
    """Bytes are tokens; an embedding counts them, a score is how many words are shared."""

    state: EngineState = "ready"
    n_restarts = 0

    def __init__(self, **info: object) -> None:
        facts = {
            "created": 1_700_000_000,
            "architecture": "llama",
            "quant": "Q4_0",
            "n_ctx": 4096,
            "n_ctx_train": 8192,
            "n_vocab": 256,
            "n_embd": 4,
            "n_params": 134_515_008,
            "size_bytes": 1000,
            "chat_template": "{{ tools }}",
            "can_embed": True,
            "can_rerank": True,
        }
        self.info = ModelInfo(**{"id": MODEL, **facts, **info})
        self.requests: list[Generation] = []

    async def generate(self, request: Generation) -> AsyncIterator[Event]:
        self.requests.append(request)
        yield Started(7)
        yield Delta("Hel")
        yield Delta("lo")
        yield Finished(REPORT)

    async def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        special = [1] if add_special else []
        return special + list(text.encode() if parse_special else text.replace("<", "?").encode())

    async def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        return [bytes([token]) for token in tokens]

    async def render(self, prompt: ChatPrompt) -> str:
        tools = json.dumps(prompt.tools) if prompt.tools else ""
        return tools + "".join(
            f"{message['role']}: {message.get('reasoning_content', '')}{message['content']}\n"
            for message in prompt.messages
        )

    async def embed(self, texts: Sequence[str | Sequence[int]]) -> list[Embedding]:
        return [Embedding([3.0, 4.0, float(len(text)), 0.0], len(text)) for text in texts]

    async def rerank(self, query: str, documents: Sequence[str]) -> list[Score]:
        words = set(query.split())
        return [Score(float(len(words & set(text.split()))), len(text)) for text in documents]

    async def stats(self) -> EngineStats:
        return EngineStats()

    def limit(self, n_slots: int, *, forgets: bool) -> None:
        pass

    def close(self) -> None:
        pass


class FakeResponder:
    """Gives the answer that it is told to, and remembers what it was asked."""

    def __init__(
        self,
        parts: Sequence[ChatPart] = HELLO,
        end: Ended | None = None,
        *,
        error: LlmedgeError | None = None,
        error_after: int = 0,
        forever: bool = False,
        **info: object,
    ) -> None:
        self.engine = FakeEngine(**info)
        self.calls: list[ChatCall] = []
        self.n_closed = 0
        self._parts = list(parts)
        self._end = end or ended()
        self._error = error
        self._error_after = error_after
        self._forever = forever

    async def model(self, name: str | None) -> FakeEngine:
        if name not in (None, MODEL):
            raise NotFoundError(f"the model {name!r} is not served here")
        return self.engine

    def models(self) -> list[ServedModel]:
        other = ModelInfo(id="other", created=1, n_params=7_600_000_000)
        return [ServedModel(self.engine.info, True), ServedModel(other, False)]

    async def prompt(self, engine: object, call: ChatCall) -> ChatPrompt:
        return ChatPrompt(call.messages, call.tools or None, call.template_arguments)

    async def chat(self, engine: object, call: ChatCall) -> AsyncIterator[ChatPart]:
        self.calls.append(call)
        try:
            if self._error is not None and self._error_after == 0:
                raise self._error
            yield Started(7)
            for index, part in enumerate(self._parts):
                if self._error is not None and index == self._error_after:
                    raise self._error
                yield part
            while self._forever:
                await asyncio.sleep(0.01)
                yield Content("x")
            yield self._end
        finally:
            self.n_closed += 1


class Client:
    """Speaks HTTP to the endpoint, right or wrong."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.headers: dict[str, str] = {}

    def request(self, method: str, path: str, body: object = None) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection.request(method, path, data, {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read().decode()
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        connection.close()
        return response.status, text

    def post(self, path: str, body: object):
        status, text = self.request("POST", path, body)
        return status, json.loads(text)

    def get(self, path: str):
        status, text = self.request("GET", path)
        return status, json.loads(text)

    def events(self, path: str, body: dict[str, object]) -> list[dict[str, object]]:
        """Return a stream's events; each one's name is its type."""
        status, text = self.request("POST", path, {**body, "stream": True})
        assert status == 200, text
        assert self.headers["content-type"].startswith("text/event-stream")
        events = []
        for block in text.removesuffix("\n\n").split("\n\n"):
            name, data = block.split("\n")
            events.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {events[-1]['type']}"
        return events

    def lines(self, path: str, body: dict[str, object]) -> list[dict[str, object]]:
        status, text = self.request("POST", path, body)
        assert status == 200, text
        assert self.headers["content-type"] == "application/x-ndjson"
        return [json.loads(line) for line in text.splitlines()]

    def leave_early(self, path: str, body: dict[str, object]) -> None:
        data = json.dumps(body).encode()
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            connection.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(data) + data)
            time.sleep(0.2)


@contextmanager
def serving(routes: list[Route]) -> Iterator[Client]:
    app = Starlette(
        routes=routes, exception_handlers={ClientLeft: on_client_left, Exception: on_bug}
    )
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        wait_until(lambda: server.started)
        try:
            yield Client(listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(10)


def wait_until(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def answering(routes: Callable[..., list[Route]], *args: object, **options: object):
    """Serve a dialect over a fake responder, which the client carries."""
    responder = FakeResponder(*args, **options)
    with serving(routes(responder)) as client:
        client.responder = responder
        yield client
