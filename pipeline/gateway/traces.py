"""A request and its tries as spans, for a collector of OpenTelemetry: names as in its conventions
for generative AI (https://opentelemetry.io/docs/specs/semconv/gen-ai/). Of no prompt, answer or
key's text."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import NoOpTracer, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from pipeline import __version__
from pipeline.gateway.asked import CHAT, Asked
from pipeline.gateway.attempt import Try
from pipeline.gateway.tier import Tier

EXPORT_S = 2.0  # a collector that is not there keeps nobody from ending
W3C = TraceContextTextMapPropagator()
Attributes = dict[str, str | int | float]


class Traces:
    """To be closed. Without a `url` nothing is recorded, and a client's trace goes on to the
    server all the same."""

    def __init__(self, url: str | None) -> None:
        self._provider = _provider(url) if url else None
        self._tracer: Tracer = (
            self._provider.get_tracer("quantgate") if self._provider else NoOpTracer()
        )

    def close(self) -> None:
        """Sends what is left."""
        if self._provider:
            self._provider.shutdown()

    def request(self, asked: Asked) -> contextlib.AbstractContextManager[None]:
        operation = "chat" if asked.path == CHAT else "text_completion"
        attributes: Attributes = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "quantgate",
            "gen_ai.request.model": asked.model,
            "quantgate.feature": asked.feature,
            "quantgate.key": asked.client.name,
            "quantgate.request": asked.id,
        }
        name = f"{operation} {asked.model}"
        return self._span(name, SpanKind.SERVER, attributes, asked.trace)

    def attempt(self, tier: Tier) -> contextlib.AbstractContextManager[None]:
        attributes: Attributes = {
            "gen_ai.response.model": tier.asked_as,
            "quantgate.tier": tier.name,
        }
        return self._span(f"try {tier.name}", SpanKind.CLIENT, attributes)

    @contextlib.contextmanager
    def _span(
        self,
        name: str,
        kind: SpanKind,
        attributes: Attributes,
        came_with: Mapping[str, str] | None = None,
    ) -> Iterator[None]:
        """Below the span of the headers that came, else below the present one."""
        above = W3C.extract(came_with) if came_with is not None else None
        span = self._tracer.start_span(name, above, kind, attributes)
        # an exception's text may hold what a client sent
        quiet = {"record_exception": False, "set_status_on_exception": False}
        with trace.use_span(span, end_on_exit=True, **quiet):
            yield


def _provider(url: str) -> TracerProvider:
    resource = Resource.create({SERVICE_NAME: "quantgate-gateway", SERVICE_VERSION: __version__})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=url, timeout=EXPORT_S)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def headers() -> dict[str, str]:
    """Of a request that belongs to the present span."""
    carrier = dict[str, str]()
    W3C.inject(carrier)
    return carrier


def tried(done: Try) -> None:
    """What the present span, a try's, came to."""
    span = trace.get_current_span()
    found: Attributes = {
        "quantgate.end": done.end,
        "gen_ai.usage.input_tokens": done.prompt_tokens,
        "gen_ai.usage.output_tokens": done.completion_tokens,
    }
    if done.first_at is not None:
        found["gen_ai.response.time_to_first_chunk"] = done.first_at - done.began_at
    span.set_attributes(found)
    if done.end != "answered":
        span.set_status(StatusCode.ERROR, done.rule or done.why)


def ended(place: str, status: int) -> None:
    """What the present span, a request's, came to."""
    span = trace.get_current_span()
    span.set_attributes({"quantgate.tier": place, "http.response.status_code": status})
    if status >= 500:
        span.set_status(StatusCode.ERROR)
