"""The endpoint as an ASGI application: routes, errors, hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route

from llmedge.core.errors import LlmedgeError, UsageError
from llmedge.serve.errors import (
    error_response,
    on_bug,
    on_client_left,
    on_http_error,
    on_llmedge_error,
)
from llmedge.serve.handlers import Handlers
from llmedge.serve.stream import ClientLeft

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import ASGIApp, Receive, Scope, Send

    from llmedge.serve.engine import Engine

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")


class HostGuard:
    """Answers only requests whose `Host` header is allowed.

    A page from elsewhere that points its own name at this machine (DNS rebinding) sends that name.

    Args:
        app: What to guard.
        allowed: Host names without ports; `*` allows all.
    """

    def __init__(self, app: ASGIApp, allowed: frozenset[str]) -> None:
        self._app = app
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http" and "*" not in self._allowed:
            host = Headers(scope=scope).get("host", "")
            if _without_port(host) not in self._allowed:
                refusal = error_response(UsageError(f"the host {host[:80]!r} is not served here"))
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host


def build_app(
    engine: Engine, *, fingerprint: str, allowed_hosts: Sequence[str] = LOOPBACK_HOSTS
) -> Starlette:
    """Build the application over an engine.

    Args:
        engine: Runs the model; closed by whoever made it.
        fingerprint: Names the software in answers.
        allowed_hosts: Values of the `Host` header that are answered; see `HostGuard`.
    """
    handlers = Handlers(engine, fingerprint)
    app = Starlette(
        routes=[
            Route("/health", handlers.health),
            Route("/v1/models", handlers.models),
            Route("/v1/models/{id:path}", handlers.model),
            Route("/v1/chat/completions", handlers.chat_completions, methods=["POST"]),
            Route("/v1/completions", handlers.completions, methods=["POST"]),
        ],
        exception_handlers={
            LlmedgeError: on_llmedge_error,
            ClientLeft: on_client_left,
            HTTPException: on_http_error,
            Exception: on_bug,
        },
        middleware=[Middleware(HostGuard, allowed=frozenset(allowed_hosts))],
    )
    app.router.redirect_slashes = False  # a redirected POST is a surprise, a 404 is an answer
    return app
