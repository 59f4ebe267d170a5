"""llmedge's errors in OpenAI's shape."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response

from llmedge.core.errors import (
    ContextLengthError,
    LlmedgeError,
    NotFoundError,
    ResourceError,
    UnsupportedError,
    UsageError,
)
from llmedge.serve.schema import ErrorBody, ErrorResponse

if TYPE_CHECKING:
    from starlette.requests import Request

_log = logging.getLogger("llmedge.serve")

# First match counts: the more special error stands first.
_KINDS: tuple[tuple[type[LlmedgeError], int, str, str | None], ...] = (
    (ContextLengthError, 400, "invalid_request_error", "context_length_exceeded"),
    (UsageError, 400, "invalid_request_error", None),
    (NotFoundError, 404, "invalid_request_error", "model_not_found"),
    (UnsupportedError, 400, "invalid_request_error", "unsupported"),
    (ResourceError, 503, "server_error", "unavailable"),
    (LlmedgeError, 500, "server_error", None),
)


def error_response(error: LlmedgeError) -> Response:
    """Return the response for an error of ours."""
    status, payload = _classify(error)
    return _response(status, payload)


def stream_error(error: LlmedgeError) -> ErrorResponse:
    """Return the event for an error in a stream that has begun."""
    return _classify(error)[1]


async def on_llmedge_error(request: Request, error: Exception) -> Response:
    """Answer an error of ours."""
    del request
    if not isinstance(error, LlmedgeError):
        raise error
    return error_response(error)


async def on_http_error(request: Request, error: Exception) -> Response:
    """Answer what the router refuses: an unknown path, a wrong method."""
    if not isinstance(error, HTTPException):
        raise error
    message = f"{request.method} {request.url.path}: {HTTPStatus(error.status_code).phrase}"
    response = _response(error.status_code, _payload(message, "invalid_request_error", None))
    response.headers.update(error.headers or {})
    return response


async def on_client_left(request: Request, error: Exception) -> Response:
    """Answer nobody; 499 is what servers log for it."""
    del request, error
    return Response(status_code=499)


async def on_bug(request: Request, error: Exception) -> Response:
    """Answer a bug without its details; they go to the log."""
    _log.error("bug in %s %s", request.method, request.url.path, exc_info=error)
    return _response(500, _payload("an internal error", "server_error", None))


def _classify(error: LlmedgeError) -> tuple[int, ErrorResponse]:
    for kind, status, name, code in _KINDS:
        if isinstance(error, kind):
            return status, _payload(error.message, name, code)
    raise AssertionError("the last row of the table matches every error")


def _payload(message: str, kind: str, code: str | None) -> ErrorResponse:
    return ErrorResponse(ErrorBody(message, kind, None, code))


def _response(status: int, payload: ErrorResponse) -> Response:
    return Response(msgspec.json.encode(payload), status, media_type="application/json")
