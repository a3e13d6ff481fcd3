"""Repair: removes rows that no commit could fix, and rebuilds an index without a primary key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flowbed.errors import Rejected
from flowbed.index.audit import DOUBLED, ID, ILL_FORMED, dimensions_of
from flowbed.index.datasets import DamagedIndex, FileMissing, UnfitIndex, blocking
from flowbed.index.full_text import NAME as FULL_TEXT
from flowbed.index.full_text import build_full_text, full_text
from flowbed.index.partitions import partitioned
from flowbed.index.schema import schema

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flowbed.index.active_space import Live
    from flowbed.index.datasets import Datasets

# Ids in one condition: some tens of kilobytes of SQL. Each condition is one pass over the id column.
IDS = 5_000
PAGE = 65_536  # ids read at a time: some megabytes


async def faulty_ids(live: Live, *, datasets: Datasets, any_id: bool = False) -> dict[str, list[str]]:
    """Return duplicate ids and, unless rows may have `any_id`, the invalid ids of live rows, by kind of fault.

    Only the ids are read, page by page, and 8 bytes of each are kept; see `Expected` about collisions.
    """
    dataset = await datasets.open(live)

    def pages(*columns: str) -> Iterator[pa.RecordBatch]:
        return iter(()) if dataset is None else dataset.to_batches(columns=["id", *columns], batch_size=PAGE)

    def look() -> dict[str, list[str]]:
        ill_formed: list[str] = []
        keys = [np.empty(0, np.int64)]
        for page in pages("deleted"):
            ids = page["id"].to_pylist()
            keys.append(np.fromiter(map(hash, ids), np.int64, len(ids)))
            if not any_id:
                odd = pc.and_(pc.invert(page["deleted"]), pc.invert(pc.match_substring_regex(page["id"], ID)))
                ill_formed += page["id"].filter(odd).to_pylist()
        ordered = np.sort(np.concatenate(keys))
        twice = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
        doubled = (
            {each for page in pages() for each in page["id"].to_pylist() if hash(each) in twice}
            if twice
            else ()
        )
        return {ILL_FORMED: ill_formed, DOUBLED: sorted(doubled)}

    return await blocking(look, f"the index of {live.collection}")


async def remove_rows(live: Live, ids: Sequence[str], *, datasets: Datasets) -> None:
    """Delete every row of these ids from the newest version, without tombstones, which later rows might lose to."""
    dataset = await datasets.writable(live)

    def remove() -> None:
        for start in range(0, len(ids), IDS):
            dataset.delete(among(ids[start : start + IDS]))

    await blocking(remove, f"the index of {live.collection}")


async def keep_newest(live: Live, ids: Sequence[str], *, datasets: Datasets) -> None:
    """Delete all rows but the newest of each of these ids from the newest version."""
    dataset = await datasets.writable(live)

    def remove() -> None:
        for start in range(0, len(ids), IDS):
            found = dataset.to_table(
                columns=["id", "version", "run_id"],
                filter=among(ids[start : start + IDS]),
                with_row_id=True,
            ).to_pylist()
            newest: dict[str, int] = {}
            for row in sorted(found, key=lambda row: (row["version"], row["run_id"], row["_rowid"])):
                newest[row["id"]] = row["_rowid"]
            kept = set(newest.values())
            others = [str(row["_rowid"]) for row in found if row["_rowid"] not in kept]
            if others:
                dataset.delete(f"_rowid IN ({', '.join(others)})")

    await blocking(remove, f"the index of {live.collection}")


async def rebuild(live: Live, *, datasets: Datasets) -> bool:
    """Overwrite a dataset that Flowbed cannot commit to with one that it can; return whether that was needed.

    Its rows are kept if they have the right columns and dimensions; otherwise it is empty afterwards.

    Raises:
        DamagedIndex: its files cannot be read.
    """
    try:
        existing = await datasets.open(live)
    except UnfitIndex:
        existing = None
    else:
        if existing is None or dimensions_of(existing) == live.space.dimensions:
            return False
    place = datasets.store.location(live.key)

    def write() -> None:
        old = lance.dataset(place.uri, storage_options=dict(place.options))
        wanted = schema(live.space.dimensions)
        keeps = old.schema.names == wanted.names and old.schema.types == wanted.types
        lance.write_dataset(
            pa.RecordBatchReader.from_batches(wanted, _rows(old, wanted) if keeps else iter(())),
            place.uri,
            mode="overwrite",
            storage_options=dict(place.options),
            data_storage_version="2.2",
        )

    await blocking(write, f"the index of {live.collection}")
    return True


async def damage_of_index(live: Live, *, datasets: Datasets) -> str:
    """Return why the vector index cannot be read, found by a search of all its partitions; empty if it can."""
    dataset = await datasets.open(live)

    def look() -> str:
        index = None if dataset is None else partitioned(dataset)
        if dataset is None or index is None:
            return ""
        anywhere = np.ones(live.space.dimensions, np.float32)
        nearest = {"column": "vector", "q": anywhere, "k": 1, "nprobes": index.partitions, "metric": "cosine"}
        dataset.to_table(columns=["id"], nearest=nearest, fast_search=True)
        return ""

    try:
        return await blocking(look, f"the vector index of {live.collection}")
    except (DamagedIndex, FileMissing, Rejected) as error:
        return str(error.__cause__)


async def damage_of_full_text(live: Live, *, datasets: Datasets) -> str:
    """Return why the full-text index cannot be read, found by reading all of it; empty if it can."""
    dataset = await datasets.open(live)

    def look() -> str:
        if dataset is not None and full_text(dataset) is not None:
            dataset.prewarm_index(FULL_TEXT)
        return ""

    try:
        return await blocking(look, f"the full-text index of {live.collection}")
    except (DamagedIndex, FileMissing, Rejected) as error:
        return str(error.__cause__)


async def rebuild_full_text(live: Live, *, datasets: Datasets) -> None:
    """Build the full-text index again, of the rows that there are."""
    dataset = await datasets.writable(live)
    await blocking(lambda: build_full_text(dataset), f"the full-text index of {live.collection}")


async def drop_index(live: Live, *, datasets: Datasets) -> None:
    """Drop the vector index: searches scan every row until a compaction builds another."""
    dataset = await datasets.writable(live)
    names = {each.name for each in dataset.describe_indices() if each.field_names == ["vector"]}

    def drop() -> None:
        for name in names:
            dataset.drop_index(name)

    await blocking(drop, f"the vector index of {live.collection}")


def _rows(old: lance.LanceDataset, wanted: pa.Schema) -> Iterator[pa.RecordBatch]:
    for batch in old.to_batches():
        yield pa.RecordBatch.from_arrays(batch.columns, schema=wanted)


def among(values: Sequence[str], *, column: str = "id") -> str:
    """Return a condition in Lance's SQL: that a column is one of these values."""
    quoted = (f"'{each.replace(chr(39), chr(39) * 2)}'" for each in values)
    return f"{column} IN ({', '.join(quoted)})"
