"""What a step works with: four records, each of which says what its holder can touch.

Context       the store, the ledger and the clock
ModelContext  and the model: enough to plan, find and submit, and it loads no index
IndexContext  and the index: enough to commit, compact, roll back and repair
RunContext    everything
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbed.embedding.batch_api import BatchApi
    from flowbed.embedding.cache.cached import Cached
    from flowbed.index.active_space import Collections
    from flowbed.index.datasets import Datasets
    from flowbed.index.retention import Retention
    from flowbed.lanes.budget import Budget
    from flowbed.ledger import Ledger
    from flowbed.storage import Store


@dataclass(frozen=True, kw_only=True)
class Context:
    """The store, the ledger, and who is at work.

    `worker` names this piece of work in claims and leases, and `dead` tells whether a worker is known to have ended.
    `clock` returns microseconds since 1970, `monotonic` seconds. `sources` are the names of all sources of the project,
    `collections` the spaces that are live.
    """

    store: Store
    ledger: Ledger
    clock: Callable[[], int]
    monotonic: Callable[[], float]
    dead: Callable[[str], bool]
    worker: str
    sources: frozenset[str]
    collections: Collections


@dataclass(frozen=True, kw_only=True)
class ModelContext(Context):
    """A context with the model.

    `embedder` opens the model when first called, `batch_api` the Batch API of its provider, None where it has none.
    `new_id` returns 24 unique hex digits. `budget` limits what requests may cost, None where nothing does.
    """

    embedder: Callable[[], Cached]
    batch_api: Callable[[], BatchApi | None]
    new_id: Callable[[], str]
    budget: Budget | None = None


@dataclass(frozen=True, kw_only=True)
class IndexContext(Context):
    """A context with the index; `retention` says which old versions compaction keeps, None for the default."""

    datasets: Datasets
    retention: Retention | None = None


@dataclass(frozen=True, kw_only=True)
class RunContext(ModelContext, IndexContext):
    """Everything that a run needs; at most `concurrency` requests are in flight at once."""

    concurrency: int
