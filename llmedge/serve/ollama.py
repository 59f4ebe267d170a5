"""Ollama's API: chats, texts, vectors and what is served; nothing that changes what is served."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from starlette.routing import Route

from llmedge.core.errors import NotFoundError, UnsupportedError
from llmedge.serve import ollama_schema as schema
from llmedge.serve.answer import ChatPart, Responder, text_parts
from llmedge.serve.exchange import (
    convert,
    json_response,
    read_request,
    shaped,
    start_all,
    whole,
)
from llmedge.serve.ollama_answer import API_VERSION, OllamaAnswer, model_entry, refuse, show_model
from llmedge.serve.ollama_calls import (
    chat_call,
    raw_generation,
    require_text_only,
    text_call,
)
from llmedge.serve.requests import ignored_header
from llmedge.serve.stream import PartsResponse, unless_client_leaves
from llmedge.serve.vectors import embed_texts, normalised

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.responses import Response

    from llmedge.engine.engine import Engine

RequestT = TypeVar("RequestT", bound=schema.AnswerRequest)

_REFUSED = {
    "/api/pull": ["POST"],
    "/api/push": ["POST"],
    "/api/create": ["POST"],
    "/api/copy": ["POST"],
    "/api/delete": ["DELETE", "POST"],
    "/api/blobs/{digest}": ["POST", "HEAD"],
}


def routes(responder: Responder) -> list[Route]:
    """Return the routes of the dialect.

    Args:
        responder: Finds models and lets them answer.
    """
    handlers = _Handlers(responder)
    posts = {
        "/api/chat": handlers.chat,
        "/api/generate": handlers.generate,
        "/api/embed": handlers.embed,
        "/api/embeddings": handlers.embeddings,
        "/api/show": handlers.show,
    }
    gets = {"/api/tags": handlers.tags, "/api/ps": handlers.ps, "/api/version": handlers.version}
    return [
        *(
            Route(path, shaped(handler, refuse), methods=["POST"])
            for path, handler in posts.items()
        ),
        *(Route(path, shaped(handler, refuse)) for path, handler in gets.items()),
        *(
            Route(path, shaped(_refuse_change, refuse), methods=methods)
            for path, methods in _REFUSED.items()
        ),
    ]


class _Handlers:
    def __init__(self, responder: Responder) -> None:
        self._responder = responder

    async def chat(self, request: Request) -> Response:
        began_s = time.monotonic()
        wanted, options, ignored = await _read(request, schema.ChatRequest)
        # Without messages it only wants its model to be loaded.
        call = chat_call(wanted, options) if wanted.messages else None
        engine = await unless_client_leaves(request, self._responder.model(wanted.model))
        answer = OllamaAnswer(engine.info.id, began_s, is_chat=True)
        if call is None:
            return json_response(answer.loaded(), headers=ignored_header(ignored))
        require_context(options, engine)
        parts = self._responder.chat(engine, call)
        return await _answer(request, wanted, answer, parts, ignored)

    async def generate(self, request: Request) -> Response:
        began_s = time.monotonic()
        wanted, options, ignored = await _read(request, schema.GenerateRequest)
        require_text_only(wanted)
        call = text_call(wanted, options)
        engine = await unless_client_leaves(request, self._responder.model(wanted.model))
        answer = OllamaAnswer(engine.info.id, began_s, is_chat=False)
        if not wanted.prompt:
            return json_response(answer.loaded(), headers=ignored_header(ignored))
        require_context(options, engine)
        if wanted.raw:
            parts = text_parts(engine, raw_generation(wanted.prompt, call))
        else:
            parts = self._responder.chat(engine, call)
        return await _answer(request, wanted, answer, parts, ignored)

    async def embed(self, request: Request) -> Response:
        began_s = time.monotonic()
        wanted, ignored = await read_request(request, schema.EmbedRequest)
        engine = await unless_client_leaves(request, self._responder.model(wanted.model))
        loaded_s = time.monotonic()
        texts = [wanted.input] if isinstance(wanted.input, str) else wanted.input
        work = embed_texts(engine, texts, dimensions=wanted.dimensions)
        vectors = await unless_client_leaves(request, work)
        payload = schema.EmbedAnswer(
            model=engine.info.id,
            embeddings=[normalised(vector.values, wanted.dimensions) for vector in vectors],
            total_duration=int(1e9 * (time.monotonic() - began_s)),
            load_duration=int(1e9 * (loaded_s - began_s)),
            prompt_eval_count=sum(vector.n_tokens for vector in vectors),
        )
        return json_response(payload, headers=ignored_header(ignored))

    async def embeddings(self, request: Request) -> Response:
        wanted, ignored = await read_request(request, schema.EmbeddingsRequest)
        engine = await unless_client_leaves(request, self._responder.model(wanted.model))
        work = embed_texts(engine, [wanted.prompt])
        (vector,) = await unless_client_leaves(request, work)
        answer = schema.EmbeddingsAnswer(list(vector.values))
        return json_response(answer, headers=ignored_header(ignored))

    async def show(self, request: Request) -> Response:
        wanted, ignored = await read_request(request, schema.ShowRequest)
        name = wanted.model or wanted.name or ""
        for model in self._responder.models():
            if model.info.id == name:
                return json_response(show_model(model.info), headers=ignored_header(ignored))
        raise NotFoundError(f"the model {name[:80]!r} is not served here")

    async def tags(self, request: Request) -> Response:
        del request
        models = [model_entry(model.info) for model in self._responder.models()]
        return json_response(schema.ModelListing(models))

    async def ps(self, request: Request) -> Response:
        del request
        models = [
            model_entry(model.info, is_running=True)
            for model in self._responder.models()
            if model.is_loaded
        ]
        return json_response(schema.ModelListing(models))

    async def version(self, request: Request) -> Response:
        del request
        return json_response(schema.Version(API_VERSION))


def require_context(options: schema.Options, engine: Engine) -> None:
    """Refuse a context that is larger than the one that is served.

    Raises:
        UnsupportedError: It is.
    """
    n_ctx = engine.info.n_ctx
    if options.num_ctx is not None and options.num_ctx > n_ctx:
        raise UnsupportedError(
            f"options.num_ctx is {options.num_ctx}, but the context served here holds {n_ctx}",
            "start the server with a larger --ctx",
        )


async def _read(
    request: Request, kind: type[RequestT]
) -> tuple[RequestT, schema.Options, list[str]]:
    wanted, ignored = await read_request(request, kind)
    given: dict[str, Any] = wanted.options or {}
    options = convert(given, schema.Options, "options")
    known = {info.encode_name for info in msgspec.structs.fields(schema.Options)}
    return wanted, options, ignored + sorted(f"options.{name}" for name in given.keys() - known)


async def _answer(
    request: Request,
    wanted: schema.AnswerRequest,
    answer: OllamaAnswer,
    parts: AsyncIterator[ChatPart],
    ignored: list[str],
) -> Response:
    headers = ignored_header(ignored)
    if wanted.stream is False:
        return json_response(answer.whole(await whole(request, parts)), headers=headers)
    await start_all(request, [parts])
    return PartsResponse(answer.lines(parts), headers, "application/x-ndjson")


async def _refuse_change(request: Request) -> Response:
    raise UnsupportedError(
        f"{request.url.path[:80]} is not done over HTTP: what is served is chosen where the server"
        " is started",
        "llmedge serve MODEL",
    )
