"""OpenTelemetry spans of requests to models, where the standard environment asks for them.

What is exported is counted and named, never said: no prompt, no answer, no stop text.

Source: OpenTelemetry semantic conventions for generative AI (spans) and HTTP (server spans).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import llmedge
from llmedge.core.errors import MissingExtraError, UnsupportedError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer
    from starlette.types import Scope

    from llmedge.core.settings import Settings
    from llmedge.serve.request_log import RequestRecord

_EXPORTERS = ("otlp", "otlp:http/protobuf")
_OPERATIONS = {
    "/chat/completions": "chat",
    "/responses": "chat",
    "/messages": "chat",
    "/api/chat": "chat",
    "/completions": "text_completion",
    "/completion": "text_completion",
    "/api/generate": "text_completion",
    "/embeddings": "embeddings",
    "/api/embed": "embeddings",
}


class Tracing:
    """Makes a span of each request to a model.

    Args:
        provider: Where they go; shut down by `close`.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer: Tracer = provider.get_tracer("llmedge", llmedge.__version__)

    def begin(self, scope: Scope) -> RequestSpan | None:
        """Begin the span of an HTTP request; `None` where no model is asked."""
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind

        path: str = scope["path"]
        operation = _OPERATIONS.get(path.removeprefix("/v1"))
        if operation is None or scope["method"] != "POST":
            return None
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        span = self._tracer.start_span(
            operation,
            extract(headers),
            SpanKind.SERVER,
            {
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": "llmedge",
                "http.request.method": "POST",
                "http.route": path,
            },
        )
        return RequestSpan(span, operation)

    def close(self) -> None:
        """Send what was not sent yet, and stop."""
        self._provider.shutdown()


class RequestSpan:
    """One request's span; made by `Tracing.begin`."""

    __slots__ = ("_operation", "_span")

    def __init__(self, span: Span, operation: str) -> None:
        self._span = span
        self._operation = operation

    def end(self, record: RequestRecord, status: int) -> None:
        """Say what became of the request.

        Args:
            record: What was noted of it.
            status: The HTTP status.
        """
        from opentelemetry.trace import StatusCode

        span, error = self._span, record.error or (str(status) if status >= 400 else "")
        span.set_attribute("http.response.status_code", status)
        if record.model:
            span.update_name(f"{self._operation} {record.model}")
            span.set_attribute("gen_ai.request.model", record.model)
            span.set_attribute("gen_ai.response.model", record.model)
        if record.n_prompt:
            span.set_attribute("gen_ai.usage.input_tokens", record.n_prompt)
            span.set_attribute("gen_ai.usage.cache_read.input_tokens", record.n_cached)
        if record.finish_reasons:
            span.set_attribute("gen_ai.usage.output_tokens", record.n_generated)
            span.set_attribute("gen_ai.response.finish_reasons", record.finish_reasons)
        if error:
            span.set_attribute("error.type", error)
            # A request that was refused is the client's error, not this span's.
            if not 400 <= status < 500:
                span.set_status(StatusCode.ERROR)
        span.end()


def open_tracing(settings: Settings) -> Tracing | None:
    """Return what the environment's `OTEL_*` variables ask for, if anything.

    Raises:
        MissingExtraError: The extra `otel` is not installed.
        UnsupportedError: An exporter or a protocol that is not spoken here.
    """
    if settings.traces_exporter is None:
        return None
    if settings.traces_exporter not in _EXPORTERS:
        raise UnsupportedError(
            f"traces cannot be exported by {settings.traces_exporter!r}",
            "set OTEL_TRACES_EXPORTER=otlp and OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
        )
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise MissingExtraError(
            f"traces need {error.name or 'opentelemetry'}, which is not installed",
            "pip install 'llmedge[otel]'",
        ) from None
    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, "unknown_service")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "llmedge"}))
    # Nothing else of this process is traced: no global provider.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)
