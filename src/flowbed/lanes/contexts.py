"""What a step works with: four records, so that a signature says what a function can touch.

Context       store, ledger, clock
ModelContext  and the model: plans, finds and submits work, without loading an index
IndexContext  and the index: commits, compacts, rolls back and repairs
RunContext    all of them
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import pyarrow as pa

    from flowbed.embedding.batch_api import BatchApi
    from flowbed.embedding.cache.cached import Cached
    from flowbed.index.active_space import Collections
    from flowbed.index.datasets import Datasets
    from flowbed.index.lease import LeaseTimes
    from flowbed.index.versions.retention import Retention
    from flowbed.lanes.budget import Budget
    from flowbed.ledger import Ledger
    from flowbed.storage import Store


@dataclass(frozen=True, kw_only=True)
class Context:
    """The store, the ledger, the clock and the worker.

    `worker` names this piece of work in claims and leases; `dead` returns whether a worker is known to have ended.
    `clock` returns microseconds since 1970, `monotonic` seconds. `sources` are the names of the configured sources,
    `collections` the live space of each collection. With `compress_batches` new batch files are compressed.
    """

    store: Store
    ledger: Ledger
    clock: Callable[[], int]
    monotonic: Callable[[], float]
    dead: Callable[[str], bool]
    worker: str
    sources: frozenset[str]
    collections: Collections
    compress_batches: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelContext(Context):
    """A context with the model.

    `embedder` opens the model on first use, `batch_api` its provider's Batch API (None without one). `new_id` returns
    24 unique hex digits. `budget` limits the cost of requests; None is no limit.
    """

    embedder: Callable[[], Cached]
    batch_api: Callable[[], BatchApi | None]
    new_id: Callable[[], str]
    budget: Budget | None = None


@dataclass(frozen=True, kw_only=True)
class IndexContext(Context):
    """A context with the index; `retention` says which old versions compaction keeps (None: the default).

    A commit merges at most `commit_deltas` deltas at a time; `lease` are the times of maintenance leases. `also_write`,
    where set, writes the rows of a run (collection, run id, table) in another form too, before the run is recorded.
    Without `commits`, deltas are written and left to a commit by another process.
    """

    datasets: Datasets
    retention: Retention | None = None
    full_text: bool = False
    commit_deltas: int = 10
    lease: LeaseTimes | None = None
    also_write: Callable[[str, str, pa.Table], Awaitable[None]] | None = None
    commits: bool = True


@dataclass(frozen=True, kw_only=True)
class RunContext(ModelContext, IndexContext):
    """All that a run needs; `concurrency` is the maximum number of requests in flight."""

    concurrency: int
