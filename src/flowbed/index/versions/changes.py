"""Changes: the rows that differ between two versions of a collection, read from the files that differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flowbed.errors import NotFound
from flowbed.index.datasets import blocking, translated
from flowbed.index.native import row_ids_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import lance
    from numpy.typing import NDArray

    from flowbed.index.active_space import Live
    from flowbed.index.datasets import Datasets

# What tells two states of a row apart: a run writes a version of a row once.
STATE = ["id", "version", "run_id", "deleted"]
SHOWN = ["id", "vector", "document", "metadata"]
# Without the metadata of Lance's fields, so that tables of both versions can be joined.
TOLD = pa.schema(
    [
        ("id", pa.string()),
        ("version", pa.int64()),
        ("run_id", pa.string()),
        ("deleted", pa.bool_()),
        ("_rowid", pa.uint64()),
    ]
)
ALIVE = "deleted = false"
# Row ids in one filter: some tens of kilobytes.
ROW_IDS = 2_000


@dataclass(frozen=True, kw_only=True)
class Changes:
    """How version `end` differs from version `start` (None: from an empty collection).

    `rows` is the number of live rows at `end`, `upserts` how many of them are new or changed, `deleted` the ids that
    are gone, in order. A selection has no start, and only the rows that fulfil `condition`, in Lance's SQL.
    """

    start: int | None
    end: int
    rows: int
    upserts: int
    deleted: tuple[str, ...]
    dataset: lance.LanceDataset
    row_ids: NDArray[np.uint64] | None  # of the upserts; None: all rows
    condition: str = ALIVE

    def batches(self, size: int) -> Iterator[pa.RecordBatch]:
        """Read the upserts: batches of `size` rows with id, vector, document and metadata (JSON text); blocks.

        Only the last batch is smaller.

        Raises:
            Damaged, Transient: a file of the index cannot be read.
        """
        held: list[pa.RecordBatch] = []
        for batch in self._read():
            held.append(batch)
            while sum(each.num_rows for each in held) >= size:
                joined = _joined(held)
                yield joined.slice(0, size)
                held = [joined.slice(size)] if joined.num_rows > size else []
        if held:
            yield _joined(held)

    def _read(self) -> Iterator[pa.RecordBatch]:
        with translated("the index, while its rows were read,"):
            yield from self._scanned()

    def _scanned(self) -> Iterator[pa.RecordBatch]:
        if self.row_ids is None:
            yield from self.dataset.to_batches(columns=SHOWN, filter=self.condition)
            return
        for start in range(0, len(self.row_ids), ROW_IDS):
            wanted = row_ids_in(self.row_ids[start : start + ROW_IDS].tolist())
            yield from self.dataset.to_batches(columns=SHOWN, filter=wanted)


async def selection(live: Live, version: int | None, condition: str, *, datasets: Datasets) -> Changes:
    """Select the live rows of a version (None: the newest) that fulfil a condition in Lance's SQL.

    Raises:
        NotFound: the version does not exist (any more), or the collection is empty.
    """
    dataset = await datasets.open(live, version=version)
    if dataset is None:
        raise NotFound(f"collection {live.collection} is empty; fill it with `flowbed run`")

    def work() -> Changes:
        chosen = f"{ALIVE} AND ({condition})"
        rows = dataset.count_rows(chosen)
        return Changes(
            start=None,
            end=int(dataset.version),
            rows=rows,
            upserts=rows,
            deleted=(),
            dataset=dataset,
            row_ids=None,
            condition=chosen,
        )

    return await blocking(work, f"the index of {live.collection}")


async def changes(live: Live, start: int | None, end: int, *, datasets: Datasets) -> Changes:
    """Find how a version differs from an earlier or later one; the cost is that of the files that differ.

    Raises:
        NotFound: a version does not exist (any more).
    """
    after = await datasets.open(live, version=end)
    if after is None:
        raise NotFound(f"collection {live.collection} is empty; fill it with `flowbed run`")
    before = None if start is None else await datasets.open(live, version=start)

    def work() -> Changes:
        rows = after.count_rows(ALIVE)
        if before is None:
            return Changes(
                start=None, end=end, rows=rows, upserts=rows, deleted=(), dataset=after, row_ids=None
            )
        gone, added = _moved(before, after)
        new = added.filter(pc.invert(added["deleted"])).join(
            gone.select(STATE), keys=STATE, join_type="left anti"
        )
        alive = added.filter(pc.invert(added["deleted"])).select(["id"])
        lost = (
            gone.filter(pc.invert(gone["deleted"]))
            .select(["id"])
            .join(alive, keys="id", join_type="left anti")
        )
        return Changes(
            start=start,
            end=end,
            rows=rows,
            upserts=new.num_rows,
            deleted=tuple(sorted(lost["id"].to_pylist())),
            dataset=after,
            row_ids=np.sort(new["_rowid"].to_numpy()),
        )

    return await blocking(work, f"the index of {live.collection}")


def _moved(before: lance.LanceDataset, after: lance.LanceDataset) -> tuple[pa.Table, pa.Table]:
    """Return the rows that only `before` stores where it does, and those that only `after` does.

    A row that a compaction has moved is in both.
    """
    old = {each.fragment_id: each for each in before.get_fragments()}
    new = {each.fragment_id: each for each in after.get_fragments()}
    changed = {
        number
        for number in old.keys() & new.keys()
        if old[number].metadata.to_json() != new[number].metadata.to_json()
    }
    # The same files with other deletions: the rows that were deleted, or restored, are found by their row ids alone.
    thinned = [number for number in changed if _files(old[number]) == _files(new[number])]
    other = changed - set(thinned)
    gone = [_states(before, [old[each] for each in sorted((old.keys() - new.keys()) | other)])]
    added = [_states(after, [new[each] for each in sorted((new.keys() - old.keys()) | other)])]
    if thinned:
        were = _row_ids(before, [old[each] for each in thinned])
        are = _row_ids(after, [new[each] for each in thinned])
        gone.append(_states_of(before, np.setdiff1d(were, are, assume_unique=True)))
        added.append(_states_of(after, np.setdiff1d(are, were, assume_unique=True)))
    return pa.concat_tables(gone), pa.concat_tables(added)


def _files(fragment: lance.LanceFragment) -> list[str]:
    return [file.path for file in fragment.metadata.files]


def _row_ids(dataset: lance.LanceDataset, fragments: Sequence[lance.LanceFragment]) -> NDArray[np.uint64]:
    batches = dataset.scanner(columns=[], with_row_id=True, fragments=list(fragments)).to_batches()
    return np.concatenate([np.empty(0, np.uint64), *(batch["_rowid"].to_numpy() for batch in batches)])


def _states(dataset: lance.LanceDataset, fragments: Sequence[lance.LanceFragment]) -> pa.Table:
    if not fragments:
        return _states_of(dataset, np.empty(0, np.uint64))
    return _table(dataset.scanner(columns=STATE, with_row_id=True, fragments=list(fragments)).to_batches())


def _states_of(dataset: lance.LanceDataset, row_ids: NDArray[np.uint64]) -> pa.Table:
    batches: list[pa.RecordBatch] = []
    for start in range(0, len(row_ids), ROW_IDS):
        wanted = row_ids_in(row_ids[start : start + ROW_IDS].tolist())
        batches += dataset.to_batches(columns=STATE, filter=wanted, with_row_id=True)
    return _table(batches)


def _table(batches: Iterator[pa.RecordBatch] | Sequence[pa.RecordBatch]) -> pa.Table:
    return pa.Table.from_batches(
        [pa.RecordBatch.from_arrays([batch[name] for name in TOLD.names], schema=TOLD) for batch in batches],
        schema=TOLD,
    )


def _joined(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)
