"""The endpoint as an ASGI application: routes, errors, and what every request passes."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from llmedge.core.errors import LlmedgeError
from llmedge.serve import (
    anthropic,
    handlers,
    native,
    native_completion,
    ollama,
    responses,
    status,
)
from llmedge.serve.chat_service import ChatService
from llmedge.serve.errors import on_bug, on_client_left, on_http_error, on_llmedge_error
from llmedge.serve.guard import Guard, GuardOptions
from llmedge.serve.pressure import PressureWatch
from llmedge.serve.request_log import RequestLog
from llmedge.serve.stream import KEEP_ALIVE_S, ClientLeft

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from llmedge.serve.metrics import Meters
    from llmedge.serve.pool import ModelPool
    from llmedge.serve.tracing import Tracing


def build_app(
    pool: ModelPool,
    meters: Meters,
    guard: GuardOptions,
    *,
    fingerprint: str,
    keep_alive_s: float = KEEP_ALIVE_S,
    watch: PressureWatch | None = None,
    tracing: Tracing | None = None,
) -> Starlette:
    """Build the application over a pool of models.

    Args:
        pool: Closed by whoever made it.
        meters: What the pool's engines measure.
        guard: Who may ask.
        fingerprint: Names the software in answers.
        keep_alive_s: Silence in a stream after which the client is told that it is not over.
        watch: Lowers parallelism; `None` watches this machine as usual.
        tracing: Makes spans of requests; closed by whoever made it.
    """
    service = ChatService(pool)
    watch = watch or PressureWatch(pool)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        del app
        tasks = [asyncio.create_task(work) for work in (pool.sweep(), watch.run(), service.learn())]
        yield
        for task in tasks:
            task.cancel()

    app = Starlette(
        routes=[
            *status.routes(pool, meters, watch),
            *handlers.routes(service, fingerprint, keep_alive_s=keep_alive_s),
            *responses.routes(service),
            *anthropic.routes(service),
            *ollama.routes(service),
            *native.routes(service),
            *native_completion.routes(service, keep_alive_s=keep_alive_s),
        ],
        exception_handlers={
            LlmedgeError: on_llmedge_error,
            ClientLeft: on_client_left,
            HTTPException: on_http_error,
            Exception: on_bug,
        },
        middleware=[Middleware(RequestLog, tracing=tracing), Middleware(Guard, options=guard)],
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # a redirected POST is a surprise, a 404 is an answer
    return app
