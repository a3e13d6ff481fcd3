"""GET /metrics: what the server has done and how its parts are, as Prometheus reads it."""

from __future__ import annotations

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
from flowbed.server.http.responses import Answer
from flowbed.settings import shared_counts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.core import Metric

    from flowbed.server.http.gate import Load
    from flowbed.server.http.request_context import Exchange
    from flowbed.services.models import Models
    from flowbed.services.service import Service

# Seconds: from a cached text, which takes less than a millisecond, to a provider that is slow.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
CONTENT_TYPE = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
# Requests to paths that do not exist count as one: labels that callers can choose would grow without end.
UNMATCHED = "unmatched"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
STATES = {"closed": 0, "half_open": 1, "open": 2}

# When a counter began is of no use where all began with the process.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """What one server counts. A watcher of the gate: it is called with every exchange that has ended."""

    def __init__(self, service: Service, load: Load) -> None:
        """Begin at zero."""
        self._own = CollectorRegistry()
        self._own.register(_Parts(service.models, load))
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
            "Inputs whose vectors were given, from the cache or from a provider.",
            ("model", "provider", "source"),
            registry=registry,
        )
        self._tokens = Counter(
            "flowbed_embedding_tokens",
            "Tokens of the inputs whose vectors were given.",
            ("model", "provider"),
            registry=registry,
        )
        # Finding a child by its labels costs more than counting with it.
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

    def __call__(self, exchange: Exchange) -> None:
        """Count a request that was answered."""
        answer = (exchange.route, exchange.method if exchange.method in METHODS else "other", exchange.status)
        if answer not in self._by_answer:
            self._by_answer[answer] = self._answers(*answer)
        requests, seconds = self._by_answer[answer]
        requests.inc()
        seconds.observe(exchange.seconds)
        answered = exchange.answered
        if answered is not None:
            model = (answered.model, answered.provider)
            if model not in self._by_model:
                self._by_model[model] = self._models(*model)
            cached, sent, tokens = self._by_model[model]
            cached.inc(answered.cached)
            sent.inc(len(answered.vectors) - answered.cached)
            tokens.inc(answered.tokens)

    def count(self, point: str, facts: dict[str, Any]) -> None:
        """Count what wrappers of embedders report; a listener of `telemetry`."""
        if (counted := self._points.get(point)) is not None:
            counted(facts)

    def lines(self, completed: int, failed: int) -> None:
        """Count lines of batches."""
        self._completed.inc(completed)
        self._failed.inc(failed)

    async def endpoint(self) -> Answer:
        """Show what is counted: requests by all workers together, caches and breakers of the one that answers."""
        counted = self._counted
        if folder := shared_counts():
            counted = CollectorRegistry()
            MultiProcessCollector(counted, folder)  # type: ignore[no-untyped-call]
        parts = [generate_latest(each) for each in (self._own, counted, await self._jobs())]
        return Answer(b"".join(parts), [CONTENT_TYPE])

    async def _jobs(self) -> CollectorRegistry:
        """Show the batches of all servers of the project, unless the ledger does not answer."""
        registry = CollectorRegistry()
        gauge = Gauge("flowbed_batches", "Batches that have not ended.", ("state",), registry=registry)
        try:
            for state, count in (await self._service.jobs.counts()).items():
                gauge.labels(state).set(count)
        except Error as error:
            telemetry.log.warning("batches are not counted: %s", error)
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
    """Say what is counted of each point that wrappers report."""
    failed = Counter(
        "flowbed_fallback", "Calls that another provider was asked for.", ("provider",), registry=registry
    )
    waited = Histogram(
        "flowbed_limit_wait_seconds",
        "Seconds that calls waited for room under a provider's rate limit.",
        ("limit",),
        buckets=BUCKETS,
        registry=registry,
    )
    joined = Counter("flowbed_coalesced_calls", "Calls that waited for a model.", registry=registry)
    joint = Counter("flowbed_coalesced_batches", "Calls of it that they were joined into.", registry=registry)
    restarted = Counter(
        "flowbed_model_restarts", "Model processes that had died.", ("model",), registry=registry
    )
    sent = Counter("flowbed_provider_requests", "Calls of a model.", ("model",), registry=registry)
    tokens = Counter("flowbed_provider_tokens", "Tokens billed.", ("model",), registry=registry)
    cost = Counter(
        "flowbed_cost_usd", "What tokens were billed with, in US dollars.", ("model",), registry=registry
    )

    def coalesced(facts: dict[str, Any]) -> None:
        joined.inc(facts["calls"])
        joint.inc()

    @cache  # as many as there are models; finding a child by its labels costs more than counting with it
    def of(model: str) -> tuple[Counter, Counter, Counter]:
        return sent.labels(model), tokens.labels(model), cost.labels(model)

    def answered(facts: dict[str, Any]) -> None:
        calls, told, dollars = of(facts.get("model", ""))
        calls.inc()
        told.inc(facts.get("tokens", 0))
        dollars.inc(facts.get("tokens", 0) * facts.get("price", 0.0) / 1e6)

    return {
        telemetry.FALLBACK: lambda facts: failed.labels(facts["provider"]).inc(),
        telemetry.LIMITED: lambda facts: waited.labels(facts["name"]).observe(facts["seconds"]),
        telemetry.COALESCED: coalesced,
        telemetry.WORKER_RESTARTED: lambda facts: restarted.labels(facts["model"]).inc(),
        telemetry.REQUEST_ANSWERED: answered,
    }


class _Parts:
    """What is known at each scrape without being counted here."""

    def __init__(self, models: Models, load: Load) -> None:
        self._models, self._load = models, load

    def collect(self) -> Iterator[Metric]:
        """Tell how breakers and caches are."""
        yield GaugeMetricFamily(
            "flowbed_http_requests_in_progress", "Requests being answered.", value=self._load.busy
        )
        state = GaugeMetricFamily(
            "flowbed_breaker_state",
            "0 closed, 1 half open, 2 open: the provider is not asked.",
            labels=["name"],
        )
        opened = CounterMetricFamily(
            "flowbed_breaker_opened", "Times that a provider was found to be down.", labels=["name"]
        )
        for breaker in self._models.breakers():
            state.add_metric([breaker.name], STATES[breaker.state.value])
            opened.add_metric([breaker.name], breaker.opened)
        yield state
        yield opened
        waiting = GaugeMetricFamily(
            "flowbed_coalesced_waiting", "Texts that wait for a model to be free.", labels=["name"]
        )
        for name, texts in self._models.waiting().items():
            waiting.add_metric([name], texts)
        yield waiting
        yield from self._caches()

    def _caches(self) -> Iterator[Metric]:
        lookups = CounterMetricFamily(
            "flowbed_cache_lookups", "Vectors looked for in the cache.", labels=["model", "tier", "result"]
        )
        vectors = GaugeMetricFamily("flowbed_cache_vectors", "Vectors that a tier holds.", labels=["tier"])
        size = GaugeMetricFamily("flowbed_cache_bytes", "Bytes that a tier holds.", labels=["tier"])
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
