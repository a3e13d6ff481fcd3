"""Reads the collections of a store; rows and pointers that were read stay in memory from one read to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbed.errors import Rejected
from flowbed.index.active_space import RecentSpaces, live_collections
from flowbed.index.search.filters import to_sql
from flowbed.index.search.nearest import EVERY, Query, find_nearest
from flowbed.index.search.row_cache import RowCache
from flowbed.index.search.rows import RowReader, condition_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from flowbed.index.active_space import Live
    from flowbed.index.datasets import Datasets
    from flowbed.index.native import Dataset
    from flowbed.index.search.nearest import Metric, Nearest
    from flowbed.storage import Store

MOST = 10_000  # rows near one vector; more is an export, not a search


class IndexReader:
    """The collections of one store, for searches and readers of rows in this process."""

    def __init__(self, store: Store, datasets: Datasets, *, monotonic: Callable[[], float]) -> None:
        """Read nothing yet; `monotonic` returns seconds."""
        self._store, self.datasets = store, datasets
        self.cache, self.recent = RowCache(), RecentSpaces(store, monotonic=monotonic)
        self.rows = RowReader(datasets)

    async def live(self, collection: str) -> Live | None:
        """Return the live space of a collection, as it was at most a second ago; None if there is none."""
        return await self.recent.get(collection)

    async def collections(self) -> list[Live]:
        """Return the live space of every collection that has one, by name."""
        return await live_collections(self._store)

    async def nearest(
        self,
        live: Live,
        vectors: NDArray[np.float32],
        *,
        ids: Sequence[str] | None = None,
        where: Mapping[str, Any] | None = None,
        limit: int = 10,
        metric: Metric = "cosine",
    ) -> list[Nearest]:
        """Find the `limit` rows nearest to each of `vectors`, which is float32 of shape (queries, dimensions).

        Only rows that have one of the `ids` and match `where` are considered.

        Raises:
            Rejected: the filter is invalid, or more than `MOST` rows are asked for and there.
        """
        conditions = [to_sql(where), *([] if ids is None else [condition_of(ids)])]
        condition = " AND ".join(each for each in conditions if each != EVERY) or EVERY

        def find(dataset: Dataset) -> list[Nearest]:
            most = min(limit, dataset.count_rows())
            if most > MOST:
                raise Rejected(f"{limit:,} rows near one vector are asked for; ask for at most {MOST:,}")
            queries = [
                Query(
                    vector=vector,
                    condition=condition if most else "false",
                    limit=max(1, most),
                    metric=metric,
                    normalized=live.space.normalized,
                )
                for vector in vectors
            ]
            view = self.cache.view(live, dataset)
            found = find_nearest(view, queries)
            self.cache.fill(view)
            return found

        answer = await self.datasets.reading(live, find)
        return [] if answer is None else answer[0]
