"""The flow of a project at one moment: what is where between the sources and the publications, and what is stuck."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flowbed.records import Status
from flowbed.records.values import count

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbed.events.schedule import Due
    from flowbed.ledger import Overview, RunRow
    from flowbed.maintenance.inspect import SourceStatus
    from flowbed.publish.records import Record
    from flowbed.services.models import Models
    from flowbed.services.page.browsing import BrowseService, CollectionSummary
    from flowbed.services.project import Project

# Seconds for which a look is used again: all who watch share it.
FRESH = 1.0
RUNS = 12  # newest runs that are shown
# µs that a source may be late before that is worth a line: a watch that is busy with another one is no fault.
LATE = 300_000_000


@dataclass(frozen=True, kw_only=True)
class Stuck:
    """What does not go on by itself: what, why, and the command that helps; `state` is waiting or failed."""

    what: str
    why: str
    fix: str
    state: str = "waiting"


@dataclass(frozen=True, kw_only=True)
class SourceFlow:
    """A source, and when it was fetched and is due (µs since 1970, 0 if unknown)."""

    name: str
    documents: int
    fetched: bool
    configured: bool
    last: int = 0
    next: int = 0
    followed: bool = False


@dataclass(frozen=True, kw_only=True)
class Flow:
    """One look at a project; counts are of chunks unless they say otherwise. `at` is µs since 1970."""

    at: int
    sources: Sequence[SourceFlow]
    waiting: int
    failed: int
    reverted: int
    embedding: int
    workers: int
    submitted: int  # texts of live submissions
    answered: int  # of them
    deltas: Sequence[str]  # collections with a run to commit
    rows: int
    collections: Sequence[CollectionSummary]
    runs: Sequence[RunRow]
    publications: Sequence[Record]
    letters: int
    stuck: Sequence[Stuck] = field(default=())


class FlowService:
    """Looks at the flow; looks at the same time, and within a second, are one."""

    def __init__(
        self,
        bed: Project,
        browse: BrowseService,
        models: Models,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Look at `bed`; `monotonic` returns seconds."""
        self._bed, self._browse, self._models = bed, browse, models
        self._monotonic = monotonic
        self._looking = asyncio.Lock()
        self._seen: Flow | None = None
        self._until = float("-inf")

    async def look(self, *, watched: bool = False) -> Flow:
        """Look at the flow; `watched` says that this process follows the sources."""
        async with self._looking:
            if self._seen is None or self._monotonic() >= self._until:
                self._seen = await self._look(watched=watched)
                self._until = self._monotonic() + FRESH
            return self._seen

    async def _look(self, *, watched: bool) -> Flow:
        ledger, views, now = self._bed.ledger, self._bed.views, self._bed.clock()
        overview = await ledger.overview()
        due = await views.schedule()
        sources = [_source(each, due.get(each.name)) for each in await views.sources()]
        collections = await self._browse.summaries()
        letters = await ledger.dead_letters.count()
        seen = Flow(
            at=now,
            sources=sources,
            waiting=_of(overview, Status.NONE),
            failed=_of(overview, Status.FAILED),
            reverted=_of(overview, Status.REVERTED),
            embedding=_of(overview, Status.PENDING),
            workers=len(overview.workers),
            submitted=sum(each.texts for each in overview.submissions),
            answered=sum(each.done + each.failed for each in overview.submissions),
            deltas=overview.pending,
            rows=sum(each.rows for each in collections),
            collections=collections,
            runs=await ledger.runs.recent(limit=RUNS),
            publications=await views.publications(),
            letters=letters,
        )
        down = [each.name for each in self._models.breakers() if each.state.value == "open"]
        return _with_stuck(seen, overview, down=down, watched=watched)


def _source(each: SourceStatus, due: Due | None) -> SourceFlow:
    return SourceFlow(
        name=each.name,
        documents=each.documents,
        fetched=each.fetched,
        configured=each.configured,
        last=due.last if due else 0,
        next=due.next if due else 0,
        followed=due.followed if due else False,
    )


def _of(overview: Overview, status: Status) -> int:
    return sum(number for (_, each), number in overview.unfinished.items() if each is status)


def _with_stuck(seen: Flow, overview: Overview, *, down: Sequence[str], watched: bool) -> Flow:
    found = [
        *_failures(seen, overview, down),
        *(_unattended(seen) if not (watched or seen.workers) else ()),
        *_submissions(overview),
    ]
    return Flow(**{**vars(seen), "stuck": found})


def _failures(seen: Flow, overview: Overview, down: Sequence[str]) -> list[Stuck]:
    found = [
        Stuck(
            what=each.name,
            why=each.problem,
            fix=f"flowbed verify {each.name} --repair; flowbed run",
            state="failed",
        )
        for each in seen.collections
        if each.problem
    ]
    found += [
        Stuck(
            what=name,
            why="the provider is down: it is called again when a trial call succeeds",
            fix="flowbed doctor",
            state="failed",
        )
        for name in down
    ]
    if seen.letters:
        of = f" of {', '.join(sorted(overview.troubled))}" if overview.troubled else ""
        found.append(
            Stuck(
                what=f"{count(seen.letters, 'dead letter')}{of}",
                why="it failed for a reason that does not pass by itself",
                fix="flowbed dead-letters list",
                state="failed",
            )
        )
    return found


def _unattended(seen: Flow) -> list[Stuck]:
    """Return what waits for a run, where nobody is at work."""
    found = []
    if seen.waiting:
        found.append(
            Stuck(what=f"{count(seen.waiting, 'chunk')} to embed", why="no run is at work", fix="flowbed run")
        )
    if seen.failed:
        found.append(
            Stuck(
                what=f"{count(seen.failed, 'chunk')} failed",
                why="the next run tries again those whose reason may have passed",
                fix="flowbed run",
            )
        )
    found += [
        Stuck(what=f"a delta of {name}", why="it is written and not committed", fix="flowbed run")
        for name in seen.deltas
    ]
    found += [
        Stuck(what=f"source {each.name}", why="it was never fetched", fix=f"flowbed run {each.name}")
        for each in seen.sources
        if each.configured and not each.fetched
    ]
    late = [each.name for each in seen.sources if 0 < each.next < seen.at - LATE]
    if late:
        found.append(
            Stuck(what=", ".join(late), why="due to be fetched, and no watch does it", fix="flowbed watch")
        )
    return found


def _submissions(overview: Overview) -> list[Stuck]:
    return [
        Stuck(what=f"submission {each.id}", why=each.error, fix=f"flowbed submissions poll {each.id}")
        for each in overview.submissions
        if each.error
    ]
