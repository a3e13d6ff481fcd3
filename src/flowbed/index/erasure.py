"""Erasure: removes rows from every version of an index, and their bytes from its files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import lance
import pyarrow as pa
import pyarrow.compute as pc

from flowbed.index.datasets import blocking
from flowbed.index.full_text import build_full_text, full_text
from flowbed.index.native import row_ids_in
from flowbed.index.repair import IDS, among
from flowbed.index.versions import versions_of
from flowbed.telemetry import FORGET_COMPACTED, FORGET_ROWS_REMOVED, reached

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from flowbed.index.active_space import Live
    from flowbed.index.datasets import Datasets
    from flowbed.index.forgotten import Blocked
    from flowbed.storage import Store

DATA = "data"  # Lance's folder of a dataset's rows


@dataclass(frozen=True, kw_only=True)
class ErasedRows:
    """What was removed from an index: rows of the newest version, older versions and their tags."""

    rows: int
    versions: int
    tags: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class IndexRow:
    """A row as it is found by id or filter: its collection, id, text and text_hash."""

    collection: str
    id: str
    document: str
    text_hash: str


async def rows_where(live: Live, condition: str, *, datasets: Datasets) -> list[IndexRow]:
    """Read the live rows of the newest version that fulfil a condition in Lance's SQL."""
    dataset = await datasets.open(live)

    def read() -> list[IndexRow]:
        if dataset is None:
            return []
        found = dataset.to_table(
            columns=["id", "document", "text_hash"], filter=f"deleted = false AND ({condition})"
        )
        return [
            IndexRow(
                collection=live.collection,
                id=row["id"],
                document=row["document"] or "",
                text_hash=row["text_hash"] or "",
            )
            for row in found.to_pylist()
        ]

    return await blocking(read, f"the index of {live.collection}")


async def rows_among(
    live: Live, column: str, values: Collection[str], *, datasets: Datasets
) -> list[IndexRow]:
    """Read the live rows of the newest version whose `column` is one of `values`."""
    wanted, found = sorted(values), list[IndexRow]()
    for start in range(0, len(wanted), IDS):
        some = among(wanted[start : start + IDS], column=column)
        found += await rows_where(live, some, datasets=datasets)
    return found


def without_blocked(rows: pa.Table, collection: str, blocked: Blocked) -> tuple[pa.Table, list[str]]:
    """Return the rows that may be merged, and the ids of those that were forgotten."""
    if not blocked:
        return rows, []
    ids = rows["id"].to_pylist()
    gone = [each for each in ids if blocked.chunk(collection, each)]
    if not gone:
        return rows, []
    return rows.filter(pc.invert(pc.is_in(rows["id"], value_set=pa.array(gone, pa.string())))), gone


async def erase_rows(live: Live, ids: Sequence[str], *, datasets: Datasets) -> ErasedRows:
    """Remove rows from the newest version, rewrite the files that held them, and drop all older versions with tags.

    Safe to repeat, and beside commits: a version that is written meanwhile stays.
    """
    dataset = await datasets.writable(live)

    def erase() -> ErasedRows:
        gone = 0
        for start in range(0, len(ids), IDS):
            found = dataset.to_table(columns=[], filter=among(ids[start : start + IDS]), with_row_id=True)
            if found.num_rows:
                # By row ids: Lance keeps the condition, and with it the names, in the version that it makes.
                dataset.delete(row_ids_in(found["_rowid"].to_pylist()))
                gone += found.num_rows
        reached(FORGET_ROWS_REMOVED, collection=live.collection, rows=gone)
        dataset.optimize.compact_files(materialize_deletions_threshold=0.0)
        if full_text(dataset) is not None:
            build_full_text(dataset)  # words of rows that are gone would stay in its files
        reached(FORGET_COMPACTED, collection=live.collection)
        dataset.checkout_version(dataset.latest_version)
        older = [each for each in versions_of(dataset) if each.version < dataset.version]
        tags = [name for each in older for name in each.tags]
        for name in tags:
            dataset.tags.delete(name)
        if older:
            dataset.cleanup_old_versions(
                versions=[each.version for each in older], error_if_tagged_old_versions=False
            )
        return ErasedRows(rows=gone, versions=len(older), tags=tuple(sorted(tags)))

    return await blocking(erase, f"the index of {live.collection}")


async def unnamed_files(live: Live, *, datasets: Datasets, store: Store) -> dict[str, int]:
    """Return the data files that no version names, by key, with the time they were written (µs since 1970).

    A killed commit left them, or a commit in progress is writing them.
    """
    before = [listed async for listed in store.list(f"{live.key}/{DATA}")]
    dataset = await datasets.open(live)

    def named() -> set[str]:
        if dataset is None:
            return set()
        found: set[str] = set()
        for each in dataset.versions():
            fragments = dataset.checkout_version(each["version"]).get_fragments()
            found |= {file.path for fragment in fragments for file in fragment.metadata.files}
        return found

    known = await blocking(named, f"the index of {live.collection}")
    return {each.key: each.modified for each in before if each.key.rpartition("/")[2] not in known}


async def holds_ids(store: Store, key: str, ids: Sequence[str]) -> bool:
    """Return whether any version of a dataset that is not live has one of these ids."""
    place = store.location(key)

    def look() -> bool:
        dataset = lance.dataset(place.uri, storage_options=dict(place.options))
        for each in dataset.versions():
            version = dataset.checkout_version(each["version"])
            if any(version.count_rows(among(ids[start : start + IDS])) for start in range(0, len(ids), IDS)):
                return True
        return False

    return await blocking(look, f"the index {key}")
