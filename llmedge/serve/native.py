"""llama-server's own routes, and those that OpenAI's, Jina's and Cohere's clients share with it."""

from __future__ import annotations

import base64
import secrets
import struct
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET
from starlette.routing import Route

import llmedge
from llmedge.core.errors import UnsupportedError, UsageError
from llmedge.runtime.sampler import SamplingOptions
from llmedge.serve import native_schema as schema
from llmedge.serve.answer import ChatCall, Responder
from llmedge.serve.call_fields import function_tools, refuse_media, require_messages, require_small
from llmedge.serve.errors import error_response
from llmedge.serve.exchange import json_response, read_request, shaped
from llmedge.serve.native_answer import generation_settings
from llmedge.serve.requests import ignored_header
from llmedge.serve.stream import unless_client_leaves
from llmedge.serve.vectors import embed_texts, normalised, require_texts, require_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from llmedge.engine.engine import Engine, Score


def routes(responder: Responder) -> list[Route]:
    """Return the routes.

    Args:
        responder: Finds models and lets them answer.
    """
    handlers = _Handlers(responder)
    posts = {
        "/tokenize": handlers.tokenize,
        "/detokenize": handlers.detokenize,
        "/apply-template": handlers.apply_template,
        "/v1/embeddings": handlers.embeddings,
        "/embeddings": handlers.embeddings,
        **dict.fromkeys(
            ("/v1/rerank", "/v1/reranking", "/v2/rerank", "/rerank", "/reranking"), handlers.rerank
        ),
    }
    return [
        Route("/props", shaped(handlers.props, error_response)),
        Route("/lora-adapters", shaped(handlers.lora_adapters, error_response)),
        Route("/slots", shaped(handlers.slots, error_response)),
        *(
            Route(path, shaped(handler, error_response), methods=["POST"])
            for path, handler in posts.items()
        ),
    ]


class _Handlers:
    def __init__(self, responder: Responder) -> None:
        self._responder = responder

    async def props(self, request: Request) -> Response:
        engine = await unless_client_leaves(
            request, self._responder.model(request.query_params.get("model"))
        )
        info = engine.info
        props = schema.Props(
            model_alias=info.id,
            total_slots=info.n_slots,
            default_generation_settings=schema.ContextSettings(
                info.n_ctx, generation_settings(SamplingOptions())
            ),
            chat_template=info.chat_template,
            bos_token=info.bos,
            eos_token=info.eos,
            modalities=schema.Modalities(),
            build_info=f"llmedge {llmedge.__version__}",
        )
        return json_response(props)

    async def lora_adapters(self, request: Request) -> Response:
        engine = await unless_client_leaves(
            request, self._responder.model(request.query_params.get("model"))
        )
        # llama-server tells the file's place; here a client learns its name only.
        return json_response(
            [
                schema.LoadedAdapter(number, adapter.name, adapter.name, adapter.scale)
                for number, adapter in enumerate(engine.info.adapters)
            ]
        )

    async def slots(self, request: Request) -> Response:
        engine = await unless_client_leaves(
            request, self._responder.model(request.query_params.get("model"))
        )
        stats = await engine.stats()
        # Slots are counted and not numbered here: the first so many are those that work.
        listed = [
            schema.Slot(i, engine.info.n_ctx, i < stats.n_running)
            for i in range(engine.info.n_slots)
        ]
        return json_response(listed)

    async def tokenize(self, request: Request) -> Response:
        wanted, ignored = await read_request(request, schema.TokenizeRequest)
        engine = await unless_client_leaves(request, self._responder.model(wanted.model))
        tokens = await engine.tokenize(
            wanted.content, add_special=wanted.add_special, parse_special=wanted.parse_special
        )
        listed: list[int | schema.TokenPiece] = list(tokens)
        if wanted.with_pieces:
            pieces = await engine.pieces(tokens)
            listed = [
                schema.TokenPiece(token, _piece(piece))
                for token, piece in zip(tokens, pieces, strict=True)
            ]
        return json_response(schema.TokenizeAnswer(listed), headers=ignored_header(ignored))

    async def detokenize(self, request: Request) -> Response:
        wanted, ignored = await read_request(request, schema.DetokenizeRequest)
        engine = await unless_client_leaves(request, self._responder.model(wanted.model))
        require_tokens(wanted.tokens, engine.info, "tokens")
        text = b"".join(await engine.pieces(wanted.tokens)).decode(errors="replace")
        return json_response(schema.DetokenizeAnswer(text), headers=ignored_header(ignored))

    async def apply_template(self, request: Request) -> Response:
        wanted, ignored = await read_request(request, schema.TemplateRequest)
        call = template_call(wanted)
        engine = await unless_client_leaves(request, self._responder.model(wanted.model))
        text = await engine.render(await self._responder.prompt(engine, call))
        return json_response(schema.TemplateAnswer(text), headers=ignored_header(ignored))

    async def embeddings(self, request: Request) -> Response:
        wanted, ignored = await read_request(request, schema.EmbeddingsRequest)
        texts = texts_of(wanted.input)
        engine = await unless_client_leaves(request, self._responder.model(wanted.model))
        work = embed_texts(engine, texts, dimensions=wanted.dimensions)
        vectors = await unless_client_leaves(request, work)
        data: list[schema.EmbeddingItem] = []
        for index, vector in enumerate(vectors):
            values = normalised(vector.values, wanted.dimensions)
            encoded = _base64(values) if wanted.encoding_format == "base64" else values
            data.append(schema.EmbeddingItem(index, encoded))
        usage = _usage(sum(vector.n_tokens for vector in vectors))
        payload = schema.EmbeddingList(data=data, model=engine.info.id, usage=usage)
        return json_response(payload, headers=ignored_header(ignored))

    async def rerank(self, request: Request) -> Response:
        wanted, ignored = await read_request(request, schema.RerankRequest)
        documents = _documents(wanted)
        engine = await unless_client_leaves(request, self._responder.model(wanted.model))
        if not engine.info.can_rerank:
            raise UnsupportedError(
                f"the model {engine.info.id!r} was not trained to score documents"
            )
        scores = await unless_client_leaves(request, _score(engine, wanted.query, documents))
        best = _best(scores, wanted.top_n)
        headers = ignored_header(ignored)
        if wanted.documents is None:
            return json_response(_plain_results(wanted, documents, scores, best), headers=headers)
        results = [schema.RankedDocument(index, scores[index].value) for index in best]
        if wanted.return_documents:
            for result in results:
                result.document = schema.Document(documents[result.index])
        payload = schema.RerankAnswer(
            id=f"rerank-{secrets.token_hex(12)}",
            model=engine.info.id,
            results=results,
            usage=_usage(sum(score.n_tokens for score in scores)),
        )
        return json_response(payload, headers=headers)


async def _score(engine: Engine, query: str, documents: Sequence[str]) -> list[Score]:
    return await engine.rerank(query, documents)


def template_call(wanted: schema.TemplateRequest) -> ChatCall:
    """Turn a request for a prompt into the chat call that has it.

    Raises:
        UsageError: A value that cannot be meant.
        UnsupportedError: A prompt without the start of the answer.
    """
    if wanted.add_generation_prompt is False:
        raise UnsupportedError("add_generation_prompt = false is not supported")
    require_messages(wanted.messages)
    require_small(wanted.chat_template_kwargs, "chat_template_kwargs")
    functions: list[dict[str, Any]] = []
    for index, tool in enumerate(wanted.tools or []):
        function = tool.get("function")
        if tool.get("type") != "function" or not isinstance(function, dict):
            raise UsageError(f"tools[{index}] is not a function")
        functions.append(function)  # pyright: ignore[reportUnknownArgumentType]
    return ChatCall(
        messages=[_message(message) for message in wanted.messages],
        tools=function_tools(functions),
        template_arguments=wanted.chat_template_kwargs or {},
    )


def _message(message: schema.TemplateMessage) -> dict[str, Any]:
    content = message.content or ""
    if not isinstance(content, str):
        for part in content:
            if part.type != "text":
                raise refuse_media(f"a part of the type {part.type[:80]!r}")
        content = "".join(part.text for part in content)
    turned: dict[str, Any] = {"role": message.role, "content": content}
    for name in ("reasoning_content", "tool_call_id", "name"):
        if (value := getattr(message, name)) is not None:
            turned[name] = value
    if message.tool_calls:
        turned["tool_calls"] = [
            {"type": "function", **msgspec.to_builtins(call)} for call in message.tool_calls
        ]
    return turned


def texts_of(given: str | list[str | int | list[int]]) -> list[str | list[int]]:
    """Return the texts to embed: one, a list of them, or tokens in their place.

    Raises:
        UsageError: Tokens and texts are mixed in one list.
    """
    if isinstance(given, str):
        return [given]
    texts = [item for item in given if not isinstance(item, int)]
    tokens = [item for item in given if isinstance(item, int)]
    if tokens and texts:
        raise UsageError("input mixes tokens with texts")
    return [tokens] if tokens else texts


def _piece(piece: bytes) -> str | list[int]:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)


def _base64(values: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


def _usage(n_tokens: int) -> schema.PromptUsage:
    return schema.PromptUsage(n_tokens, n_tokens)


def _documents(wanted: schema.RerankRequest) -> list[str]:
    given = wanted.texts if wanted.documents is None else wanted.documents
    if given is None:
        raise UsageError("documents is missing")
    require_texts(len(given), "documents")
    if wanted.top_n is not None and wanted.top_n < 1:
        raise UsageError(f"top_n is {wanted.top_n}, not at least 1")
    return [item if isinstance(item, str) else item.text for item in given]


def _best(scores: Sequence[Score], top_n: int | None) -> list[int]:
    ranked = sorted(range(len(scores)), key=lambda index: -scores[index].value)
    return ranked[:top_n]


def _plain_results(
    wanted: schema.RerankRequest, documents: Sequence[str], scores: Sequence[Score], best: list[int]
) -> list[schema.RankedText]:
    """Return results as text-embeddings-inference lists them."""
    return [
        schema.RankedText(
            index, scores[index].value, documents[index] if wanted.return_text else UNSET
        )
        for index in best
    ]
