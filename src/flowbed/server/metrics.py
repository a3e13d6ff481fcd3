"""GET /metrics: counters and states of the server in the format of Prometheus."""

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING, Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector

from flowbed import telemetry
from flowbed.errors import Error
from flowbed.ledger.workers import HoldsWorkers
from flowbed.server.http.responses import RawResponse
from flowbed.settings import shared_counts
from flowbed.workers.depths import depths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.core import Metric

    from flowbed.server.http.gate import Load
    from flowbed.server.http.request_context import RequestContext
    from flowbed.services.models import Models
    from flowbed.services.service import Service

# Seconds: from a cached text, under a millisecond, to a slow provider.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
CONTENT_TYPE = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
# Unknown paths share one label: labels that callers can choose would grow without bound.
UNMATCHED = "unmatched"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Seconds for which what waits is not read again: the ledger is asked for all of it.
FRESH = 5.0
# Time (µs) after which a worker that says nothing is shown as silent: the default of `dead_seconds`.
SILENT_US = 10_000_000
STATES = {"closed": 0, "half_open": 1, "open": 2}

# Creation times add nothing: every counter starts with the process.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """Counters of one server. A watcher of the gate: called with the context of each finished request."""

    def __init__(self, service: Service, load: Load) -> None:
        """Start at zero."""
        self._own = CollectorRegistry()
        self._own.register(_ScrapeCollector(service.models, load))
        self._counted = registry = CollectorRegistry()
        self._requests = Counter(
            "flowbed_http_requests", "Requests answered.", ("route", "method", "status"), registry=registry
        )
        self._seconds = Histogram(
            "flowbed_http_request_seconds",
            "Seconds from the head of a request to the end of its answer.",
            ("route",),
            buckets=BUCKETS,
            registry=registry,
        )
        self._inputs = Counter(
            "flowbed_embedding_inputs",
            "Inputs answered, from the cache or by a provider.",
            ("model", "provider", "source"),
            registry=registry,
        )
        self._tokens = Counter(
            "flowbed_embedding_tokens",
            "Tokens of the inputs answered.",
            ("model", "provider"),
            registry=registry,
        )
        # Looking up a child by its labels costs more than counting with it.
        self._by_answer: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._by_model: dict[tuple[str, str], tuple[Counter, Counter, Counter]] = {}
        self._points = _points(registry)
        lines = Counter(
            "flowbed_batch_lines",
            "Lines of batches that were answered or failed.",
            ("outcome",),
            registry=registry,
        )
        self._completed, self._failed = lines.labels("completed"), lines.labels("failed")
        self._service = service
        self._looked, self._waiting = float("-inf"), CollectorRegistry()

    def __call__(self, context: RequestContext) -> None:
        """Count a finished request."""
        answer = (context.route, context.method if context.method in METHODS else "other", context.status)
        if answer not in self._by_answer:
            self._by_answer[answer] = self._answers(*answer)
        requests, seconds = self._by_answer[answer]
        requests.inc()
        seconds.observe(context.seconds)
        result = context.result
        if result is not None:
            model = (result.model, result.provider)
            if model not in self._by_model:
                self._by_model[model] = self._models(*model)
            cached, sent, tokens = self._by_model[model]
            cached.inc(result.cached)
            sent.inc(len(result.vectors) - result.cached)
            tokens.inc(result.tokens)

    def count(self, point: str, facts: dict[str, Any]) -> None:
        """Count an event of the embedding wrappers; a listener of `telemetry`."""
        if (counted := self._points.get(point)) is not None:
            counted(facts)

    def lines(self, completed: int, failed: int) -> None:
        """Count lines of batches."""
        self._completed.inc(completed)
        self._failed.inc(failed)

    async def endpoint(self) -> RawResponse:
        """Write all metrics: requests of all workers, caches and breakers of the worker that answers."""
        counted = self._counted
        if folder := shared_counts():
            counted = CollectorRegistry()
            MultiProcessCollector(counted, folder)  # type: ignore[no-untyped-call]
        registries = (self._own, counted, await self._jobs(), await self._work())
        parts = [generate_latest(each) for each in registries]
        return RawResponse(b"".join(parts), [CONTENT_TYPE])

    async def _jobs(self) -> CollectorRegistry:
        """Return the batches of all servers of the project; empty if the ledger does not answer."""
        registry = CollectorRegistry()
        gauge = Gauge("flowbed_batches", "Batches that have not ended.", ("state",), registry=registry)
        try:
            for state, count in (await self._service.jobs.counts()).items():
                gauge.labels(state).set(count)
        except Error as error:
            telemetry.log.warning("cannot count batches: %s", error)
        return registry

    async def _work(self) -> CollectorRegistry:
        """Return what waits for workers, and the workers: for those who scale them. Empty without the ledger."""
        now = time.monotonic()
        if now - self._looked < FRESH:
            return self._waiting
        registry = CollectorRegistry()
        depth = Gauge("flowbed_queue_depth", "Tasks that nobody holds.", ("queue",), registry=registry)
        oldest = Gauge(
            "flowbed_queue_oldest_seconds", "Seconds the oldest has waited.", ("queue",), registry=registry
        )
        ledger = self._service.bed.ledger
        try:
            for queue, found in (await depths(ledger, now=self._service.bed.clock())).items():
                depth.labels(queue).set(found.waiting)
                oldest.labels(queue).set(found.oldest_seconds)
            if isinstance(ledger, HoldsWorkers):
                workers = Gauge("flowbed_workers", "Workers by state.", ("state",), registry=registry)
                states = [
                    "silent" if row.silent > SILENT_US else row.state for row in await ledger.workers.all()
                ]
                for state in ("running", "draining", "silent"):
                    workers.labels(state).set(states.count(state))
        except Error as error:
            telemetry.log.warning("cannot count what waits: %s", error)
        self._looked, self._waiting = now, registry
        return registry

    def _answers(self, route: str, method: str, status: int) -> tuple[Counter, Histogram]:
        route = route or UNMATCHED
        return self._requests.labels(route, method, str(status)), self._seconds.labels(route)

    def _models(self, model: str, provider: str) -> tuple[Counter, Counter, Counter]:
        return (
            self._inputs.labels(model, provider, "cache"),
            self._inputs.labels(model, provider, "provider"),
            self._tokens.labels(model, provider),
        )


def _points(registry: CollectorRegistry) -> dict[str, Callable[[dict[str, Any]], None]]:
    """Return the counter of each telemetry event."""
    failed = Counter(
        "flowbed_fallback",
        "Calls passed on to a fallback after this provider failed.",
        ("provider",),
        registry=registry,
    )
    waited = Histogram(
        "flowbed_limit_wait_seconds",
        "Seconds that calls waited for a provider's rate limit.",
        ("limit",),
        buckets=BUCKETS,
        registry=registry,
    )
    joined = Counter(
        "flowbed_coalesced_calls", "Calls sent through coalescing, joined or alone.", registry=registry
    )
    joint = Counter("flowbed_coalesced_batches", "Model calls that they were joined into.", registry=registry)
    sent = Counter("flowbed_provider_requests", "Calls of a model.", ("model",), registry=registry)
    billed = Counter("flowbed_provider_tokens", "Tokens billed.", ("model",), registry=registry)
    cost = Counter(
        "flowbed_cost_usd", "Cost of the billed tokens in US dollars.", ("model",), registry=registry
    )

    def coalesced(facts: dict[str, Any]) -> None:
        joined.inc(facts["calls"])
        joint.inc()

    @cache  # one entry per model; looking up a child by its labels costs more than counting with it
    def of(model: str) -> tuple[Counter, Counter, Counter]:
        return sent.labels(model), billed.labels(model), cost.labels(model)

    def answered(facts: dict[str, Any]) -> None:
        calls, tokens, dollars = of(facts.get("model", ""))
        calls.inc()
        tokens.inc(facts.get("tokens", 0))
        dollars.inc(facts.get("tokens", 0) * facts.get("price", 0.0) / 1e6)

    return {
        telemetry.FALLBACK: lambda facts: failed.labels(facts["provider"]).inc(),
        telemetry.LIMITED: lambda facts: waited.labels(facts["name"]).observe(facts["seconds"]),
        telemetry.COALESCED: coalesced,
        telemetry.REQUEST_ANSWERED: answered,
    }


class _ScrapeCollector:
    """Metrics that are read at each scrape instead of being counted."""

    def __init__(self, models: Models, load: Load) -> None:
        self._models, self._load = models, load

    def collect(self) -> Iterator[Metric]:
        """Report breakers and caches."""
        yield GaugeMetricFamily(
            "flowbed_http_requests_in_progress", "Requests being answered.", value=self._load.busy
        )
        state = GaugeMetricFamily(
            "flowbed_breaker_state",
            "0 closed, 1 half open, 2 open (the provider is not used).",
            labels=["name"],
        )
        opened = CounterMetricFamily(
            "flowbed_breaker_opened", "Times that a provider was found down.", labels=["name"]
        )
        for breaker in self._models.breakers():
            state.add_metric([breaker.name], STATES[breaker.state.value])
            opened.add_metric([breaker.name], breaker.opened)
        yield state
        yield opened
        waiting = GaugeMetricFamily(
            "flowbed_coalesced_waiting", "Texts that wait for a model.", labels=["name"]
        )
        for name, texts in self._models.waiting().items():
            waiting.add_metric([name], texts)
        yield waiting
        yield from self._caches()

    def _caches(self) -> Iterator[Metric]:
        lookups = CounterMetricFamily(
            "flowbed_cache_lookups", "Vectors looked for in the cache.", labels=["model", "tier", "result"]
        )
        vectors = GaugeMetricFamily("flowbed_cache_vectors", "Vectors in a tier.", labels=["tier"])
        size = GaugeMetricFamily("flowbed_cache_bytes", "Bytes in a tier.", labels=["tier"])
        held = {}
        for tier in self._models.caches():
            lookups.add_metric([tier.model, tier.tier, "hit"], tier.hits)
            lookups.add_metric([tier.model, tier.tier, "miss"], tier.misses)
            if tier.vectors is not None and tier.bytes is not None:
                held[tier.tier] = tier.vectors, tier.bytes
        for name, (count, total) in held.items():
            vectors.add_metric([name], count)
            size.add_metric([name], total)
        yield lookups
        yield vectors
        yield size
