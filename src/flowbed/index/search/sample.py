"""A sample of the texts of a collection, spread over its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.index.search.rows import LIVING

if TYPE_CHECKING:
    from flowbed.index.active_space import Live
    from flowbed.index.datasets import Datasets
    from flowbed.index.native import Dataset


async def sample_texts(live: Live, *, datasets: Datasets, most: int) -> list[str]:
    """Return the texts of at most `most` live rows at equal distances; none of a collection without a dataset."""

    def read(dataset: Dataset) -> list[str]:
        scanner = dataset.scanner(columns=[], filter=LIVING, with_row_id=True)
        row_ids = scanner.to_pyarrow().read_all()["_rowid"].to_pylist()
        chosen = row_ids[:: max(1, -(-len(row_ids) // most))]
        rows = dataset.take_rows(chosen, ["document"]) if chosen else None
        return [text for text in rows["document"].to_pylist() if text] if rows else []

    answer = await datasets.reading(live, read)
    return [] if answer is None else answer[0]
