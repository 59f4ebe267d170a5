"""The endpoint as an ASGI application: routes, errors, hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.routing import Route

from llmedge.core.errors import LlmedgeError
from llmedge.serve.errors import on_bug, on_client_left, on_http_error, on_llmedge_error
from llmedge.serve.handlers import Handlers
from llmedge.serve.stream import ClientLeft

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmedge.serve.engine import Engine

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]")


def build_app(
    engine: Engine, *, fingerprint: str, allowed_hosts: Sequence[str] = LOOPBACK_HOSTS
) -> Starlette:
    """Build the application over an engine.

    Args:
        engine: Runs the model; closed by whoever made it.
        fingerprint: Names the software in answers.
        allowed_hosts: Values of the `Host` header that are answered; a page from elsewhere that
            points its name at this machine (DNS rebinding) sends another one. `*` allows all.
    """
    handlers = Handlers(engine, fingerprint)
    return Starlette(
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
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(allowed_hosts))],
    )
