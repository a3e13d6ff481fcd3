"""Traces: one span per request, a child of the caller's span."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.server.conftest import MODEL, call

from flowbed.server.app import create_app
from flowbed.server.tracing import Tracing
from flowbed.settings import traces_wanted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowbed.services.service import Service

TEXT = "a text that nobody but its author may read"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
VARIABLES = (
    "OTEL_SDK_DISABLED",
    "OTEL_TRACES_EXPORTER",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
)


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(spans: InMemorySpanExporter) -> Iterator[Tracing]:
    opened = Tracing(SimpleSpanProcessor(spans))
    yield opened
    opened.close()


async def test_tracing_request_span_has_route_status_model_and_tokens(
    service: Service, tracing: Tracing, spans: InMemorySpanExporter
) -> None:
    """It continues the caller's trace, and has neither key nor text."""
    _, secret = await service.keys.create("mine", secret=service.bed.secret)
    headers = {
        "content-type": "application/json",
        "authorization": f"Bearer {secret}",
        "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01",
    }
    body = orjson.dumps({"model": MODEL, "input": TEXT})
    reply = await call(create_app(service, tracing=tracing), "POST", "/v1/embeddings", body, headers)
    (span,) = spans.get_finished_spans()
    assert span.name == "POST /v1/embeddings"
    assert f"{span.context.trace_id:032x}" == TRACE
    facts = dict(span.attributes or {})
    assert facts["http.response.status_code"] == 200
    assert facts["http.route"] == "/v1/embeddings"
    assert facts["gen_ai.response.model"] == MODEL
    assert facts["gen_ai.usage.input_tokens"] == reply.json["usage"]["total_tokens"]
    assert facts["flowbed.request_id"] == reply.headers["x-request-id"]
    assert facts["flowbed.provider"] == "seeded"
    assert [event.name for event in span.events] == ["request.sent", "request.answered"]
    assert span.resource.attributes["service.name"] == "flowbed"
    written = span.to_json()
    assert TEXT not in written
    assert secret not in written


async def test_tracing_refused_request_span_has_the_error_code(
    service: Service, tracing: Tracing, spans: InMemorySpanExporter
) -> None:
    app = create_app(service, tracing=tracing)
    await call(app, "GET", "/v1/models", headers={"host": "example.com"})
    await call(app, "POST", "/v1/embeddings", b"{", {"content-type": "application/json"})
    gate, route = (dict(span.attributes or {}) for span in spans.get_finished_spans())
    assert (gate["http.response.status_code"], gate["flowbed.error"]) == (401, "invalid_api_key")
    assert route["http.response.status_code"] == 400


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_traces_wanted_follows_opentelemetrys_variables(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], wanted: bool
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert traces_wanted() is wanted
