"""What the steps of a lane work with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbed.embedding.batch_api import BatchApi
    from flowbed.embedding.cache.cached import Cached
    from flowbed.index.compaction import Retention
    from flowbed.index.datasets import Datasets
    from flowbed.lanes.budget import Budget
    from flowbed.ledger import Ledger
    from flowbed.storage import Store


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The opened parts of a bed that the pipeline works with.

    `embedder` opens the model when it is first called, and `jobs` its provider's Batch API, None where there is none;
    `dead` tells whether a worker is known to have ended. `new_id` makes 24 hex digits that nothing else has.
    `sources` names all that the project has.
    `clock` is microseconds since 1970, `monotonic` seconds. `budget` is what requests may cost, where that is limited;
    `retention` which old versions compaction keeps, where that was set.
    """

    store: Store
    ledger: Ledger
    datasets: Datasets
    embedder: Callable[[], Cached]
    jobs: Callable[[], BatchApi | None]
    new_id: Callable[[], str]
    clock: Callable[[], int]
    monotonic: Callable[[], float]
    dead: Callable[[str], bool]
    worker: str
    concurrency: int
    sources: frozenset[str]
    budget: Budget | None = None
    retention: Retention | None = None
