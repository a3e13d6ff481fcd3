"""Traces, if the OTEL_* variables ask for them: FastAPI creates a span per request, which gets attributes here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import get_current_span

from flowbed import telemetry

if TYPE_CHECKING:
    from typing import Any

    from opentelemetry.sdk.trace import SpanProcessor

    from flowbed.server.http.request_context import RequestContext

# Telemetry on the way to a provider, recorded as events of the span.
EVENTS = frozenset(
    {
        telemetry.REQUEST_SENT,
        telemetry.REQUEST_ANSWERED,
        telemetry.FALLBACK,
        telemetry.LIMITED,
        telemetry.BREAKER,
    }
)
# Left out of events: the message of an error may be a provider's.
OMITTED = "reason"
UNNAMED = "unknown_service"


class Tracing:
    """Spans of one server; the SDK reads destination and sampling from OTEL_*."""

    def __init__(self, processor: SpanProcessor | None = None) -> None:
        """Send spans to `processor`, by default to the OTLP endpoint of the variables."""
        resource = Resource.create()
        if str(resource.attributes.get(SERVICE_NAME, "")).startswith(UNNAMED):
            resource = resource.merge(Resource({SERVICE_NAME: "flowbed"}))
        self.provider = TracerProvider(resource=resource)
        self.provider.add_span_processor(processor or BatchSpanProcessor(OTLPSpanExporter()))
        self._unlisten = telemetry.listen(self._record)

    def describe(self, context: RequestContext) -> None:
        """Set attributes of the current request's span; never a key or a text."""
        span = get_current_span()
        facts: dict[str, str | int] = {"flowbed.request_id": context.id}
        if context.caller.key is not None:
            facts["flowbed.key"] = context.caller.key
        if context.code is not None:
            facts["flowbed.error"] = context.code
        result = context.result
        if result is not None:
            facts |= {
                "gen_ai.operation.name": "embeddings",
                "gen_ai.response.model": result.model,
                "gen_ai.usage.input_tokens": result.tokens,
                "flowbed.provider": result.provider,
                "flowbed.space": result.space,
                "flowbed.inputs": len(result.vectors),
                "flowbed.cached": result.cached,
            }
        span.set_attributes(facts)

    def close(self) -> None:
        """Send the remaining spans."""
        self._unlisten()
        self.provider.shutdown()

    @staticmethod
    def _record(point: str, facts: dict[str, Any]) -> None:
        if point in EVENTS:
            attributes = {name: value for name, value in facts.items() if name != OMITTED}
            get_current_span().add_event(point, attributes)
