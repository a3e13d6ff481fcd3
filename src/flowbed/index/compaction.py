"""Compaction: small fragments merged, the vector index kept in step, old tombstones and versions dropped."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from flowbed.index.commit import MICROSECOND, RETENTION
from flowbed.index.datasets import blocking
from flowbed.index.versions import State, state, versions
from flowbed.telemetry import COMPACTION_CLEANED, COMPACTION_MERGED, reached

if TYPE_CHECKING:
    import lance

    from flowbed.index.datasets import Datasets
    from flowbed.index.live import Live

VectorIndex = Literal["auto", "always", "never"]

# From so many rows on a scan takes 20 ms and more, four times as long as through an index, which is built in a second.
INDEX_ROWS = 20_000
# Unindexed rows are scanned exactly by every search; past this share of the indexed ones they are worth adding.
UNINDEXED = 0.05
# Each commit adds a fragment, and a search opens every one.
FRAGMENTS = 32
KEPT_VERSIONS = 10
KEPT_FOR = timedelta(days=7)


@dataclass(frozen=True, kw_only=True)
class Compaction:
    """What a compaction would do, or did; `drop_before` is a row version (µs), `partitions` 0 builds no index."""

    merge: bool
    partitions: int
    append: bool
    drop_before: int
    forget: tuple[int, ...]

    @property
    def due(self) -> bool:
        """Whether searches would gain by it."""
        return self.merge or self.append or self.partitions > 0


def plan_compaction(
    now_state: State,
    kept: list[tuple[int, int, bool]],
    *,
    indexed: bool,
    vector_index: VectorIndex,
    oldest_pending: int | None,
    now: int,
) -> Compaction:
    """Decide what to do about a state; `kept` lists (version, created, tagged), newest first.

    Tombstones stay for RETENTION and while an unfinished run is older than they are: its delta could otherwise bring
    the row back.
    """
    build = not indexed and (
        vector_index == "always" or (vector_index == "auto" and now_state.rows >= INDEX_ROWS)
    )
    append = indexed and now_state.unindexed_rows > max(1_000, UNINDEXED * now_state.rows)
    horizon = now - RETENTION // MICROSECOND
    forget = tuple(
        version
        for place, (version, created, tagged) in enumerate(kept)
        if place >= KEPT_VERSIONS and not tagged and created < now - KEPT_FOR // MICROSECOND
    )
    return Compaction(
        merge=now_state.fragments > FRAGMENTS,
        partitions=partitions_of(now_state.rows) if build and now_state.rows else 0,
        append=append or (indexed and vector_index == "always" and now_state.unindexed_rows > 0),
        drop_before=min(horizon, oldest_pending) if oldest_pending is not None else horizon,
        forget=forget,
    )


def partitions_of(rows: int) -> int:
    """Decide on how many partitions an index of `rows` has: their square root, as many as there are rows in each."""
    return max(1, round(math.sqrt(rows)))


async def compact(
    live: Live,
    *,
    datasets: Datasets,
    vector_index: VectorIndex,
    oldest_pending: int | None,
    now: int,
    only_if_due: bool = False,
) -> Compaction | None:
    """Compact a collection; with `only_if_due`, and nothing due, do nothing and return None. Safe beside commits."""
    dataset = await datasets.open(live)
    if dataset is None:
        return None
    indexed = await blocking(lambda: _indexed(dataset), f"the index of {live.collection}")
    plan = plan_compaction(
        await state(live, datasets=datasets),
        [(each.version, each.created, bool(each.tags)) for each in await versions(live, datasets=datasets)],
        indexed=indexed,
        vector_index=vector_index,
        oldest_pending=oldest_pending,
        now=now,
    )
    if only_if_due and not plan.due:
        return None
    await blocking(lambda: _apply(dataset, plan, full=not only_if_due), f"the index of {live.collection}")
    return plan


def _indexed(dataset: lance.LanceDataset) -> bool:
    return any(each.field_names == ["vector"] for each in dataset.describe_indices())


def _apply(dataset: lance.LanceDataset, plan: Compaction, *, full: bool) -> None:
    if dataset.count_rows(f"deleted = true AND version < {plan.drop_before}"):
        dataset.delete(f"deleted = true AND version < {plan.drop_before}")
    if plan.merge or full:
        # Without the threshold, the text of deleted rows would stay in the files until a tenth of them is deleted.
        dataset.optimize.compact_files(materialize_deletions_threshold=0.0 if full else 0.1)
        reached(COMPACTION_MERGED, version=dataset.version)
    if plan.partitions:
        # IVF_FLAT keeps exact distances and builds in seconds; kinds that compress take twenty times as long.
        dataset.create_index(
            "vector", "IVF_FLAT", metric="cosine", num_partitions=plan.partitions, name="vector", replace=True
        )
    elif plan.append:
        dataset.optimize.optimize_indices(num_indices_to_merge=0, index_names=["vector"])
    if plan.forget:
        dataset.cleanup_old_versions(versions=list(plan.forget), error_if_tagged_old_versions=False)
        reached(COMPACTION_CLEANED, versions=len(plan.forget))
