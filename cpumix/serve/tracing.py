"""Traces for a collector of OpenTelemetry, by OTLP over HTTP.

A request is a span, in the trace that its `traceparent` names, and what its texts went through are
spans in it: "queue", "prompt" and "decode". They have names, times and counts, and no text. All but
the first are made when the request has ended, of times that are measured anyway. A thread of its
own sends them; what a collector does not take in time is dropped, and nobody waits for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from cpumix.engine.phase import Phase
from cpumix.errors import ConfigError, escaped, quoted

from .log import Log

PATH = "/v1/traces"
SEND_SECONDS = 5.0  # that a collector may take for some spans
CLOSE_SECONDS = 5.0  # that the end of the server may wait for the last ones
COMPLAINT_SECONDS = 60.0  # between two lines of the log about a collector
Values = Mapping[str, str | int]


def traces_url(endpoint: str) -> str:
    """Return where a collector takes traces. Raises ConfigError for what is no URL of one."""
    try:
        parts = urlsplit(endpoint)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        right = False
    if not right:
        raise ConfigError(
            "--otlp-endpoint: expected the URL of a collector, such as http://localhost:4318, "
            f"found {quoted(endpoint)}. Correct it."
        )
    return endpoint if parts.path.endswith(PATH) else endpoint.rstrip("/") + PATH


class Tracing:
    """Makes the spans of one server."""

    def __init__(self, endpoint: str, log: Log) -> None:
        """Begin to send to a collector. Raises ConfigError for an endpoint that is no URL."""
        url = traces_url(endpoint)
        self._logger = logging.getLogger("opentelemetry")
        self._complaints = _Complaints(log)
        self._logger.addHandler(self._complaints)
        self._propagated, self._logger.propagate = self._logger.propagate, False
        # Names that the environment gives (OTEL_SERVICE_NAME) are before ours.
        own = Resource({"service.name": "cpumix", "service.version": version("cpumix")})
        self._provider = TracerProvider(resource=own.merge(_named()), shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=url, timeout=SEND_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("cpumix", version("cpumix"))
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, method: str, headers: Mapping[str, str]) -> RequestSpan:
        """Begin the span of a request."""
        context = self._propagator.extract(headers)
        span = self._tracer.start_span(method, context, SpanKind.SERVER)
        return RequestSpan(self, span)

    def phase(self, parent: Span, phase: Phase, values: Values) -> None:
        """Make the span of a phase that is over."""
        if parent.is_recording():
            offset = time.time_ns() - time.perf_counter_ns()
            began, ended = (offset + int(1e9 * at) for at in (phase.began, phase.ended))
            context = set_span_in_context(parent)
            span = self._tracer.start_span(
                phase.name, context, attributes=dict(values), start_time=began
            )
            span.end(ended)

    def close(self) -> None:
        """Send what is left, for a while."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)
        self._logger.removeHandler(self._complaints)
        self._logger.propagate = self._propagated


class RequestSpan:
    """The span of one request, under way."""

    def __init__(self, tracing: Tracing, span: Span) -> None:
        self._tracing, self._span = tracing, span

    @property
    def trace_id(self) -> str:
        """The trace that it is part of, as `traceparent` writes it."""
        return format_trace_id(self._span.get_span_context().trace_id)

    def end(
        self,
        method: str,
        route: str,
        status: int,
        values: Values,
        phases: Sequence[tuple[Phase, Values]],
    ) -> None:
        """End it, with what its texts went through."""
        for phase, counts in phases:
            self._tracing.phase(self._span, phase, counts)
        self._span.update_name(f"{method} {route}")
        self._span.set_attributes(
            {
                "http.request.method": method,
                "http.route": route,
                "http.response.status_code": status,
                **values,
            }
        )
        if status >= 500:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class _Complaints(logging.Handler):
    """Tells the log of the server, and not often, that a collector does not take spans."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._tell, self._last = log, -COMPLAINT_SECONDS

    def emit(self, record: logging.LogRecord) -> None:
        if (now := time.monotonic()) - self._last >= COMPLAINT_SECONDS:
            self._last = now
            self._tell("traces", error=escaped(record.getMessage(), 200))


def _named() -> Resource:
    """Return what the environment calls this service, without the library's own name for it."""
    found = Resource.create()
    unnamed = str(found.attributes.get("service.name", "")).startswith("unknown_service")
    kept = {k: v for k, v in found.attributes.items() if not (unnamed and k == "service.name")}
    return Resource(kept)
