"""What a report about a project says: how well it is, how fresh, what it costs and how it grows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowbed.errors import Damaged
from flowbed.index.active_space import readable_collections
from flowbed.index.datasets import FileMissing
from flowbed.index.versions import state, versions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.index.versions import State, Version
    from flowbed.lanes.contexts import IndexContext
    from flowbed.ledger import RunRow, Spent
    from flowbed.maintenance.doctor import Diagnosis
    from flowbed.maintenance.inspect import SourceStatus

DAYS = 30  # of spending and growth
# Newest runs that growth is counted from.
RUNS = 5_000
MOST = 1_000  # sources and days of spending


@dataclass(frozen=True, kw_only=True)
class CollectionReport:
    """A collection: its newest state and the versions that are kept, newest first; `problem` if it cannot be read."""

    name: str
    model: str = ""
    state: State | None = None
    versions: Sequence[Version] = ()
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class ProjectReport:
    """The facts of a report; `at` is microseconds since 1970.

    `chunks` counts by status, `letters` dead letters by cause (kind, owner, reason). `runs` are the newest, `days` what
    was spent on each of the last days, `schedule` when a watch fetched each source and will (0 if unknown).
    """

    at: int
    name: str
    diagnosis: Diagnosis
    chunks: Mapping[str, int]
    letters: Mapping[tuple[str, str, str], int]
    collections: Sequence[CollectionReport]
    sources: Sequence[SourceStatus]
    schedule: Mapping[str, tuple[int, int]]
    runs: Sequence[RunRow]
    days: Sequence[Spent]
    by_source: Sequence[Spent]
    by_lane: Sequence[Spent]


async def report(
    context: IndexContext,
    *,
    name: str,
    at: int,
    diagnosis: Diagnosis,
    sources: Sequence[SourceStatus],
    schedule: Mapping[str, tuple[int, int]],
) -> ProjectReport:
    """Gather the facts; a collection that cannot be read says why."""
    ledger = context.ledger
    chunks: dict[str, int] = {}
    for (_, status), number in (await ledger.chunks.counts()).items():
        chunks[status.value] = chunks.get(status.value, 0) + number
    letters: dict[tuple[str, str, str], int] = {}
    async for page in ledger.dead_letters.pages():
        for letter in page:
            cause = (letter.kind, letter.owner, letter.reason)
            letters[cause] = letters.get(cause, 0) + 1
    since = at - DAYS * 86_400_000_000
    return ProjectReport(
        at=at,
        name=name,
        diagnosis=diagnosis,
        chunks=chunks,
        letters=letters,
        collections=await _collections(context),
        sources=sources,
        schedule=schedule,
        runs=await ledger.runs.recent(limit=RUNS),
        days=sorted(await ledger.spending.totals("day", limit=MOST, since=since), key=lambda each: each.name),
        by_source=await ledger.spending.totals("source", limit=MOST),
        by_lane=await ledger.spending.totals("lane", limit=MOST),
    )


async def _collections(context: IndexContext) -> list[CollectionReport]:
    lives, damaged = await readable_collections(context.store)
    found = [CollectionReport(name=name, problem=reason) for name, reason in damaged.items()]
    for live in lives:
        try:
            now = await state(live, datasets=context.datasets)
            kept = await versions(live, datasets=context.datasets)
        except (Damaged, FileMissing) as error:
            found.append(CollectionReport(name=live.collection, problem=str(error)))
            continue
        if now.version:
            found.append(
                CollectionReport(name=live.collection, model=live.space.model, state=now, versions=kept)
            )
    return sorted(found, key=lambda each: each.name)
