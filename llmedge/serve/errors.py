"""llmedge's errors on the wire: in OpenAI's shape, or that of the path that was asked."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, UnsetType
from starlette.exceptions import HTTPException
from starlette.responses import Response

from llmedge.core.errors import (
    BusyError,
    ContextLengthError,
    DeadlineError,
    LlmedgeError,
    NotFoundError,
    ResourceError,
    UnsupportedError,
    UsageError,
)
from llmedge.serve import anthropic_schema, ollama_schema
from llmedge.serve.schema import ErrorBody, ErrorResponse

if TYPE_CHECKING:
    from starlette.requests import Request

_log = logging.getLogger("llmedge.serve")


# An engine that is started again is there after a few seconds.
_RETRY_AFTER_S = "2"
# llama-server's clients know a prompt that is too long by its type, OpenAI's by its code.
# First match counts: the more special error stands first.
_KINDS: tuple[tuple[type[LlmedgeError], int, str, str | None], ...] = (
    (ContextLengthError, 400, "exceed_context_size_error", "context_length_exceeded"),
    (UsageError, 400, "invalid_request_error", None),
    (NotFoundError, 404, "invalid_request_error", "model_not_found"),
    (UnsupportedError, 400, "invalid_request_error", "unsupported"),
    (BusyError, 429, "rate_limit_error", "queue_full"),
    (DeadlineError, 504, "server_error", "deadline_exceeded"),
    (ResourceError, 503, "server_error", "unavailable"),
    (LlmedgeError, 500, "server_error", None),
)


def error_response(error: LlmedgeError, path: str = "") -> Response:
    """Return the response for an error of ours.

    Args:
        error: What went wrong.
        path: What was asked; some paths have a shape of their own.
    """
    status, payload = _classify(error)
    response = _response(status, payload, path)
    if isinstance(error, BusyError):
        response.headers["Retry-After"] = str(error.retry_after_s)
    elif status == HTTPStatus.SERVICE_UNAVAILABLE:
        response.headers["Retry-After"] = _RETRY_AFTER_S
    return response


def refusal(status: int, message: str, code: str, path: str) -> Response:
    """Return the response for a request that is not let in.

    Args:
        status: The HTTP status.
        message: Why.
        code: A word for programs.
        path: What was asked.
    """
    is_key = status == HTTPStatus.UNAUTHORIZED
    kind = "authentication_error" if is_key else "invalid_request_error"
    response = _response(status, _payload(message, kind, code), path)
    if is_key:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def stream_error(error: LlmedgeError) -> ErrorResponse:
    """Return the event for an error in a stream that has begun."""
    return _classify(error)[1]


async def on_llmedge_error(request: Request, error: Exception) -> Response:
    """Answer an error of ours."""
    if not isinstance(error, LlmedgeError):
        raise error
    return error_response(error, request.url.path)


async def on_http_error(request: Request, error: Exception) -> Response:
    """Answer what the router refuses: an unknown path, a wrong method."""
    if not isinstance(error, HTTPException):
        raise error
    path = request.url.path
    message = f"{request.method} {path}: {HTTPStatus(error.status_code).phrase}"
    response = _response(error.status_code, _payload(message, "invalid_request_error", None), path)
    response.headers.update(error.headers or {})
    return response


async def on_client_left(request: Request, error: Exception) -> Response:
    """Answer nobody; 499 is what servers log for it."""
    del request, error
    return Response(status_code=499)


async def on_bug(request: Request, error: Exception) -> Response:
    """Answer a bug without its details; they go to the log."""
    _log.error("bug in %s %s", request.method, request.url.path, exc_info=error)
    return _response(500, internal_error(), request.url.path)


def internal_error() -> ErrorResponse:
    """Return what a client is told of a bug."""
    return _payload("an internal error", "server_error", None)


def _classify(error: LlmedgeError) -> tuple[int, ErrorResponse]:
    for cls, status, name, code in _KINDS:
        if isinstance(error, cls):
            payload = _payload(error.message, name, code)
            if isinstance(error, ContextLengthError):
                payload.error.n_prompt_tokens = _or_unset(error.n_prompt)
                payload.error.n_ctx = _or_unset(error.n_ctx)
            return status, payload
    raise AssertionError("the last row of the table matches every error")


def _or_unset(value: int | None) -> int | UnsetType:
    return UNSET if value is None else value


def _payload(message: str, kind: str, code: str | None) -> ErrorResponse:
    return ErrorResponse(ErrorBody(message, kind, None, code))


def _response(status: int, payload: ErrorResponse, path: str) -> Response:
    shaped: object = payload
    if path.startswith("/v1/messages"):
        shaped = anthropic_schema.error_of(status, payload.error.message)
    elif path.startswith("/api/"):
        shaped = ollama_schema.ErrorResponse(payload.error.message)
    return Response(msgspec.json.encode(shaped), status, media_type="application/json")
