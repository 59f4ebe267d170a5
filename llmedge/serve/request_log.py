"""What is remembered of the request that is being answered, and its line in the log.

The record travels with the task that answers the request, so that whatever serves it can add to it.
Prompts and answers never come here.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_log = logging.getLogger("llmedge.serve.access")
_MAX_PATH_CHARS = 200


@dataclass(slots=True)
class RequestRecord:
    """One HTTP request.

    Attributes:
        id: Sent back in the header `X-Request-Id`.
        cache_key: Whose cached prefixes it may use.
        model: The model that was asked.
        n_prompt: Tokens of its prompts.
        n_cached: Of these, tokens that were cached.
        n_generated: Tokens generated.
        energy_j: Joules, as far as they were measured.
        finish_reasons: Why its generations ended.
        queue_s: Longest time until a prompt was begun.
        first_token_s: Seconds until the first text, where there was one.
        error: Name of the error that ended it.
    """

    id: str = field(default_factory=lambda: f"req-{secrets.token_hex(8)}")
    cache_key: str = ""
    model: str = ""
    n_prompt: int = 0
    n_cached: int = 0
    n_generated: int = 0
    energy_j: float | None = None
    finish_reasons: list[str] = field(default_factory=list[str])
    queue_s: float = 0.0
    first_token_s: float | None = None
    error: str = ""


class RequestSpan(Protocol):
    """What somebody else notes of one request."""

    def end(self, record: RequestRecord, status: int) -> None:
        """Take what became of the request: its record, and the HTTP status.

        500 stands for none, where the client left before there was one.
        """
        ...


class Spans(Protocol):
    """Makes them; `tracing.Tracing` does."""

    def begin(self, scope: Scope) -> RequestSpan | None:
        """Begin one, where the request is of interest."""
        ...


_current: ContextVar[RequestRecord | None] = ContextVar("request_record", default=None)


def current_record() -> RequestRecord:
    """Return the record of the request that this task answers; a new one outside of any."""
    return _current.get() or RequestRecord()


class RequestLog:
    """Gives each request a record, and writes one line of JSON when it has ended.

    Args:
        app: What answers.
        tracing: Makes a span of each request to a model, too.
    """

    def __init__(self, app: ASGIApp, tracing: Spans | None = None) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record, start, status = RequestRecord(), time.perf_counter(), 500
        span = None if self._tracing is None else self._tracing.begin(scope)

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", record.id.encode()),
                ]
            await send(message)

        token = _current.set(record)
        try:
            await self._app(scope, receive, send_noted)
        except BaseException as error:
            record.error = record.error or type(error).__name__
            raise
        finally:
            _current.reset(token)
            if span is not None:
                span.end(record, status)
            if _log.isEnabledFor(logging.INFO):
                _log.info("%s", _line(scope, record, status, time.perf_counter() - start))


def _line(scope: Scope, record: RequestRecord, status: int, seconds: float) -> str:
    client = scope.get("client")
    first = record.first_token_s
    entry = {
        "id": record.id,
        "client": client[0] if client else None,
        "method": scope["method"],
        "path": scope["path"][:_MAX_PATH_CHARS],
        "status": status,
        "seconds": round(seconds, 4),
        "model": record.model,
        "prompt_tokens": record.n_prompt,
        "cached_tokens": record.n_cached,
        "completion_tokens": record.n_generated,
        "queue_seconds": round(record.queue_s, 4),
        "first_token_seconds": None if first is None else round(first, 4),
        "error": record.error or None,
    }
    if record.energy_j is not None:
        entry["energy_joules"] = round(record.energy_j, 3)
    return json.dumps(entry, ensure_ascii=True)
