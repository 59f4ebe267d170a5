"""What each route does: decode, generate, answer."""

from __future__ import annotations

import re
import secrets
import time
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
from starlette.responses import Response

from llmedge.core.errors import LlmedgeError, UsageError
from llmedge.serve import schema
from llmedge.serve.engine import Delta, Engine, Event, Finished, Generation, Started
from llmedge.serve.errors import stream_error
from llmedge.serve.requests import (
    chat_generation,
    decode_request,
    require_model,
    text_generation,
)
from llmedge.serve.stream import DONE, EventStream, encode_event, unless_client_leaves

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from llmedge.runtime.generation import GenerationReport

_MAX_BODY_BYTES = 4 << 20
_SAFE_NAME = re.compile(r"[\w.\[\]-]{1,64}", re.ASCII)

Chunk: TypeAlias = "schema.ChatChunk | schema.TextCompletion"


class Handlers:
    """The routes' work over one engine.

    Args:
        engine: Runs the model.
        fingerprint: Names the software, for `system_fingerprint`.
    """

    def __init__(self, engine: Engine, fingerprint: str) -> None:
        self._engine = engine
        self._fingerprint = fingerprint

    async def health(self, request: Request) -> Response:
        """`GET /health`."""
        del request
        healthy = self._engine.is_healthy
        body = {"status": "ok" if healthy else "error"}
        return _json(body, status=200 if healthy else 503)

    async def models(self, request: Request) -> Response:
        """`GET /v1/models`."""
        del request
        return _json(schema.ModelList([self._card()]))

    async def model(self, request: Request) -> Response:
        """`GET /v1/models/{id}`."""
        require_model(request.path_params["id"], self._engine.info.id)
        return _json(self._card())

    async def chat_completions(self, request: Request) -> Response:
        """`POST /v1/chat/completions`."""
        body, ignored = decode_request(await _read_body(request), schema.ChatRequest)
        require_model(body.model, self._engine.info.id)
        answer = _ChatAnswer(self._engine.info.id, self._fingerprint)
        return await self._answer(request, body, chat_generation(body), answer, ignored)

    async def completions(self, request: Request) -> Response:
        """`POST /v1/completions`."""
        body, ignored = decode_request(await _read_body(request), schema.CompletionRequest)
        require_model(body.model, self._engine.info.id)
        answer = _TextAnswer(self._engine.info.id, self._fingerprint)
        return await self._answer(request, body, text_generation(body), answer, ignored)

    async def _answer(
        self,
        request: Request,
        body: schema.SamplingFields,
        generation: Generation,
        answer: _Answer,
        ignored: list[str],
    ) -> Response:
        headers = _ignored_header(ignored)
        events = self._engine.generate(generation)
        if not body.stream:
            text, report = await unless_client_leaves(request, _collect(events))
            return _json(answer.whole(text, report), headers=headers)
        # A request that cannot be answered gets its status before the stream begins.
        await unless_client_leaves(request, _expect_start(events))
        with_usage = bool(body.stream_options and body.stream_options.include_usage)
        return EventStream(_stream(events, answer, with_usage=with_usage), headers)

    def _card(self) -> schema.ModelCard:
        info = self._engine.info
        meta = schema.ModelMeta(
            info.description, info.n_ctx, info.n_ctx_train, info.n_params, info.size_bytes
        )
        return schema.ModelCard(id=info.id, created=info.created, meta=meta)


class _Answer:
    """Builds the objects of one answer; they share an id, a time and a model."""

    _prefix = ""

    def __init__(self, model: str, fingerprint: str) -> None:
        self._common: dict[str, Any] = {
            "id": f"{self._prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }

    def whole(self, text: str, report: GenerationReport) -> msgspec.Struct:
        """Return the answer that is not streamed."""
        raise NotImplementedError

    def first(self) -> Chunk | None:
        """Return the chunk that begins a stream, where there is one."""
        raise NotImplementedError

    def part(self, text: str) -> Chunk:
        """Return a chunk of text."""
        raise NotImplementedError

    def last(self, report: GenerationReport) -> Chunk:
        """Return the chunk that says why the text ended."""
        raise NotImplementedError

    def usage(self, report: GenerationReport) -> Chunk:
        """Return the chunk that counts the tokens: no choices."""
        chunk = self._chunk([])
        chunk.usage = _usage(report)
        return chunk

    def _chunk(self, choices: list[Any]) -> Chunk:
        raise NotImplementedError


class _ChatAnswer(_Answer):
    _prefix = "chatcmpl"

    def whole(self, text: str, report: GenerationReport) -> msgspec.Struct:
        choice = schema.ChatChoice(schema.AnswerMessage(text), _reason(report))
        return schema.ChatCompletion(
            **self._common, choices=[choice], usage=_usage(report), timings=_timings(report)
        )

    def first(self) -> Chunk:
        return self._chunk([schema.ChunkChoice(schema.ChunkDelta(role="assistant", content=""))])

    def part(self, text: str) -> Chunk:
        return self._chunk([schema.ChunkChoice(schema.ChunkDelta(content=text))])

    def last(self, report: GenerationReport) -> Chunk:
        chunk = self._chunk([schema.ChunkChoice(schema.ChunkDelta(), _reason(report))])
        chunk.timings = _timings(report)
        return chunk

    def _chunk(self, choices: list[schema.ChunkChoice]) -> schema.ChatChunk:
        return schema.ChatChunk(**self._common, choices=choices, object="chat.completion.chunk")


class _TextAnswer(_Answer):
    _prefix = "cmpl"

    def whole(self, text: str, report: GenerationReport) -> msgspec.Struct:
        completion = self._chunk([schema.TextChoice(text, _reason(report))])
        completion.usage, completion.timings = _usage(report), _timings(report)
        return completion

    def first(self) -> None:
        return None

    def part(self, text: str) -> Chunk:
        return self._chunk([schema.TextChoice(text)])

    def last(self, report: GenerationReport) -> Chunk:
        chunk = self._chunk([schema.TextChoice("", _reason(report))])
        chunk.timings = _timings(report)
        return chunk

    def _chunk(self, choices: list[schema.TextChoice]) -> schema.TextCompletion:
        return schema.TextCompletion(**self._common, choices=choices, object="text_completion")


def _ignored_header(names: list[str]) -> dict[str, str]:
    # The names are the client's: only what is safe in a header goes there.
    safe = [name for name in names if _SAFE_NAME.fullmatch(name)]
    rest = [f"{len(names) - len(safe)} more"] if len(safe) < len(names) else []
    return {"X-Llmedge-Ignored": ", ".join(safe[:32] + rest)} if names else {}


async def _read_body(request: Request) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise UsageError(f"the content type is {kind!r}, not application/json")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > _MAX_BODY_BYTES:
            raise UsageError(f"the request has more than {_MAX_BODY_BYTES} bytes")
    return bytes(body)


async def _collect(events: AsyncIterator[Event]) -> tuple[str, GenerationReport]:
    parts: list[str] = []
    async for event in events:
        if isinstance(event, Delta):
            parts.append(event.text)
        elif isinstance(event, Finished):
            return "".join(parts), event.report
    raise RuntimeError("the engine ended without a report")


async def _expect_start(events: AsyncIterator[Event]) -> None:
    if not isinstance(await anext(events), Started):
        raise RuntimeError("the engine did not start")


async def _stream(
    events: AsyncIterator[Event], answer: _Answer, *, with_usage: bool
) -> AsyncIterator[bytes]:
    try:
        if (first := answer.first()) is not None:
            yield encode_event(first)
        async for event in events:
            if isinstance(event, Delta):
                yield encode_event(answer.part(event.text))
            elif isinstance(event, Finished):
                yield encode_event(answer.last(event.report))
                if with_usage:
                    yield encode_event(answer.usage(event.report))
        yield DONE
    except LlmedgeError as error:
        # The status was sent long ago: the error is the stream's last event, and no [DONE].
        yield encode_event(stream_error(error))


def _reason(report: GenerationReport) -> schema.FinishReason:
    return "length" if report.finish_reason == "length" else "stop"


def _usage(report: GenerationReport) -> schema.Usage:
    return schema.Usage(
        report.n_prompt,
        report.n_generated,
        report.n_prompt + report.n_generated,
        schema.PromptDetails(report.n_cached),
    )


def _timings(report: GenerationReport) -> schema.Timings:
    return schema.Timings(
        prompt_n=report.n_prompt - report.n_cached,
        prompt_ms=1000 * report.prompt_s,
        prompt_per_second=report.pp_tokens_per_s,
        predicted_n=report.n_generated,
        predicted_ms=1000 * report.generation_s,
        predicted_per_second=report.tg_tokens_per_s,
    )


def _json(payload: object, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(payload), status, headers, media_type="application/json")
