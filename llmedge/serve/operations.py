"""What can be asked of the endpoint: methods, wire types and statuses of all routes, as a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

from llmedge.serve import (
    answer_schema,
    anthropic_schema,
    native_schema,
    ollama_schema,
    responses_schema,
    schema,
)

Method: TypeAlias = Literal["get", "post", "delete", "head"]
# What msgspec can describe, or a tuple of alternatives.
WireType: TypeAlias = object

_READ_ERRORS = (400, 401, 403, 500, 503)
_POST_ERRORS = (400, 401, 403, 408, 413, 500, 503)
_MODEL_ERRORS = (400, 401, 403, 404, 408, 413, 429, 500, 503, 504)


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of a path and of the path's aliases.

    Attributes:
        paths: The path and its aliases, with parameters in braces.
        summary: One line.
        request: Type of the body, where there is one.
        method: In small letters.
        response: Type of the answer; `str` for text, `None` where there are only errors.
        events: Type of a server-sent event's data, where the answer can be a stream of them.
        lines: Type of a line, where the answer can be lines of JSON.
        is_ended: Whether the last event's data is `[DONE]`.
        errors: Statuses of errors.
        error: Their type.
        is_open: Whether it asks for no API key.
        query: Names of parameters in the query, texts that may be left out.
        example: A body, but for the model's name.
    """

    paths: tuple[str, ...]
    summary: str
    request: WireType = None
    method: Method = "post"
    response: WireType = None
    events: WireType = None
    lines: WireType = None
    is_ended: bool = False
    errors: tuple[int, ...] = _MODEL_ERRORS
    error: WireType = schema.ErrorResponse
    is_open: bool = False
    query: tuple[str, ...] = ()
    example: dict[str, Any] | None = None


_CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Namaste!"}]}


def _aliased(path: str) -> tuple[str, str]:
    return f"/v1{path}", path


def alternatives(kind: WireType) -> tuple[object, ...]:
    """Return the types of which a value has one."""
    return cast("tuple[object, ...]", kind) if isinstance(kind, tuple) else (kind,)


_OPENAI = (
    Operation(
        _aliased("/chat/completions"),
        "Answer a chat.",
        schema.ChatRequest,
        example={**_CHAT, "max_tokens": 16},
        response=answer_schema.ChatCompletion,
        events=(answer_schema.ChatChunk, schema.ErrorResponse),
        is_ended=True,
    ),
    Operation(
        _aliased("/completions"),
        "Continue a text.",
        schema.CompletionRequest,
        example={"prompt": "Once", "max_tokens": 16},
        response=answer_schema.TextCompletion,
        events=(answer_schema.TextCompletion, schema.ErrorResponse),
        is_ended=True,
    ),
    Operation(
        _aliased("/responses"),
        "Answer a chat; nothing is stored.",
        responses_schema.ResponsesRequest,
        example={"input": "Namaste!", "max_output_tokens": 16},
        response=responses_schema.ResponseObject,
        events=responses_schema.ResponseEvent,
    ),
    Operation(
        _aliased("/responses/input_tokens"),
        "Count the tokens of a chat.",
        responses_schema.ResponsesRequest,
        example={"input": "Namaste!"},
        response=responses_schema.InputTokens,
    ),
    Operation(
        _aliased("/embeddings"),
        "Turn texts into vectors.",
        native_schema.EmbeddingsRequest,
        example={"input": "Namaste!"},
        response=native_schema.EmbeddingList,
    ),
    Operation(
        method="get",
        paths=_aliased("/models"),
        summary="List the models.",
        response=answer_schema.ModelList,
        errors=_READ_ERRORS,
    ),
    Operation(
        method="get",
        paths=_aliased("/models/{id}"),
        summary="Describe a model.",
        response=answer_schema.ModelCard,
        errors=(400, 401, 403, 404, 500, 503),
    ),
)

_ANTHROPIC = (
    Operation(
        ("/v1/messages",),
        "Answer a chat.",
        anthropic_schema.MessagesRequest,
        example={**_CHAT, "max_tokens": 16},
        response=anthropic_schema.AnswerMessage,
        events=anthropic_schema.StreamEvent,
        error=anthropic_schema.ErrorResponse,
    ),
    Operation(
        ("/v1/messages/count_tokens",),
        "Count the tokens of a chat.",
        anthropic_schema.CountRequest,
        example=_CHAT,
        response=anthropic_schema.TokenCount,
        error=anthropic_schema.ErrorResponse,
    ),
)


def _refused(method: Method, path: str) -> Operation:
    return Operation(
        method=method,
        paths=(path,),
        summary="Refused: what is served is chosen where the server is started.",
        errors=_POST_ERRORS if method != "head" else _READ_ERRORS,
        error=ollama_schema.ErrorResponse,
    )


def _listed(path: str, summary: str, response: WireType) -> Operation:
    return Operation(
        method="get",
        paths=(path,),
        summary=summary,
        response=response,
        errors=_READ_ERRORS,
        error=ollama_schema.ErrorResponse,
    )


_OLLAMA = (
    Operation(
        ("/api/chat",),
        "Answer a chat.",
        ollama_schema.ChatRequest,
        example={**_CHAT, "options": {"num_predict": 16}},
        response=ollama_schema.ChatAnswer,
        lines=(ollama_schema.ChatAnswer, ollama_schema.ErrorResponse),
        error=ollama_schema.ErrorResponse,
    ),
    Operation(
        ("/api/generate",),
        "Answer or continue a text.",
        ollama_schema.GenerateRequest,
        example={"prompt": "Once", "options": {"num_predict": 16}},
        response=ollama_schema.TextAnswer,
        lines=(ollama_schema.TextAnswer, ollama_schema.ErrorResponse),
        error=ollama_schema.ErrorResponse,
    ),
    Operation(
        ("/api/embed",),
        "Turn texts into vectors.",
        ollama_schema.EmbedRequest,
        example={"input": "Namaste!"},
        response=ollama_schema.EmbedAnswer,
        error=ollama_schema.ErrorResponse,
    ),
    Operation(
        ("/api/embeddings",),
        "Turn a text into a vector.",
        ollama_schema.EmbeddingsRequest,
        example={"prompt": "Namaste!"},
        response=ollama_schema.EmbeddingsAnswer,
        error=ollama_schema.ErrorResponse,
    ),
    Operation(
        ("/api/show",),
        "Describe a model.",
        ollama_schema.ShowRequest,
        example={},
        response=ollama_schema.ModelFacts,
        error=ollama_schema.ErrorResponse,
    ),
    _listed("/api/tags", "List the models.", ollama_schema.ModelListing),
    _listed("/api/ps", "List the models that are loaded.", ollama_schema.ModelListing),
    _listed("/api/version", "Tell whose API is spoken here.", ollama_schema.Version),
    *(_refused("post", f"/api/{verb}") for verb in ("pull", "push", "create", "copy", "delete")),
    _refused("delete", "/api/delete"),
    _refused("post", "/api/blobs/{digest}"),
    _refused("head", "/api/blobs/{digest}"),
)

_NATIVE = (
    Operation(
        ("/completion",),
        "Continue texts or tokens.",
        native_schema.NativeCompletionRequest,
        example={"prompt": "Once", "n_predict": 16},
        response=(dict[str, Any], list[dict[str, Any]]),
        events=(dict[str, Any], schema.ErrorResponse),
    ),
    Operation(
        _aliased("/chat/completions/input_tokens"),
        "Count the tokens of a chat.",
        schema.ChatRequest,
        example=_CHAT,
        response=native_schema.ChatTokens,
    ),
    Operation(
        ("/v1/rerank", "/v1/reranking", "/v2/rerank", "/rerank", "/reranking"),
        "Order documents by how well they answer.",
        native_schema.RerankRequest,
        example={"query": "dog", "documents": ["a dog", "a cat"]},
        response=(native_schema.RerankAnswer, list[native_schema.RankedText]),
    ),
    Operation(
        ("/tokenize",),
        "Turn a text into tokens.",
        native_schema.TokenizeRequest,
        example={"content": "Namaste!"},
        response=native_schema.TokenizeAnswer,
    ),
    Operation(
        ("/detokenize",),
        "Turn tokens into a text.",
        native_schema.DetokenizeRequest,
        example={"tokens": [1, 2]},
        response=native_schema.DetokenizeAnswer,
    ),
    Operation(
        ("/apply-template",),
        "Show the prompt of a chat.",
        native_schema.TemplateRequest,
        example=_CHAT,
        response=native_schema.TemplateAnswer,
    ),
    Operation(
        method="get",
        paths=("/props",),
        summary="Describe a model and its template.",
        response=native_schema.Props,
        query=("model",),
    ),
    Operation(
        method="get",
        paths=("/slots",),
        summary="Count what runs.",
        response=list[native_schema.Slot],
        query=("model",),
    ),
    Operation(
        method="get",
        paths=("/lora-adapters",),
        summary="List the adapters that requests may choose.",
        response=list[native_schema.LoadedAdapter],
        query=("model",),
    ),
)

_STATUS = (
    Operation(
        method="get",
        paths=("/health", "/v1/health"),
        summary="Tell whether requests work.",
        response=answer_schema.Health,
        errors=(400, 403, 500, 503),
        is_open=True,
    ),
    Operation(
        method="get",
        paths=("/ready",),
        summary="Tell whether to send requests now.",
        response=answer_schema.Health,
        errors=(400, 403, 500, 503),
        is_open=True,
    ),
    Operation(
        method="get",
        paths=("/metrics",),
        summary="Measurements for Prometheus.",
        response=str,
        errors=_READ_ERRORS,
    ),
    Operation(
        method="get",
        paths=("/openapi.json",),
        summary="This description.",
        response=dict[str, Any],
        errors=_READ_ERRORS,
    ),
)

OPERATIONS = (*_OPENAI, *_ANTHROPIC, *_OLLAMA, *_NATIVE, *_STATUS)
