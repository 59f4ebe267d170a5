"""The endpoint's description in OpenAPI, made of the wire types themselves.

Source: OpenAPI Specification 3.2.0; its `itemSchema` describes what streams consist of.
"""

from __future__ import annotations

import functools
import re
from http import HTTPStatus
from typing import Any

import msgspec

import llmedge
from llmedge.serve import answer_schema
from llmedge.serve.operations import OPERATIONS, Operation, WireType, alternatives

_REF = "#/components/schemas/{name}"
# Types of two dialects that share a name are told apart by their modules.
_MODULE_PREFIX = b"llmedge.serve."
_Json = dict[str, Any]


@functools.lru_cache(maxsize=1)
def describe(model: str) -> _Json:
    """Return the description of all operations.

    Args:
        model: Name of a model, for the examples.
    """
    types = _wire_types()
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    refs = dict(zip(types, schemas, strict=True))
    paths: dict[str, _Json] = {}
    for operation in OPERATIONS:
        for path in operation.paths:
            paths.setdefault(path, {})[operation.method] = _operation(operation, path, refs, model)
    document: _Json = {
        "openapi": "3.2.0",
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
    return msgspec.json.decode(msgspec.json.encode(document).replace(_MODULE_PREFIX, b""))


def _wire_types() -> list[WireType]:
    """Return each type once."""
    given = [
        kind
        for op in OPERATIONS
        for kind in (op.request, op.response, op.events, op.lines, op.error)
        if kind is not None
    ]
    types = [kind for item in given for kind in alternatives(item)]
    return list(dict.fromkeys([*types, answer_schema.Health]))


def _schema(kind: WireType, refs: dict[WireType, _Json]) -> _Json:
    schemas = [refs[one] for one in alternatives(kind)]
    return {"anyOf": schemas} if len(schemas) > 1 else schemas[0]


def _operation(operation: Operation, path: str, refs: dict[WireType, _Json], model: str) -> _Json:
    responses = {str(status): _error(operation, status, refs) for status in operation.errors}
    if operation.response is not None:
        answer: _Json = {"description": "The answer.", "content": _answer(operation, refs)}
        if operation.request is not None:
            answer["headers"] = {
                "X-Llmedge-Ignored": {
                    "description": "Fields of the request that are not known.",
                    "schema": {"type": "string"},
                }
            }
        responses = {"200": answer, **responses}
    described: _Json = {"summary": operation.summary, "responses": responses}
    if operation.is_open:
        described["security"] = []
    if operation.request is not None:
        body = {"schema": _schema(operation.request, refs), "examples": _examples(operation, model)}
        described["requestBody"] = {"required": True, "content": {"application/json": body}}
    if parameters := _parameters(operation, path):
        described["parameters"] = parameters
    return described


def _examples(operation: Operation, model: str) -> _Json:
    body = {"model": model, **(operation.example or {})}
    if not (operation.events or operation.lines):
        return {"example": {"value": body}}
    return {
        "whole": {"value": {**body, "stream": False}},
        "streamed": {"value": {**body, "stream": True}},
    }


def _parameters(operation: Operation, path: str) -> list[_Json]:
    text = {"type": "string"}
    return [
        *(
            {"name": name, "in": "path", "required": True, "schema": text}
            for name in re.findall(r"{(\w+)}", path)
        ),
        *({"name": name, "in": "query", "schema": text} for name in operation.query),
    ]


def _answer(operation: Operation, refs: dict[WireType, _Json]) -> _Json:
    if operation.response is str:
        return {"text/plain": {"schema": refs[str]}}
    content: _Json = {"application/json": {"schema": _schema(operation.response, refs)}}
    if operation.events is not None:
        data: _Json = {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": _schema(operation.events, refs),
        }
        if operation.is_ended:
            data = {"anyOf": [{"const": "[DONE]"}, data]}
        event = {"type": "object", "properties": {"data": data}, "required": ["data"]}
        content["text/event-stream"] = {"itemSchema": event}
    if operation.lines is not None:
        content["application/x-ndjson"] = {"itemSchema": _schema(operation.lines, refs)}
    return content


def _error(operation: Operation, status: int, refs: dict[WireType, _Json]) -> _Json:
    is_unavailable = status == HTTPStatus.SERVICE_UNAVAILABLE
    is_verdict = operation.is_open and is_unavailable
    schema = refs[answer_schema.Health if is_verdict else operation.error]
    content: _Json = {"application/json": {"schema": schema}}
    if is_unavailable:  # uvicorn itself refuses connections beyond the limit
        content["text/plain"] = {"schema": refs[str]}
    described: _Json = {"description": HTTPStatus(status).phrase}
    if operation.method != "head":
        described["content"] = content
    if is_unavailable or status == HTTPStatus.TOO_MANY_REQUESTS:
        seconds = {"description": "Seconds to wait.", "schema": {"type": "integer"}}
        described["headers"] = {"Retry-After": seconds}
    return described
