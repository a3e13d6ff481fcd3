"""The rows around a row: what its document says before and after it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from flowbed.errors import NotFound, Rejected
from flowbed.index.search.rows import RowReader, indexed_texts
from flowbed.records import Hit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from flowbed.index.active_space import Live
    from flowbed.index.datasets import Datasets
    from flowbed.index.search.rows import Selection
    from flowbed.records import IndexedText

# Rows on each side of one, at most: a reader wants a passage, not a document.
MOST = 50


async def around(
    name: str, collections: Sequence[Live], *, datasets: Datasets, before: int, after: int
) -> tuple[IndexedText, ...]:
    """Return the row `name` of the first collection that has it, and its neighbours in the same document, in order.

    Neighbours are rows with the same `source` and `document` in their metadata, in the order of their ids.

    Raises:
        NotFound: no collection has the row.
        Rejected: more rows are asked for than a reader gets.
    """
    if not (0 <= before <= MOST and 0 <= after <= MOST):
        raise Rejected(f"before and after must be numbers from 0 to {MOST}")
    reader = RowReader(datasets)
    live, found = await _named(name, collections, reader)
    (row,) = await indexed_texts(found)
    place = {key: row.metadata[key] for key in ("source", "document") if key in row.metadata}
    document = await reader.select(live, where=place) if "document" in place else None
    if document is None:
        return (row,)
    position = np.flatnonzero(document.row_ids == found.row_ids[0])
    if not len(position):  # the index was replaced between the two looks
        return (row,)
    first = int(position[0])
    near = document.row_ids[max(0, first - before) : first + after + 1]
    return await indexed_texts(replace(document, row_ids=near))


async def example(
    name: str, collections: Sequence[Live], *, datasets: Datasets
) -> tuple[Hit, Live, NDArray[np.float32]]:
    """Return the row `name` of the first collection that has it, that collection, and the row's vector (float32).

    Raises:
        NotFound: no collection has the row.
    """
    live, found = await _named(name, collections, RowReader(datasets))
    (row,) = await indexed_texts(found)
    (vector,) = await found.vectors(first=0)
    hit = Hit(id=row.id, score=1.0, document=row.document, metadata=row.metadata, collection=live.collection)
    return hit, live, vector


async def _named(name: str, collections: Sequence[Live], reader: RowReader) -> tuple[Live, Selection]:
    for live in collections:
        found = await reader.select(live, ids=[name])
        if found is not None and len(found):
            return live, found
    raise NotFound(f"no row of the index is called {name!r}; `flowbed why` says what became of a chunk")
