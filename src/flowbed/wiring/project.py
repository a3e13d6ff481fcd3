"""An open project: what was opened for it, joined."""

from __future__ import annotations

import secrets
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, NoReturn, Self

from flowbed import settings
from flowbed.errors import Rejected
from flowbed.index.active_space import Live, require_collection
from flowbed.index.datasets import Datasets
from flowbed.wiring import opening, process
from flowbed.wiring.contexts import run_context
from flowbed.wiring.models import Embedders

if TYPE_CHECKING:
    from pathlib import Path

    from flowbed.embedding import Embedder
    from flowbed.embedding.cache.tiers import VectorTier
    from flowbed.embedding.stack import Stack
    from flowbed.index.search.reader import IndexReader
    from flowbed.lanes.budget import Budget
    from flowbed.lanes.contexts import RunContext
    from flowbed.ledger import Ledger
    from flowbed.publish import PublishContext, PublishReport
    from flowbed.records.serving import Serving
    from flowbed.services.documents.steps import DocumentSteps
    from flowbed.services.keys import KeyService
    from flowbed.storage import Store
    from flowbed.wiring.search import Searcher


class Closed:
    """Takes the place of each part of a closed project, so that a late call opens nothing again."""

    def __getattr__(self, name: str) -> NoReturn:
        """Refuse any use.

        Raises:
            Rejected: always.
        """
        raise Rejected("this project is closed; open it again with flowbed.open() or flowbed.aopen()")


class OpenProject:
    """The parts of an open project, and what services outside the pipeline use of them (`services.project.Project`)."""

    def __init__(self, folder: Path, config: settings.Settings, store: Store, ledger: Ledger) -> None:
        """Join what was opened; use `flowbed.aopen` to open a project."""
        self.folder = folder
        self.settings = config
        self._store, self._ledger = store, ledger
        self._datasets = Datasets(store)
        self._embedders = Embedders(folder, config, hidden=folder / opening.HIDDEN)
        self._searcher: Searcher | None = None
        self._reader: IndexReader | None = None
        self.rebound = ""  # what a repair of the ledger and of its binding to the store changed

    async def __aenter__(self) -> Self:
        """Use the project as a context."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the project."""
        await self.close()

    async def close(self) -> None:
        """Close files, connections and databases; later calls raise Rejected, but closing twice is allowed."""
        if isinstance(self._ledger, Closed):
            return
        embedders, ledger, searcher = self._embedders, self._ledger, self._searcher
        gone: Any = Closed()
        self._store = self._ledger = self._datasets = self._embedders = gone
        self._searcher = self._reader = gone
        async with AsyncExitStack() as closing:  # each is closed, whatever happens to the others
            closing.push_async_callback(ledger.close)
            if searcher is not None:
                closing.push_async_callback(searcher.aclose)
            await embedders.close()

    @property
    def model(self) -> str:
        """The model that collections are searched with, as vendor:model."""
        return self.settings.model

    @property
    def ledger(self) -> Ledger:
        """The project's ledger, for services outside the pipeline."""
        return self._ledger

    @property
    def store(self) -> Store:
        """The project's store, for services outside the pipeline."""
        return self._store

    def reader(self) -> IndexReader:
        """Return what reads the project's collections, created on first use."""
        if self._reader is None:
            from flowbed.index.search.reader import IndexReader

            self._reader = IndexReader(self._store, self._datasets, monotonic=time.monotonic)
        return self._reader

    def worker(self) -> str:
        """Return a new worker name, by which other processes can tell whether this one still runs."""
        return process.worker()

    def dead(self, name: str) -> bool:
        """Return whether the process of a worker is known to have ended."""
        return process.dead(name)

    @property
    def serving(self) -> Serving:
        """The settings of the server."""
        return settings.serving(self.settings)

    def keys(self) -> KeyService:
        """Return the service that creates, lists and revokes API keys."""
        from flowbed.services.keys import KeyService

        serving = self.serving
        return KeyService(
            self._ledger.keys,
            store=self._store,
            tiers=serving.tiers,
            models=serving.names(self.settings.model),
            clock=process.now,
        )

    def monotonic(self) -> float:
        """Return seconds of a clock that never goes back."""
        return time.monotonic()

    def clock(self) -> int:
        """Return the time in microseconds since 1970."""
        return process.now()

    def secret(self) -> str:
        """Return 32 random bytes as 43 characters that are valid in an HTTP header."""
        return secrets.token_urlsafe(32)

    async def open_model(self, model: str) -> Embedder:
        """Return the embedder of `model` (vendor:model) without a cache, opened on first use.

        Raises:
            Misconfigured: it cannot be opened.
        """
        return await self._embedders.open(model)

    def embedder_stack(self) -> Stack:
        """Return what builds the wrappers around this process's models."""
        return self._embedders.stack()

    def run_context(self) -> RunContext:
        """Return what a piece of work needs, under a new worker's name."""
        return self._context()

    def vector_tiers(self) -> list[VectorTier]:
        """Return the tiers of the vector cache that processes share."""
        return self._embedders.shared_tiers()

    def document_steps(self) -> DocumentSteps:
        """Return the steps by which documents are written one by one, for a piece of work of its own."""
        from flowbed.services.documents.steps import DocumentSteps

        return DocumentSteps(self._context())

    async def bind_store(self, *, again: bool = False) -> None:
        """Bind the store to the ledger, or check that it is bound; `again` binds it even if another ledger had it.

        Raises:
            Misconfigured: the store belongs to another ledger.
        """
        from flowbed.maintenance.key_mark import lost_keys
        from flowbed.maintenance.store_binding import bind, rebind

        if again:
            done = [self.rebound, await rebind(self._store, self._ledger)]
            if await lost_keys(self._store, self._ledger.keys):
                done.append("its API keys are lost: `flowbed keys create NAME` creates new ones")
            self.rebound = "; ".join(filter(None, done))
        else:
            await bind(self._store, self._ledger, **self._names())

    async def _live(self, collection: str) -> Live:
        return await require_collection(self._store, collection)

    def _names(self) -> dict[str, str]:
        # The ledger's location shows no password.
        return {"store_name": self.settings.store, "ledger_name": self._ledger.location}

    def _context(self, budget: Budget | None = None) -> RunContext:
        return run_context(
            self.settings,
            folder=self.folder,
            store=self._store,
            ledger=self._ledger,
            datasets=self._datasets,
            embedders=self._embedders,
            budget=budget,
        )

    async def publish_due(self) -> PublishReport:
        """Publish what is due: to be called after a commit."""
        from flowbed.publish import PublishReport

        if not self.settings.publish:
            return PublishReport()
        from flowbed.publish.due import publish_due
        from flowbed.wiring.publications import configured

        return await publish_due(configured(self.settings), self._publish_context)

    def _publish_context(self, name: str) -> PublishContext:
        from flowbed.wiring.publications import publish_context

        hidden = self.folder / opening.HIDDEN
        return publish_context(name, hidden=hidden, store=self._store, datasets=self._datasets)
