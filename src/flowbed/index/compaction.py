"""Compaction: merges small fragments, extends the vector index, drops old tombstones and versions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from flowbed.index.commit import MICROSECOND, RETENTION
from flowbed.index.datasets import blocking
from flowbed.index.full_text import build_full_text, extend_full_text, plan_full_text
from flowbed.index.full_text import full_text as indexed_text
from flowbed.index.partitions import (
    NAME,
    PARTITIONS,
    ROUNDS,
    SAMPLE,
    TRAINED,
    Partitioned,
    kind_of,
    largest,
    partitioned,
    partitions_of,
    settled,
    trained_at,
)
from flowbed.index.versions import State, Version, state_of, versions, versions_of
from flowbed.index.versions.retention import NOTHING, Retention
from flowbed.telemetry import COMPACTION_CLEANED, COMPACTION_MERGED, reached

if TYPE_CHECKING:
    from collections.abc import Sequence

    import lance

    from flowbed.index.active_space import Live
    from flowbed.index.datasets import Datasets
    from flowbed.index.full_text import Work

VectorIndex = Literal["auto", "always", "never"]

# From this many rows on a scan takes 20 ms, four times as long as the vector index, which is built in a second.
INDEX_ROWS = 20_000
# Every search scans the unindexed rows: this many take as long as the rest of the search. Appending them to the index
# takes a fifth of a second.
UNINDEXED = 2_000
# Each append is a segment that every search probes too: 4 cost a fifth more time, 8 twice as much.
SEGMENTS = 4
# Partitions built for three times fewer rows are three times too large, and may be centred where no rows are any more.
OUTGROWN = 3
# With a smaller share of the rows for which the partitions were built, the others may all lie in few of them or at
# their edges: recall fell to 0.87 with nine tenths of the rows of another topic.
SETTLED = 0.5
# Each commit adds a fragment, and a search opens all of them.
FRAGMENTS = 32


@dataclass(frozen=True, kw_only=True)
class Compaction:
    """What a compaction would do, or did.

    `partitions` rebuilds the vector index with that many; 0 does not. `append` adds the unindexed rows to it, `join`
    merges the appended segments. `full_text` is what is done about the full-text index. Tombstones with a row version
    (µs) below `drop_before` are dropped, and so are the versions `forget`.
    """

    merge: bool
    partitions: int
    append: bool
    drop_before: int
    join: bool = False
    full_text: Work | None = None
    forget: tuple[int, ...] = ()

    @property
    def due(self) -> bool:
        """Whether a compaction would speed up searches or free much space."""
        indexed = self.append or self.join or self.partitions > 0 or self.full_text is not None
        return self.merge or indexed or len(self.forget) > FRAGMENTS


def plan_compaction(
    now_state: State,
    index: Partitioned | None,
    kept: Sequence[Version],
    *,
    settled: int,
    vector_index: VectorIndex,
    retention: Retention,
    oldest_pending: int | None,
    now: int,
) -> Compaction:
    """Decide what to do about a state; `kept` are the existing versions, newest first.

    `settled` counts the rows for which the partitions of the vector index were built and that still exist. Tombstones
    stay for RETENTION, and while an unfinished run is older than they are: its delta could bring the row back.
    """
    rows, tail = now_state.rows, now_state.unindexed_rows
    wanted = vector_index == "always" or (vector_index == "auto" and rows >= INDEX_ROWS)
    too_old = index is not None and (rows > OUTGROWN * index.trained or settled < SETTLED * rows)
    build = vector_index != "never" and rows > 0 and (too_old or (index is None and wanted))
    behind = tail > UNINDEXED or (vector_index == "always" and tail > 0)
    append = index is not None and not build and behind
    horizon = now - RETENTION // MICROSECOND
    return Compaction(
        merge=now_state.fragments > FRAGMENTS,
        partitions=partitions_of(rows) if build else 0,
        append=append,
        join=index is not None and not build and index.segments + append > SEGMENTS,
        drop_before=min(horizon, oldest_pending) if oldest_pending is not None else horizon,
        forget=outlived(kept, retention, now=now),
    )


def outlived(kept: Sequence[Version], retention: Retention, *, now: int) -> tuple[int, ...]:
    """Return the versions to drop, never the newest or a tagged one; `kept` are the existing ones, newest first."""
    before = now - timedelta(days=retention.days) // MICROSECOND
    return tuple(
        each.version
        for place, each in enumerate(kept)
        if place >= max(1, retention.versions)
        and not each.tags
        and (each.created < before or not retention.days)
    )


@dataclass(frozen=True, kw_only=True)
class Outgrown:
    """A vector index most of whose rows were added after its partitions were built.

    The partitions were built for `settled` of the `rows`; `largest` is the share of rows in the largest partition.
    """

    rows: int
    settled: int
    partitions: int
    largest: float


async def outgrown(live: Live, *, datasets: Datasets) -> Outgrown | None:
    """Describe the vector index of a collection if its rows have outgrown it; None otherwise."""
    dataset = await datasets.open(live)
    if dataset is None:
        return None

    def look() -> Outgrown | None:
        index, still, rows = partitioned(dataset), settled(dataset), dataset.count_rows("deleted = false")
        if index is None or still >= SETTLED * rows:
            return None
        return Outgrown(rows=rows, settled=still, partitions=index.partitions, largest=largest(dataset))

    return await blocking(look, f"the index of {live.collection}")


async def is_due(
    live: Live, *, datasets: Datasets, now: int, retention: Retention | None = None, full_text: bool = False
) -> bool:
    """Whether searches would gain by a compaction, or the disk by much; it looks, and changes nothing."""
    dataset = await datasets.open(live)
    if dataset is None:
        return False

    def look() -> bool:
        plan, _ = _planned(
            dataset, "auto", retention or Retention(), full_text=full_text, oldest_pending=None, now=now
        )
        return plan.due

    return await blocking(look, f"the index of {live.collection}")


async def compact(
    live: Live,
    *,
    datasets: Datasets,
    vector_index: VectorIndex,
    oldest_pending: int | None,
    now: int,
    retention: Retention | None = None,
    full_text: bool = False,
    only_if_due: bool = False,
) -> Compaction | None:
    """Compact a collection; with `only_if_due`, return None if nothing is due. Safe to run beside commits.

    With `full_text`, build a full-text index where there is none. One that is there is always extended, and built again
    where nothing old is kept: words of deleted rows would stay in its files.
    """
    dataset = await datasets.open(live)
    if dataset is None:
        return None
    kept = retention or Retention()
    what = f"the index of {live.collection}"
    plan, index = await blocking(
        lambda: _planned(
            dataset, vector_index, kept, full_text=full_text, oldest_pending=oldest_pending, now=now
        ),
        what,
    )
    if only_if_due and not plan.due:
        return None
    await blocking(lambda: _apply(dataset, plan, index, full=not only_if_due), what)
    # Listed again: the version that was the newest at the start is an old one by now, with all that it dropped.
    forget = outlived(await versions(live, datasets=datasets), kept, now=now)
    if forget:
        await blocking(lambda: _forget(dataset, forget), what)
    return replace(plan, forget=forget)


def _planned(
    dataset: lance.LanceDataset,
    vector_index: VectorIndex,
    retention: Retention,
    *,
    full_text: bool,
    oldest_pending: int | None,
    now: int,
) -> tuple[Compaction, Partitioned | None]:
    index = partitioned(dataset)
    text = plan_full_text(dataset, wanted=full_text)
    if retention == NOTHING and indexed_text(dataset) is not None:
        text = "build"
    plan = plan_compaction(
        state_of(dataset),
        index,
        versions_of(dataset),
        settled=settled(dataset),
        vector_index=vector_index,
        retention=retention,
        oldest_pending=oldest_pending,
        now=now,
    )
    return replace(plan, full_text=text), index


def _apply(dataset: lance.LanceDataset, plan: Compaction, index: Partitioned | None, *, full: bool) -> None:
    if dataset.count_rows(f"deleted = true AND version < {plan.drop_before}"):
        dataset.delete(f"deleted = true AND version < {plan.drop_before}")
    if plan.merge or full:
        # At the default threshold, the text of deleted rows stays in the files until a tenth of the rows is deleted.
        dataset.optimize.compact_files(materialize_deletions_threshold=0.0 if full else 0.1)
        reached(COMPACTION_MERGED, version=dataset.version)
    if plan.partitions:
        dataset.create_index(
            "vector",
            **kind_of(dataset.schema.field("vector").type.list_size),
            metric="cosine",
            num_partitions=plan.partitions,
            sample_rate=SAMPLE,
            max_iters=ROUNDS,
            name=NAME,
            replace=True,
        )
        # Written last: an index that does not match its description is only rebuilt once more.
        dataset.update_config({PARTITIONS: str(plan.partitions), TRAINED: trained_at(dataset)})
    elif plan.append or plan.join:
        # The new rows become a segment, or join those appended before. The first segment, which has most rows, is left
        # alone: rewriting it would cost what is stored, not what has changed.
        segments = index.segments if index is not None else 1
        joined = segments - 1 if plan.join else 0
        dataset.optimize.optimize_indices(num_indices_to_merge=joined, index_names=[NAME])
    if plan.full_text == "build":
        build_full_text(dataset)
    elif plan.full_text == "extend":
        extend_full_text(dataset)


def _forget(dataset: lance.LanceDataset, forget: Sequence[int]) -> None:
    dataset.checkout_version(dataset.latest_version)
    # Only versions that nothing needs; files that a commit is writing belong to none of them.
    dataset.cleanup_old_versions(versions=list(forget), error_if_tagged_old_versions=False)
    reached(COMPACTION_CLEANED, versions=len(forget))
