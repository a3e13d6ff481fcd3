"""Commit: the deltas of pending runs, merged into the index in one atomic step."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from flowbed.errors import Rejected, Transient
from flowbed.index.active_space import Live, live_collection
from flowbed.index.datasets import blocking
from flowbed.index.deltas import newest, read_delta
from flowbed.ledger import DeadLetter
from flowbed.records import Problem, Space
from flowbed.telemetry import DEAD_LETTER, INDEX_MERGED, RUN_COMMITTED, reached

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import lance
    import pyarrow as pa

    from flowbed.index.datasets import Datasets
    from flowbed.ledger import Ledger, RunRow
    from flowbed.storage import Store

# Last writer wins, whatever the order of arrival; equal versions are told apart by their run.
NEWER = (
    "source.version > target.version OR (source.version = target.version AND source.run_id > target.run_id)"
)
MOST_RUNS = 64  # a commit reads its runs' deltas whole
MOST_ROWS = 100_000  # 150 MB of vectors at 384 dimensions
# After this long a tombstone may be gone, and an older delta could bring a deleted row back.
RETENTION = timedelta(days=30)
MICROSECOND = timedelta(microseconds=1)
# Writers that may come between one commit and its merge, one after the other. Of several commits at once one gets
# through each time, and mostly takes the runs of the others with it.
PATIENCE = 100
CROSSED = ("concurrent transaction Restore", "Too many concurrent writers")  # how Lance says so


class Crossed(Transient):
    """Someone else wrote between what was read and what was to be merged onto it; nothing was merged."""


@dataclass(frozen=True, kw_only=True)
class Committed:
    """What a commit did: the version that holds it, None where nothing was merged, and the deltas it refused."""

    version: int | None
    refused: tuple[Problem, ...] = ()


async def commit(
    collection: str, *, store: Store, ledger: Ledger, datasets: Datasets, clock: Callable[[], int]
) -> Committed:
    """Merge every pending run of a collection; repeatable, in any process, by several at once.

    A delta that is not what its run promises is refused and becomes a dead letter; the others are merged.
    """
    version = None
    refused: list[Problem] = []
    crossed = 0
    while True:
        live = await live_collection(store, collection)
        # Opened before the runs are listed: a rollback since then, which may have reverted them, stops the merge.
        dataset = await datasets.writable(live) if live is not None else None
        runs = await ledger.runs.pending(collection, limit=MOST_RUNS)
        if not runs:
            return Committed(version=version, refused=tuple(refused))
        if live is None or dataset is None:
            await datasets.begin(collection, Space.from_json(runs[0].space), now=clock())
            continue
        good = await _good(runs, live, store=store, ledger=ledger, clock=clock, refused=refused)
        if not good:
            continue
        try:
            version = await _merge(live, dataset, newest(list(good.values())))
        except Crossed:
            crossed += 1
            if crossed == PATIENCE:
                raise
            continue
        reached(INDEX_MERGED, collection=collection, version=version, runs=len(good))
        await ledger.runs.commit(list(good), version=version)
        reached(RUN_COMMITTED, collection=collection, version=version)


async def _good(
    runs: Sequence[RunRow],
    live: Live,
    *,
    store: Store,
    ledger: Ledger,
    clock: Callable[[], int],
    refused: list[Problem],
) -> dict[str, pa.Table]:
    """Read the deltas of the oldest runs, by run, as many as one merge takes; what cannot be merged is put aside."""
    good: dict[str, pa.Table] = {}
    for run in runs:
        if good and sum(table.num_rows for table in good.values()) + run.rows > MOST_ROWS:
            break
        # Before its delta is looked for, which is not needed any more, and may have been collected as garbage.
        if is_stale(run, now=clock()):
            await _version_anew(run, ledger=ledger, now=clock())
            continue
        try:
            good[run.id] = await _verified(run, live, store=store)
        except Rejected as error:
            await _refuse(run, str(error), ledger=ledger, now=clock())
            refused.append(Problem(subject=run.key, reason=str(error)))
    return good


async def _merge(live: Live, dataset: lance.LanceDataset, rows: pa.Table) -> int:
    def merge() -> None:
        (
            dataset.merge_insert("id")
            .when_matched_update_all(NEWER)
            .when_not_matched_insert_all()
            .use_index(
                False
            )  # with an index on id every merge fails: its keys are nullable, the column is not
            # Lance's own retry would merge onto whatever is newest by then, a rollback of these very runs among it.
            .conflict_retries(0)
            .execute(rows)
        )

    def merged() -> int:
        try:
            merge()
        except OSError as error:
            if any(each in str(error) for each in CROSSED):
                raise Crossed(
                    f"others kept writing the index of {live.collection} at the same time; run again"
                ) from error
            raise
        return int(dataset.version)

    return await blocking(merged, f"the index of {live.collection}")


async def _verified(run: RunRow, live: Live, *, store: Store) -> pa.Table:
    space = Space.from_json(run.space)
    if space.fingerprint != live.space.fingerprint:
        raise Rejected(
            f"it is of space {space.space8}, and collection {live.collection} lives in {live.space.space8}"
        )
    return await read_delta(store, run)


def is_stale(run: RunRow, *, now: int) -> bool:
    """Tell whether a run is too old to be merged: its chunks are sent round again, and its delta is not needed."""
    return run.created < now - RETENTION // MICROSECOND


async def _version_anew(run: RunRow, *, ledger: Ledger, now: int) -> None:
    """Send a stale run's chunks round again: their vectors are still in the cache, so that it costs no money."""
    await ledger.runs.refuse(run.id, reason="stale: older than the tombstones that are kept")
    await ledger.chunks.retry([run.id], now=now)


async def _refuse(run: RunRow, reason: str, *, ledger: Ledger, now: int) -> None:
    # The letter first: a run that was refused without one would be looked at by nobody.
    letter = DeadLetter(kind="run", owner=run.collection, subject=run.id, reason=reason, at=now)
    await ledger.dead_letters.add([letter])
    await ledger.runs.refuse(run.id, reason=reason)
    reached(DEAD_LETTER, kind="run", subject=run.id, reason=reason)
