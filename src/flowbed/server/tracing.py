"""Traces, where the OTEL_* variables ask for them: FastAPI makes a span of each request, and this tells its facts."""

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

    from flowbed.server.http.request_context import Exchange

# What happens to a request on its way to a provider, as events of its span.
EVENTS = frozenset(
    {
        telemetry.REQUEST_SENT,
        telemetry.REQUEST_ANSWERED,
        telemetry.FALLBACK,
        telemetry.LIMITED,
        telemetry.BREAKER,
    }
)
# Of these the words of an error are left out, for they are not our own.
UNTOLD = "reason"
UNNAMED = "unknown_service"


class Tracing:
    """Spans of one server; everything about where they go, and how many of them, is read from OTEL_* by the SDK."""

    def __init__(self, processor: SpanProcessor | None = None) -> None:
        """Send spans to `processor`, by default to the OTLP endpoint that the variables name."""
        resource = Resource.create()
        if str(resource.attributes.get(SERVICE_NAME, "")).startswith(UNNAMED):
            resource = resource.merge(Resource({SERVICE_NAME: "flowbed"}))
        self.provider = TracerProvider(resource=resource)
        self.provider.add_span_processor(processor or BatchSpanProcessor(OTLPSpanExporter()))
        self._unlisten = telemetry.listen(self._tell)

    def describe(self, exchange: Exchange) -> None:
        """Tell the span of the request that is being answered what is known of it; never a key or a text."""
        span = get_current_span()
        facts: dict[str, str | int] = {"flowbed.request_id": exchange.id}
        if exchange.caller.key is not None:
            facts["flowbed.key"] = exchange.caller.key
        if exchange.code is not None:
            facts["flowbed.error"] = exchange.code
        answered = exchange.answered
        if answered is not None:
            facts |= {
                "gen_ai.operation.name": "embeddings",
                "gen_ai.response.model": answered.model,
                "gen_ai.usage.input_tokens": answered.tokens,
                "flowbed.provider": answered.provider,
                "flowbed.space": answered.space,
                "flowbed.inputs": len(answered.vectors),
                "flowbed.cached": answered.cached,
            }
        span.set_attributes(facts)

    def close(self) -> None:
        """Send what is left."""
        self._unlisten()
        self.provider.shutdown()

    @staticmethod
    def _tell(point: str, facts: dict[str, Any]) -> None:
        if point in EVENTS:
            told = {name: value for name, value in facts.items() if name != UNTOLD}
            get_current_span().add_event(point, told)
