"""The endpoint's description in OpenAPI, made of the wire types themselves.

Source: OpenAPI Specification 3.1.0.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import msgspec

import llmedge
from llmedge.serve import answer_schema, schema

_REF = "#/components/schemas/{name}"


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path.

    Attributes:
        method: In small letters.
        path: With parameters in braces.
        summary: One line.
        request: Type of the body, where there is one.
        response: Type of the answer; `None` for text.
        streams: Whether it can answer with server-sent events.
        errors: Statuses of errors that it can answer with.
        is_open: Whether it asks for no API key.
    """

    method: str
    path: str
    summary: str
    request: type[msgspec.Struct] | None = None
    response: type[msgspec.Struct] | None = None
    streams: bool = False
    errors: tuple[int, ...] = (400, 401, 403)
    is_open: bool = False


_GENERATION_ERRORS = (400, 401, 403, 404, 408, 413, 429, 500, 503, 504)

OPERATIONS = (
    Operation(
        "post",
        "/v1/chat/completions",
        "Answer a chat.",
        schema.ChatRequest,
        answer_schema.ChatCompletion,
        streams=True,
        errors=_GENERATION_ERRORS,
    ),
    Operation(
        "post",
        "/v1/completions",
        "Continue a text.",
        schema.CompletionRequest,
        answer_schema.TextCompletion,
        streams=True,
        errors=_GENERATION_ERRORS,
    ),
    Operation("get", "/v1/models", "List the models.", response=answer_schema.ModelList),
    Operation(
        "get",
        "/v1/models/{id}",
        "Describe a model.",
        response=answer_schema.ModelCard,
        errors=(400, 401, 403, 404),
    ),
    Operation(
        "get",
        "/health",
        "Tell whether requests work.",
        response=answer_schema.Health,
        errors=(400, 403),
        is_open=True,
    ),
    Operation(
        "get",
        "/ready",
        "Tell whether to send requests now.",
        response=answer_schema.Health,
        errors=(400, 403),
        is_open=True,
    ),
    Operation("get", "/metrics", "Measurements for Prometheus."),
)


@functools.cache
def describe() -> dict[str, Any]:
    """Return the description of all operations."""
    types: list[Any] = [schema.ErrorResponse]
    for operation in OPERATIONS:
        types += [kind for kind in (operation.request, operation.response) if kind is not None]
    types += [answer_schema.ChatChunk]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    refs = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, refs)
    return {
        "openapi": "3.1.0",
        "info": {"title": "llmedge", "version": llmedge.__version__},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        # The empty one: a server without keys asks for none.
        "security": [{}, {"bearer": []}, {"key": []}],
    }


def _operation(operation: Operation, refs: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": operation.summary,
        "responses": {
            "200": {"description": "The answer.", "content": _answer(operation, refs)},
            **{str(status): _error(status, refs) for status in operation.errors},
        },
    }
    if operation.is_open:
        described["security"] = []
        body = {"application/json": {"schema": refs[answer_schema.Health]}}
        described["responses"]["503"] = {"description": "They do not.", "content": body}
    if operation.request is not None:
        body = {"application/json": {"schema": refs[operation.request]}}
        described["requestBody"] = {"required": True, "content": body}
    if "{id}" in operation.path:
        described["parameters"] = [
            {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
        ]
    return described


def _answer(operation: Operation, refs: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    if operation.response is None:
        return {"text/plain": {"schema": {"type": "string"}}}
    content: dict[str, Any] = {"application/json": {"schema": refs[operation.response]}}
    if operation.streams:
        event = {"type": "object", "properties": {"data": {"type": "string"}}}
        content["text/event-stream"] = {"schema": event}
    return content


def _error(status: int, refs: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    body = {"application/json": {"schema": refs[schema.ErrorResponse]}}
    return {"description": f"An error ({status}).", "content": body}
