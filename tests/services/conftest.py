"""A project to serve, whose models answer or fail as a test decides."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flowbed.embedding.stack import Stack
from flowbed.errors import Misconfigured
from flowbed.index.datasets import Datasets
from flowbed.index.search.fields import Fields
from flowbed.index.search.reader import IndexReader
from flowbed.ledger import open_ledger
from flowbed.publish import PublishReport
from flowbed.records import Report, SearchResults
from flowbed.records.serving import Serving
from flowbed.services.keys import KeyService
from flowbed.services.service import open_service
from flowbed.storage import open_store
from flowbed.testing.clock import FixedClock
from flowbed.testing.embedder import Seeded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from flowbed.embedding.cache.tiers import VectorTier
    from flowbed.events.replay import Replayed
    from flowbed.lanes.contexts import RunContext
    from flowbed.ledger import Ledger
    from flowbed.records import Embedded, Purpose
    from flowbed.records.events import Handled
    from flowbed.records.precomputed import Ingested, PrecomputedRows
    from flowbed.services.documents.steps import DocumentSteps
    from flowbed.services.service import Service
    from flowbed.storage import Store


RERANKED = 50  # tokens that a search with a reranker reads


class Provider(Seeded):
    """A seeded embedder that raises `failure` while it is set, and records the texts it receives."""

    def __init__(self, dimensions: int, *, model: str = "", matryoshka: bool = False) -> None:
        super().__init__(dimensions)
        self.space = replace(self.space, model=model or self.space.model)
        self.matryoshka = matryoshka
        self.failure: Exception | None = None
        self.sent: list[str] = []

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Embedded:
        self.sent += texts
        if self.failure is not None:
            raise self.failure
        return await super().embed(texts, purpose=purpose)


@dataclass
class Project:
    """The part of a project that services use, in memory."""

    ledger: Ledger
    serving: Serving
    providers: dict[str, Provider]
    store: Store = field(default_factory=lambda: open_store("memory://", folder=Path()))
    ended: set[str] = field(default_factory=set)  # processes that have ended
    now: FixedClock = field(default_factory=FixedClock)
    queries: list[Any] = field(default_factory=list)
    secrets: int = 0
    views: Any = None

    @property
    def model(self) -> str:
        return next(iter(self.providers))

    def run_context(self) -> RunContext:
        raise NotImplementedError("this project has no pipeline")

    async def publish_due(self) -> PublishReport:
        return PublishReport()

    def keys(self) -> KeyService:
        return KeyService(
            self.ledger.keys,
            store=self.store,
            tiers=self.serving.tiers,
            clock=self.now,
            monotonic=self.seconds,
        )

    def clock(self) -> int:
        return self.now()

    def seconds(self) -> float:
        return self.now() / 1e6

    def secret(self) -> str:
        self.secrets += 1
        return f"{self.secrets:043}"

    def reader(self) -> IndexReader:
        return IndexReader(self.store, Datasets(self.store), monotonic=self.seconds)

    def worker(self) -> str:
        self.secrets += 1
        return f"worker {self.secrets}"

    def dead(self, name: str) -> bool:
        return name in self.ended

    async def open_model(self, model: str) -> Provider:
        if model not in self.providers:
            raise Misconfigured(f"no provider {model}")
        return self.providers[model]

    def embedder_stack(self) -> Stack:
        return Stack(account=lambda model: model)

    def vector_tiers(self) -> list[VectorTier]:
        return []

    def document_steps(self) -> DocumentSteps:
        raise NotImplementedError

    async def write_rows(self, collection: str, rows: PrecomputedRows, **how: Any) -> Ingested:
        raise NotImplementedError

    async def take_in(self, event: bytes) -> Handled:
        raise NotImplementedError

    async def replay(self, **which: str) -> Replayed:
        raise NotImplementedError

    async def embed_waiting(self) -> Report:
        raise NotImplementedError

    async def fields(self, collection: str, **how: Any) -> Fields:
        return Fields(collection=collection, version=1, rows=0, read=0, fields=())

    async def find(self, query: Any, **how: Any) -> SearchResults:
        self.queries.append((query, how))
        return SearchResults(hits=(), versions={}, reranked_tokens=RERANKED if how.get("rerank") else 0)


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    opened = await open_ledger(":memory:", folder=tmp_path, new_id="0" * 32)
    yield opened
    await opened.close()


@pytest.fixture
def project(ledger: Ledger) -> Project:
    """A project with one model, `first:small` of 64 dimensions."""
    providers = {"first:small": Provider(64, model="small")}
    return Project(ledger, Serving(models=("first:small",)), providers)


@pytest.fixture
def opened(project: Project) -> Callable[..., AbstractAsyncContextManager[Service]]:
    """Open the services of the project, optionally with other settings."""

    def open_it(**settings: Any) -> AbstractAsyncContextManager[Service]:
        project.serving = replace(project.serving, **settings)
        return open_service(project)

    return open_it
