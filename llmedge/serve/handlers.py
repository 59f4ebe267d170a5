"""Chat and text completions as OpenAI's API has them: decode, generate, answer."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import msgspec
from starlette.responses import Response
from starlette.routing import Route

from llmedge.serve import schema
from llmedge.serve.answer import ChatPart, collect, text_parts
from llmedge.serve.answer_schema import Verbose
from llmedge.serve.call_fields import is_effort_ignored
from llmedge.serve.chat_answer import ChatAnswer
from llmedge.serve.exchange import start_all, told
from llmedge.serve.native_answer import generation_settings
from llmedge.serve.native_schema import ChatTokens
from llmedge.serve.prompt_tokens import count_tokens
from llmedge.serve.requests import (
    chat_calls,
    check_tokens,
    decode_request,
    ignored_header,
    text_generations,
)
from llmedge.serve.stream import (
    DONE,
    KEEP_ALIVE_S,
    close_all,
    encode_event,
    event_stream,
    gather,
    merge,
    unless_client_leaves,
)
from llmedge.serve.text_answer import TextAnswer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from starlette.requests import Request

    from llmedge.serve.answer import Responder


def routes(
    responder: Responder, fingerprint: str, *, keep_alive_s: float = KEEP_ALIVE_S
) -> list[Route]:
    """Return the routes of both kinds of completions.

    Args:
        responder: Answers.
        fingerprint: Names the software, for `system_fingerprint`.
        keep_alive_s: Silence in a stream after which the client is told that it is not over.
    """
    handlers = Completions(responder, fingerprint, keep_alive_s)
    return [
        Route(f"{prefix}/{name}", handler, methods=["POST"])
        for prefix in ("/v1", "")
        for name, handler in (
            ("chat/completions", handlers.chat),
            ("completions", handlers.text),
            ("chat/completions/input_tokens", handlers.count),
        )
    ]


class Completions:
    """The handlers of both kinds of completions; see `routes`."""

    def __init__(self, responder: Responder, fingerprint: str, keep_alive_s: float) -> None:
        self._responder = responder
        self._fingerprint = fingerprint
        self._keep_alive_s = keep_alive_s

    async def chat(self, request: Request) -> Response:
        """`POST /v1/chat/completions`."""
        body, ignored = decode_request(await request.body(), schema.ChatRequest)
        calls = chat_calls(body)
        engine = await unless_client_leaves(request, self._responder.model(body.model))
        if is_effort_ignored(engine.info.chat_template, body.reasoning_effort):
            ignored.append("reasoning_effort")
        sources = [self._responder.chat(engine, call) for call in calls]
        answer = ChatAnswer(engine.info.id, self._fingerprint, len(sources))
        if body.verbose and not body.stream:
            text = await engine.render(await self._responder.prompt(engine, calls[0]))
            answer.verbose = Verbose(text, generation_settings(calls[0].sampling))
        return await self._answer(request, body, sources, answer, ignored)

    async def count(self, request: Request) -> Response:
        """`POST /v1/chat/completions/input_tokens`."""
        body, ignored = decode_request(await request.body(), schema.ChatRequest)
        call = chat_calls(body)[0]
        engine = await unless_client_leaves(request, self._responder.model(body.model))
        n_tokens = await count_tokens(self._responder, engine, call)
        return Response(
            msgspec.json.encode(ChatTokens(n_tokens)),
            headers=ignored_header(ignored),
            media_type="application/json",
        )

    async def text(self, request: Request) -> Response:
        """`POST /v1/completions`."""
        body, ignored = decode_request(await request.body(), schema.CompletionRequest)
        generations = text_generations(body)
        engine = await unless_client_leaves(request, self._responder.model(body.model))
        for generation in generations:
            check_tokens(generation, engine.info)
        sources = [text_parts(engine, generation) for generation in generations]
        n = 1 if body.n is None else body.n
        answer = TextAnswer(engine.info.id, self._fingerprint, len(sources), n_per_prompt=n)
        return await self._answer(request, body, sources, answer, ignored)

    async def _answer(
        self,
        request: Request,
        body: schema.SamplingFields,
        sources: Sequence[AsyncIterator[ChatPart]],
        answer: ChatAnswer | TextAnswer,
        ignored: list[str],
    ) -> Response:
        headers = ignored_header(ignored)
        if not body.stream:
            try:
                answers = await unless_client_leaves(request, gather([collect(s) for s in sources]))
            finally:
                await close_all(sources)
            return Response(
                msgspec.json.encode(answer.whole(answers)),
                headers=headers,
                media_type="application/json",
            )
        await start_all(request, sources)
        with_usage = bool(body.stream_options and body.stream_options.include_usage)
        events = _stream(sources, answer, with_usage=with_usage)
        return event_stream(told(events), headers, ping_s=self._keep_alive_s)


async def _stream(
    sources: Sequence[AsyncIterator[ChatPart]],
    answer: ChatAnswer | TextAnswer,
    *,
    with_usage: bool,
) -> AsyncIterator[bytes]:
    for chunk in answer.first():
        yield encode_event(chunk)
    async with contextlib.aclosing(merge(sources)) as parts:
        async for index, part in parts:
            if (chunk := answer.chunk(index, part)) is not None:
                yield encode_event(chunk)
    if with_usage:
        yield encode_event(answer.usage())
    yield DONE
