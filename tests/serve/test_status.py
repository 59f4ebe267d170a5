"""What the endpoint says of itself, over a pool of fakes."""

import asyncio

import pytest
from starlette.applications import Starlette

from llmedge.core.errors import LlmedgeError
from llmedge.engine.engine import ModelInfo
from llmedge.serve.errors import on_llmedge_error
from llmedge.serve.limits import Drain, Limits
from llmedge.serve.metrics import Meters
from llmedge.serve.pool import ModelPool, ModelSource
from llmedge.serve.status import routes
from tests.fakes import FakeEngine
from tests.serve.asgi import Reply, ask

LOADED = ModelInfo(
    "org/m:Q4_0", 7, "llama 1M", "llama", "Q4_0", ("hi", "ta"), 64, 128, 40, 8, 1000, 500, 2
)
KNOWN = ModelInfo("b", architecture="qwen3", n_ctx=32)


class Endpoint:
    """The routes over one model that is loaded and one that is not."""

    def __init__(self) -> None:
        self.engine, self.drain, self.meters = FakeEngine(info=LOADED), Drain(), Meters()
        sources = [ModelSource(info, self._open) for info in (LOADED, KNOWN)]
        pool = ModelPool(sources, Limits(), self.drain, self.meters)
        pool.adopt(self.engine)
        self.app = Starlette(
            routes=routes(pool, self.meters),
            exception_handlers={LlmedgeError: on_llmedge_error},
        )

    def get(self, path: str) -> Reply:
        return asyncio.run(ask(self.app, "GET", path))

    def _open(self) -> FakeEngine:
        raise AssertionError("nothing here loads a model")


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint()


@pytest.mark.parametrize(
    ("state", "is_healthy", "is_ready"),
    [("ready", 1, 1), ("loading", 1, 0), ("restarting", 0, 0), ("failed", 0, 0), ("closed", 0, 0)],
)
def test_health_and_readiness_follow_the_engines(
    endpoint: Endpoint, state, is_healthy: int, is_ready: int
):
    endpoint.engine.state = state
    for path, is_good in (
        ("/health", is_healthy),
        ("/v1/health", is_healthy),
        ("/ready", is_ready),
    ):
        reply = endpoint.get(path)
        told = (200, {"status": "ok"}) if is_good else (503, {"status": "error"})
        assert (reply.status, reply.json) == told


def test_a_server_that_stops_is_healthy_and_not_ready(endpoint: Endpoint):
    endpoint.drain.begin()
    assert endpoint.get("/health").status == 200
    assert endpoint.get("/ready").status == 503


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_all_models_are_listed_with_what_is_known(endpoint: Endpoint, prefix: str):
    reply = endpoint.get(f"{prefix}/models")
    assert (reply.headers["content-type"], reply.json["object"]) == ("application/json", "list")
    first, second = reply.json["data"]
    assert (first["id"], first["created"]) == ("org/m:Q4_0", 7)
    assert first["meta"] == {
        "state": "ready",
        "description": "llama 1M",
        "architecture": "llama",
        "quant": "Q4_0",
        "languages": ["hi", "ta"],
        "n_ctx": 64,
        "n_ctx_train": 128,
        "n_vocab": 40,
        "n_params": 1000,
        "size_bytes": 500,
        "n_slots": 2,
    }
    assert (second["id"], second["meta"]["state"], second["meta"]["n_ctx"]) == ("b", "unloaded", 32)


def test_a_model_is_found_by_a_name_with_slashes_and_no_other(endpoint: Endpoint):
    cards = endpoint.get("/v1/models").json["data"]
    assert endpoint.get("/v1/models/org/m:Q4_0").json == cards[0]
    assert endpoint.get("/models/b").json == cards[1]
    for name in ("m:Q4_0", "org", "org/m:Q4_0/", "B"):
        reply = endpoint.get(f"/v1/models/{name}")
        assert (reply.status, reply.json["error"]["code"]) == (404, "model_not_found")


def test_metrics_are_text_with_this_processs_memory(endpoint: Endpoint):
    endpoint.meters.requests.add(2, "org/m:Q4_0", "stop")
    reply = endpoint.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = dict(line.rsplit(" ", 1) for line in reply.body.decode().splitlines() if line[0] != "#")
    assert float(lines["process_resident_memory_bytes"]) > 1e6
    assert lines['llmedge_requests_total{model="org/m:Q4_0",outcome="stop"}'] == "2"
    assert lines['llmedge_kv_cache_used_tokens{model="org/m:Q4_0"}'] == "42"
    assert 'model="b"' not in reply.body.decode()


def test_the_description_names_every_path_of_its_own(endpoint: Endpoint):
    description = endpoint.get("/openapi.json").json
    assert description["openapi"].startswith("3.")
    for path in ("/health", "/ready", "/metrics", "/v1/models"):
        assert "get" in description["paths"][path]
