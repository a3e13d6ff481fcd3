"""Commit: merges the deltas of pending runs into the index in one atomic step."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from flowbed.errors import Rejected, Transient
from flowbed.index.datasets import blocking
from flowbed.index.deltas import newest, read_delta
from flowbed.index.erasure import erase_rows, without_blocked
from flowbed.index.forgotten import read_blocked
from flowbed.ledger import DeadLetter
from flowbed.records import Problem, Space
from flowbed.telemetry import DEAD_LETTER, INDEX_MERGED, RUN_COMMITTED, reached

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import lance
    import pyarrow as pa

    from flowbed.index.active_space import Collections, Live
    from flowbed.index.datasets import Datasets
    from flowbed.ledger import Ledger, RunRow
    from flowbed.storage import Store

# Last writer wins in any order of arrival; of equal versions, the greater run id wins.
NEWER = (
    "source.version > target.version OR (source.version = target.version AND source.run_id > target.run_id)"
)
MOST_RUNS = 64  # a commit holds its deltas in memory
MOST_ROWS = 100_000  # 150 MB of vectors at 384 dimensions
# Tombstones are kept this long; after it, an older delta could bring a deleted row back.
RETENTION = timedelta(days=30)
MICROSECOND = timedelta(microseconds=1)
# Retries of a merge that other writers overtake. Of several commits at once one succeeds each time, and usually merges
# the runs of the others too.
PATIENCE = 100
CROSSED = ("concurrent transaction Restore", "Too many concurrent writers")  # Lance's messages about it


class Crossed(Transient):
    """Another writer came between reading the newest version and merging onto it; nothing was merged."""


@dataclass(frozen=True, kw_only=True)
class Committed:
    """The result of a commit: the new version, None if nothing was merged, and the deltas that were refused.

    `runs` are the ids of the runs that were merged, with `rows` in their deltas.
    """

    version: int | None
    refused: tuple[Problem, ...] = ()
    runs: tuple[str, ...] = ()
    rows: int = 0


async def commit(
    collection: str,
    *,
    store: Store,
    ledger: Ledger,
    datasets: Datasets,
    collections: Collections,
    clock: Callable[[], int],
    most_runs: int = MOST_RUNS,
    once: bool = False,
) -> Committed:
    """Merge every pending run of a collection, at most `most_runs` at a time; safe to repeat, also concurrently.

    With `once`, runs that are recorded during the merge are left for the next commit.

    A delta that does not match its run is refused and becomes a dead letter; the others are merged.
    """
    version = None
    refused: list[Problem] = []
    merged: dict[str, int] = {}
    crossed = 0
    while True:
        live = await collections.get(collection)
        # Opened before the runs are listed: if a rollback reverts them in between, the merge fails.
        dataset = await datasets.writable(live) if live is not None else None
        runs = await ledger.runs.pending(collection, limit=most_runs)
        if not runs:
            break
        if live is None or dataset is None:
            space = Space.from_json(runs[0].space)
            await collections.begin(collection, space, now=clock(), datasets=datasets)
            continue
        good = await _good(runs, live, store=store, ledger=ledger, clock=clock, refused=refused)
        if not good:
            continue
        onto = int(dataset.version)
        try:
            version, deltas = await _merge_remembered(live, dataset, good, store=store, datasets=datasets)
        except Crossed:
            crossed += 1
            if crossed == PATIENCE:
                raise
            continue
        reached(INDEX_MERGED, collection=collection, version=version, runs=len(good))
        # Where nobody else wrote in between, there is no rollback to look for in the versions up to this one.
        await ledger.runs.commit(list(good), version=version, onto=onto if version == onto + 1 else 0)
        reached(RUN_COMMITTED, collection=collection, version=version, runs=list(good))
        merged |= {name: table.num_rows for name, table in good.items()}
        await _delete_deltas([run for run in runs if run.id in deltas], store=store)
        # Listed again: where a rollback has undone this version before its runs were marked, they are still pending.
        if once or not await ledger.runs.pending(collection, limit=1):
            break
    return Committed(version=version, refused=tuple(refused), runs=tuple(merged), rows=sum(merged.values()))


async def _good(
    runs: Sequence[RunRow],
    live: Live,
    *,
    store: Store,
    ledger: Ledger,
    clock: Callable[[], int],
    refused: list[Problem],
) -> dict[str, pa.Table]:
    """Read the deltas of the oldest runs, up to what one merge takes; set aside what cannot be merged."""
    good: dict[str, pa.Table] = {}
    for run in runs:
        if good and sum(table.num_rows for table in good.values()) + run.rows > MOST_ROWS:
            break
        # Checked first: the delta of a stale run is not needed, and may have been collected as garbage.
        if is_stale(run, now=clock()):
            await _version_anew(run, ledger=ledger, now=clock())
            continue
        try:
            good[run.id] = await _verified(run, live, store=store)
        except Rejected as error:
            await _refuse(run, str(error), ledger=ledger, now=clock())
            refused.append(Problem(subject=run.key, reason=str(error)))
    return good


async def _merge_remembered(
    live: Live, dataset: lance.LanceDataset, good: Mapping[str, pa.Table], *, store: Store, datasets: Datasets
) -> tuple[int, set[str]]:
    """Merge all rows but those that were forgotten; return the version, and the runs whose deltas hold such rows.

    A worker may have embedded them before it could know. If rows are forgotten during the merge, they are removed
    after it, and before its runs are marked: a killed commit finds them again in the deltas.
    """
    blocked = await read_blocked(store)
    whole = newest(list(good.values()))
    rows, forgotten = without_blocked(whole, live.collection, blocked)
    version = await _merge(live, dataset, rows) if rows.num_rows else int(dataset.version)
    if (since := await read_blocked(store)) != blocked:
        forgotten = without_blocked(whole, live.collection, since)[1]
    if not forgotten:
        return version, set()
    await erase_rows(live, forgotten, datasets=datasets)
    return version, {
        name for name, table in good.items() if without_blocked(table, live.collection, since)[1]
    }


async def _delete_deltas(runs: Sequence[RunRow], *, store: Store) -> None:
    """Delete committed deltas that hold forgotten rows, in every form."""
    for folder in [run.key.rpartition("/")[0] for run in runs]:
        await store.delete([listed.key async for listed in store.list(folder)])


async def _merge(live: Live, dataset: lance.LanceDataset, rows: pa.Table) -> int:
    def merge() -> None:
        (
            dataset.merge_insert("id")
            .when_matched_update_all(NEWER)
            .when_not_matched_insert_all()
            # With an index on id every merge fails: the keys of the index are nullable, the column is not.
            .use_index(False)
            # Lance's own retry would merge onto any newer version, even a rollback of these very runs.
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
            f"it is of space {space.space8}, but collection {live.collection} is of space {live.space.space8}"
        )
    return await read_delta(store, run)


def is_stale(run: RunRow, *, now: int) -> bool:
    """Return whether a run is too old to be merged; its chunks are then queued again."""
    return run.created < now - RETENTION // MICROSECOND


async def _version_anew(run: RunRow, *, ledger: Ledger, now: int) -> None:
    """Queue the chunks of a stale run again; their vectors are still cached, so it costs nothing."""
    await ledger.runs.refuse(run.id, reason="stale: older than the tombstones that are kept")
    await ledger.chunks.retry([run.id], now=now)


async def _refuse(run: RunRow, reason: str, *, ledger: Ledger, now: int) -> None:
    # The dead letter first: nobody would notice a refused run without one.
    letter = DeadLetter(kind="run", owner=run.collection, subject=run.id, reason=reason, at=now)
    await ledger.dead_letters.add([letter])
    await ledger.runs.refuse(run.id, reason=reason)
    reached(DEAD_LETTER, kind="run", subject=run.id, reason=reason)
