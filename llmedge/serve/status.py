"""What the endpoint says of itself: models, health, readiness, metrics, its own description."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec
from starlette.responses import Response
from starlette.routing import Route

from llmedge.host.memory import read_process_memory
from llmedge.serve import answer_schema as wire
from llmedge.serve.metrics import CONTENT_TYPE
from llmedge.serve.openapi import describe

if TYPE_CHECKING:
    from starlette.requests import Request

    from llmedge.serve.answer import ServedModel
    from llmedge.serve.metrics import Meters
    from llmedge.serve.pool import ModelPool
    from llmedge.serve.pressure import Cause, PressureWatch


def routes(pool: ModelPool, meters: Meters, watch: PressureWatch | None = None) -> list[Route]:
    """Return the routes.

    Args:
        pool: The models.
        meters: What was measured.
        watch: What the machine says, where it is asked.
    """
    status = Status(pool, meters, watch)
    return [
        Route("/health", status.health),
        Route("/v1/health", status.health),
        Route("/ready", status.ready),
        Route("/metrics", status.metrics),
        Route("/openapi.json", status.openapi),
        *(
            route
            for prefix in ("/v1", "")
            for route in (
                Route(f"{prefix}/models", status.models),
                Route(f"{prefix}/models/{{id:path}}", status.model),
            )
        ),
    ]


class Status:
    """The handlers; see `routes`."""

    def __init__(self, pool: ModelPool, meters: Meters, watch: PressureWatch | None) -> None:
        self._pool = pool
        self._meters = meters
        self._watch = watch

    async def health(self, request: Request) -> Response:
        """`GET /health`: whether a request can be expected to work, now or after a short wait."""
        del request
        causes = list(self._watch.causes) if self._watch is not None else []
        return _verdict(is_good=self._pool.is_healthy, causes=causes)

    async def ready(self, request: Request) -> Response:
        """`GET /ready`: whether a request should be sent here now."""
        del request
        return _verdict(is_good=self._pool.is_ready)

    async def models(self, request: Request) -> Response:
        """`GET /v1/models`."""
        del request
        return _json(wire.ModelList([self._card(model) for model in self._pool.models()]))

    async def model(self, request: Request) -> Response:
        """`GET /v1/models/{id}`."""
        return _json(self._card(self._pool.require(request.path_params["id"])))

    async def metrics(self, request: Request) -> Response:
        """`GET /metrics`."""
        del request
        text = await self._meters.render(self._pool.engines, _own_memory(), self._watch)
        return Response(text, headers={"Content-Type": CONTENT_TYPE})

    async def openapi(self, request: Request) -> Response:
        """`GET /openapi.json`."""
        del request
        return _json(describe(self._pool.models()[0].info.id))

    def _card(self, model: ServedModel) -> wire.ModelCard:
        info = model.info
        meta = wire.ModelMeta(
            state=self._pool.states[info.id],
            description=info.description,
            architecture=info.architecture,
            quant=info.quant,
            languages=list(info.languages),
            n_ctx=info.n_ctx,
            n_ctx_train=info.n_ctx_train,
            n_vocab=info.n_vocab,
            n_params=info.n_params,
            size_bytes=info.size_bytes,
            n_slots=info.n_slots,
        )
        aliases = list(self._pool.aliases(info.id))
        return wire.ModelCard(id=info.id, created=info.created, meta=meta, aliases=aliases)


def _verdict(*, is_good: bool, causes: list[Cause] | None = None) -> Response:
    health = wire.Health("ok" if is_good else "error", causes or msgspec.UNSET)
    return _json(health, 200 if is_good else 503)


def _json(payload: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(payload), status, media_type="application/json")


def _own_memory() -> int:
    memory = read_process_memory(os.getpid())
    return memory.resident_bytes if memory else 0
