"""Rows of a collection by id, filter and position, in the order of their ids, which no compaction changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
import pyarrow as pa

from flowbed.index.datasets import blocking
from flowbed.index.search.filters import to_sql
from flowbed.index.search.nearest import EVERY
from flowbed.index.search.row_cache import vectors_in
from flowbed.records import IndexedText

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from flowbed.index.active_space import Live
    from flowbed.index.datasets import Datasets
    from flowbed.index.native import Dataset

LIVING = "deleted = false"
# Up to this many ids are looked for by SQL; more are compared with all ids at once, which takes a fifth of a µs a row.
LISTED = 100
# Rows read at once: 6 MB of vectors of 384 dimensions. Fewer take longer a row: 3 µs at 1,000, 40 µs at 100.
BLOCK = 4_096


class _Ordered(NamedTuple):
    """The row ids of a version in the order of ids."""

    dataset: Dataset
    row_ids: NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """Rows that were selected in one version; they are read from it even after it was replaced."""

    dataset: Dataset
    row_ids: NDArray[np.uint64]
    collection: str

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.row_ids)

    async def strings(self, column: str, *, first: int) -> list[Any]:
        """Read `id`, `document` or `metadata` (as JSON) of the next `BLOCK` rows; None where a row has none."""
        found: list[Any] = await self._read(column, first, lambda rows: rows[column].to_pylist())
        return found

    async def vectors(self, *, first: int) -> NDArray[np.float32]:
        """Read the vectors of the next `BLOCK` rows: float32 of shape (rows, dimensions)."""
        found: NDArray[np.float32] = await self._read("vector", first, vectors_in)
        return found

    async def _read(self, column: str, first: int, convert: Any) -> Any:
        chosen = self.row_ids[first : first + BLOCK].tolist()

        def read() -> Any:
            return convert(self.dataset.take_rows(chosen, [column]))

        return await blocking(read, f"the index of {self.collection}")


class RowReader:
    """Selects rows of collections; the order of each collection's newest version is kept between selections."""

    def __init__(self, datasets: Datasets) -> None:
        """Read nothing yet."""
        self._datasets = datasets
        self._orders: dict[str, _Ordered] = {}

    async def count(self, live: Live) -> int:
        """Count the rows of the newest version."""

        def counted(dataset: Dataset) -> int:
            order = self._orders.get(live.key)
            if order is not None and order.dataset is dataset:
                return len(order.row_ids)
            return dataset.count_rows(LIVING)

        found = await self._datasets.reading(live, counted)
        return found[0] if found is not None else 0

    async def select(
        self,
        live: Live,
        *,
        ids: Sequence[str] | None = None,
        where: Mapping[str, Any] | None = None,
        offset: int = 0,
        limit: int | None = None,
    ) -> Selection | None:
        """Select the rows that have one of the `ids` and match `where`, in the order of ids; None without a dataset.

        Raises:
            Rejected: the filter is invalid.
        """
        condition = to_sql(where)
        last = None if limit is None else offset + limit

        def selected(dataset: Dataset) -> Selection:
            if ids is None and condition == EVERY:
                found = self._ordered(live, dataset)
            else:
                found = _matching(dataset, ids, condition)
            return Selection(dataset=dataset, row_ids=found[offset:last], collection=live.collection)

        answer = await self._datasets.reading(live, selected)
        return None if answer is None else answer[0]

    def _ordered(self, live: Live, dataset: Dataset) -> NDArray[np.uint64]:
        order = self._orders.get(live.key)
        if order is None or order.dataset is not dataset:
            order = self._orders[live.key] = _Ordered(dataset, _matching(dataset, None, EVERY))
        return order.row_ids


async def indexed_texts(rows: Selection) -> tuple[IndexedText, ...]:
    """Read the ids, texts and metadata of selected rows, in their order."""
    names = await rows.strings("id", first=0)
    documents = await rows.strings("document", first=0)
    metadatas = await rows.strings("metadata", first=0)
    return tuple(
        IndexedText(
            id=name,
            document=document or "",
            metadata=orjson.loads(metadata) if metadata else {},
            collection=rows.collection,
        )
        for name, document, metadata in zip(names, documents, metadatas, strict=True)
    )


def condition_of(ids: Sequence[str]) -> str:
    """Write the condition that a row has one of these ids."""
    return f"id IN ({', '.join(map(_quoted, ids))})" if ids else "false"


def _matching(dataset: Dataset, ids: Sequence[str] | None, condition: str) -> NDArray[np.uint64]:
    """Return the row ids of the matching rows in the order of their ids."""
    import pyarrow.compute as pc  # which a first search does without

    conditions = [LIVING, *(() if condition == EVERY else (condition,))]
    many = ids is not None and len(ids) > LISTED
    if ids is not None and not many:
        conditions.append(condition_of(ids))
    scanner = dataset.scanner(columns=["id"], filter=" AND ".join(conditions), with_row_id=True)
    rows = scanner.to_pyarrow().read_all()
    if many:
        rows = rows.filter(pc.is_in(rows["id"], pa.array(ids, pa.string())))
    order = pc.sort_indices(rows["id"])
    row_ids: NDArray[np.uint64] = rows["_rowid"].take(order).to_numpy()
    return row_ids


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
