"""Spans of requests to models: named as the conventions want, and without a word of a prompt."""

import asyncio
import http.server
import sys
import threading
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from llmedge.core.errors import EngineError, MissingExtraError, UnsupportedError
from llmedge.core.settings import load_settings
from llmedge.engine.engine import ModelInfo
from llmedge.serve.app import build_app
from llmedge.serve.guard import guard_for
from llmedge.serve.limits import Drain, Limits
from llmedge.serve.metrics import Meters
from llmedge.serve.pool import pool_of
from llmedge.serve.tracing import Tracing, open_tracing
from tests.fakes import FakeEngine
from tests.serve.asgi import Reply, ask
from tests.serve.endpoint import CHAT, TEXT

SECRET = "my secret words"
BODY = {"messages": [{"role": "user", "content": SECRET}], "stop": ["secret stop"], "n": 2}


class Traced:
    """The whole application over a fake engine; its spans are kept."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracing = Tracing(provider)
        info = ModelInfo("m:Q4_0", n_ctx=4096, can_embed=True)
        self.engine, meters = FakeEngine(["secret ", "answer"], info=info), Meters()
        pool = pool_of(self.engine, Limits(), Drain(), meters)
        guard = guard_for("127.0.0.1")
        self.app = build_app(pool, meters, guard, fingerprint="x", tracing=self.tracing)

    def ask(self, path: str, body: object = None, method: str = "POST", **headers: str) -> Reply:
        return asyncio.run(ask(self.app, method, path, body, **headers))

    def span(self) -> ReadableSpan:
        (span,) = self.exporter.get_finished_spans()
        return span


@pytest.fixture
def traced() -> Iterator[Traced]:
    traced = Traced()
    yield traced
    traced.tracing.close()


def test_a_chat_is_a_span_by_the_conventions_without_its_words(traced: Traced):
    trace = "0af7651916cd43dd8448eb211c80319c"
    reply = traced.ask(CHAT, BODY, traceparent=f"00-{trace}-b7ad6b7169203331-01")
    assert reply.status == 200
    span = traced.span()
    assert (span.name, span.kind) == ("chat m:Q4_0", SpanKind.SERVER)
    assert format(span.context.trace_id, "032x") == trace  # type: ignore[union-attr]
    assert dict(span.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "llmedge",
        "gen_ai.request.model": "m:Q4_0",
        "gen_ai.response.model": "m:Q4_0",
        "gen_ai.usage.input_tokens": 2 * (len(SECRET) + 6),
        "gen_ai.usage.cache_read.input_tokens": 2,
        "gen_ai.usage.output_tokens": 26,
        "gen_ai.response.finish_reasons": ("stop", "stop"),
        "http.request.method": "POST",
        "http.route": CHAT,
        "http.response.status_code": 200,
    }
    assert span.status.status_code is StatusCode.UNSET
    assert "secret" not in span.to_json()


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        (TEXT, {"prompt": SECRET, "stream": True}, "text_completion m:Q4_0"),
        ("/v1/messages", {**BODY, "n": None, "stop": None, "max_tokens": 9}, "chat m:Q4_0"),
        ("/v1/responses", {"input": SECRET}, "chat m:Q4_0"),
        ("/api/chat", {"model": "m:Q4_0", "messages": BODY["messages"]}, "chat m:Q4_0"),
        ("/v1/embeddings", {"input": SECRET}, "embeddings m:Q4_0"),
    ],
)
def test_every_dialect_is_traced(traced: Traced, path: str, body: dict[str, object], name: str):
    body = {key: value for key, value in body.items() if value is not None}
    assert traced.ask(path, {"model": "m:Q4_0", **body}).status == 200
    span = traced.span()
    assert span.name == name
    assert (span.attributes or {})["gen_ai.usage.input_tokens"]
    assert "secret" not in span.to_json()


def test_what_asks_no_model_is_no_span(traced: Traced):
    for path in ("/health", "/metrics", "/v1/models"):
        traced.ask(path, method="GET")
    traced.ask(CHAT, method="GET")
    traced.ask("/tokenize", {"content": SECRET})
    assert not traced.exporter.get_finished_spans()


def test_a_request_that_fails_says_how_and_one_that_is_refused_is_the_clients_error(
    traced: Traced,
):
    traced.engine.error = EngineError(SECRET)
    traced.ask(CHAT, BODY)
    span = traced.span()
    assert (span.attributes or {})["error.type"] == "EngineError"
    assert span.status.status_code is StatusCode.ERROR
    assert "secret" not in span.to_json()
    traced.exporter.clear()
    traced.ask(CHAT, {**BODY, "model": "secret-model"})
    span = traced.span()
    assert (span.name, (span.attributes or {})["error.type"]) == ("chat", "404")
    assert span.status.status_code is StatusCode.UNSET
    assert "secret" not in span.to_json()


def traces(**environ: str) -> str | None:
    return load_settings(environ).traces_exporter


def test_nothing_is_traced_unless_the_environment_asks_for_it():
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}
    assert traces() is None
    assert traces(OTEL_SERVICE_NAME="x") is None
    assert traces(**endpoint) == "otlp"
    assert traces(OTEL_TRACES_EXPORTER="otlp") == "otlp"
    assert traces(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="http://x/v1/traces") == "otlp"
    assert traces(**endpoint, OTEL_TRACES_EXPORTER="none") is None
    assert traces(**endpoint, OTEL_SDK_DISABLED="true") is None
    assert traces(**endpoint, OTEL_EXPORTER_OTLP_PROTOCOL="grpc") == "otlp:grpc"
    assert open_tracing(load_settings({})) is None


def test_what_is_not_spoken_or_not_installed_is_an_error(monkeypatch: pytest.MonkeyPatch):
    for environ in (
        {"OTEL_TRACES_EXPORTER": "zipkin"},
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
    ):
        with pytest.raises(UnsupportedError, match="cannot be exported by"):
            open_tracing(load_settings(environ))
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(MissingExtraError) as caught:
        open_tracing(load_settings({"OTEL_TRACES_EXPORTER": "otlp"}))
    assert "llmedge[otel]" in caught.value.hint


def test_spans_reach_a_collector_over_http(traced: Traced, monkeypatch: pytest.MonkeyPatch):
    received: list[tuple[str, bytes]] = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            del arguments

    with http.server.HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        tracing = open_tracing(load_settings())
        assert tracing is not None
        pool = pool_of(traced.engine, Limits(), Drain(), Meters())
        guard = guard_for("127.0.0.1")
        app = build_app(pool, Meters(), guard, fingerprint="x", tracing=tracing)
        asyncio.run(ask(app, "POST", CHAT, BODY))
        tracing.close()
        server.shutdown()
        thread.join()
    ((path, body),) = received
    assert path == "/v1/traces"
    for word in (b"chat m:Q4_0", b"gen_ai.usage.input_tokens", b"service.name", b"llmedge"):
        assert word in body
    assert b"secret" not in body
