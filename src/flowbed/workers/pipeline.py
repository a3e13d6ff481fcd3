"""The stages of the pipeline: from sources to publications, each a task by the key of what it works on."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from flowbed.errors import Conflict, Transient, Unavailable
from flowbed.events.waiting_sources import sources_to_embed
from flowbed.lanes.claims import WAITING
from flowbed.ledger import Swap
from flowbed.ledger.workers import HoldsWorkers
from flowbed.publish.due import interval
from flowbed.records.tasks import FIRST, LAST, Task
from flowbed.telemetry import log
from flowbed.wiring.events import watched_sources

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.bed import Flowbed
    from flowbed.ledger import BatchRow

FETCH, EMBED, COMMIT, BATCH, UPKEEP = "fetch", "embed", "commit", "batch", "upkeep"
# Batches that one sweep enqueues at most: the next sweep sees what is left.
MANY = 200
MINUTE, DAY = 60, 86_400  # s
# Seconds between two looks at the provider's Batch API, and at what is published at fixed times.
POLL = MINUTE


def stages_of(bed: Flowbed) -> list[Sync | Embed | BatchLane | BatchPoll | Commit | Compact | Publish]:
    """Return the stages of a project."""
    return [Sync(bed), Embed(bed), BatchLane(bed), BatchPoll(bed), Commit(bed), Compact(bed), Publish(bed)]


def schedules_of(bed: Flowbed) -> Mapping[str, tuple[Task, int]]:
    """Return the tasks that are done every so many seconds, by name."""
    # Most are published with each commit, or by command only.
    if not any(interval(each.every) for each in bed.settings.publish.values()):
        return {}
    return {"publish": (Task(workflow=Publish.workflow, queue=UPKEEP, priority=LAST), POLL)}


class Sync:
    """Fetches a source, by its schedule, into batch files."""

    workflow = "sync"

    def __init__(self, bed: Flowbed) -> None:
        """Use an open project."""
        self._bed = bed

    async def waiting(self) -> Sequence[Task]:
        """Return the sources that are due; one that was never fetched is."""
        now = self._bed.clock()
        return [
            Task(workflow=self.workflow, key=name, queue=FETCH)
            for name, due in (await self._due()).items()
            if due <= now
        ]

    async def _due(self) -> dict[str, int]:
        """Return when each source is due (µs since 1970)."""
        watched = watched_sources(self._bed.settings, self._bed.folder)
        found = {}
        for name, each in watched.items():
            last = (await self._bed.ledger.documents.cursor(tick(name))).value
            found[name] = each.schedule.due(int(last)) if last else 0
        return found

    async def run(self, key: str) -> Sequence[Task]:
        """Fetch it, unless another worker just has; its batch files are embedded next."""
        due = (await self._due()).get(key)
        if due is None or due > self._bed.clock():
            return ()
        written: list[BatchRow] = []
        synced = await self._bed.fetch(key, wrote=written.append)
        for problem in synced.problems:
            if not problem.skipped:
                log.warning("%s of %s failed: %s", problem.subject, key, problem.reason)
        if synced.withheld:
            log.warning("deletions of %s are withheld: %s", key, synced.withheld)
        with suppress(Conflict):  # another worker has just done the same
            cursor = await self._bed.ledger.documents.cursor(tick(key))
            await self._bed.ledger.documents.swap(Swap(cursor=cursor, value=str(self._bed.clock())))
        if not realtime(self._bed):
            return (Task(workflow=BatchLane.workflow, queue=BATCH),)
        found = [Task(workflow=Embed.workflow, key=row.id, queue=EMBED) for row in written]
        return [*found, *([Task(workflow=Commit.workflow, queue=COMMIT)] if synced.deleted else [])]


class Embed:
    """Embeds a batch file, and writes its deltas; a commit merges those of several."""

    workflow = "embed"

    def __init__(self, bed: Flowbed) -> None:
        """Use an open project."""
        self._bed = bed
        self._left: list[str] = []  # names under which chunks may be claimed still, since the ledger was away

    async def waiting(self) -> Sequence[Task]:
        """Return the oldest batch files with chunks that wait."""
        if not realtime(self._bed):
            return ()
        return [
            Task(workflow=self.workflow, key=batch, queue=EMBED)
            for batch in await waiting_batches(self._bed)
            if batch
        ]

    async def run(self, key: str) -> Sequence[Task]:
        """Embed what of a batch waits."""
        from flowbed.events.stages import write_deltas  # loads numpy and lance

        await self._release()
        context = self._bed.run_context()
        try:
            done = await write_deltas(context, batches=[key])
        except Transient:
            self._left.append(context.worker)
            raise
        if done.failures and not done.chunks:
            why = f"batch {key}: {done.failures[0].reason}"
            if await self._still_waits(key):
                raise Unavailable(why)
            log.warning("%s", why)
        return [
            Task(workflow=Commit.workflow, key=name, queue=COMMIT, partition=name, priority=FIRST)
            for name in await self._bed.ledger.runs.collections()
        ]

    async def _release(self) -> None:
        """Release what earlier attempts could not: else it would wait until their claims expire."""
        while self._left:
            name = self._left.pop()
            try:
                await self._bed.ledger.chunks.release(name)
            except Transient:
                self._left.append(name)
                raise

    async def _still_waits(self, batch: str) -> bool:
        ready = self._bed.ledger.chunks.ready
        return bool(await ready(batch, WAITING, now=self._bed.clock(), sources=()))


class BatchLane:
    """Gathers what waits for the provider's Batch API, and submits it."""

    workflow = "batch_submit"

    def __init__(self, bed: Flowbed) -> None:
        """Use an open project."""
        self._bed = bed

    async def waiting(self) -> Sequence[Task]:
        """Return the task if anything waits, and the settings leave it to the batch lane."""
        if realtime(self._bed) or not await waiting_batches(self._bed):
            return ()
        return (Task(workflow=self.workflow, queue=BATCH),)

    async def run(self, key: str) -> Sequence[Task]:  # noqa: ARG002 - there is one
        """Submit it, or embed it now where a deadline demands that."""
        report = await self._bed.embed_waiting()
        for problem in report.failures:
            log.warning("%s failed: %s", problem.subject, problem.reason)
        return ()


class BatchPoll:
    """Asks the provider's Batch API about submissions, and commits their results."""

    workflow = "batch_poll"

    def __init__(self, bed: Flowbed) -> None:
        """Use an open project."""
        self._bed = bed

    async def waiting(self) -> Sequence[Task]:
        """Return the task if there are live submissions, and no worker has asked about them within a minute."""
        ledger = self._bed.ledger
        if not await self._bed.submissions():
            return ()
        if isinstance(ledger, HoldsWorkers) and not await ledger.workers.turn("poll", every=POLL * 10**6):
            return ()
        return (Task(workflow=self.workflow, queue=BATCH),)

    async def run(self, key: str) -> Sequence[Task]:  # noqa: ARG002 - there is one
        """Ask about all that are live."""
        polled = await self._bed.poll()
        for problem in polled.tally.failures:
            log.warning("%s failed: %s", problem.subject, problem.reason)
        return ()


class Commit:
    """Commits the deltas of a collection, and the deletions that wait; without a key those of all."""

    workflow = "commit"

    def __init__(self, bed: Flowbed) -> None:
        """Use an open project."""
        self._bed = bed

    async def waiting(self) -> Sequence[Task]:
        """Return the collections with deltas that no commit holds."""
        names = await self._bed.ledger.runs.collections()
        found = [
            Task(workflow=self.workflow, key=name, queue=COMMIT, partition=name, priority=FIRST)
            for name in names
        ]
        if not found and "" in await waiting_batches(self._bed):
            return (Task(workflow=self.workflow, queue=COMMIT),)
        return found

    async def run(self, key: str) -> Sequence[Task]:
        """Commit, compact where that is due, and publish what is due."""
        done = await self._bed.commit(key or None)
        for problem in done.failures:
            log.warning("%s failed: %s", problem.subject, problem.reason)
        return ()


class Compact:
    """Compacts a collection once a day, so that its old versions expire although nothing is written to it."""

    workflow = "compact"

    def __init__(self, bed: Flowbed) -> None:
        """Use an open project."""
        self._bed = bed

    async def waiting(self) -> Sequence[Task]:
        """Return the collections that no worker has compacted today."""
        ledger = self._bed.ledger
        if not isinstance(ledger, HoldsWorkers) or not await ledger.workers.turn(
            "compact", every=DAY * 10**6
        ):
            return ()
        status = await self._bed.status()
        return [
            Task(workflow=self.workflow, key=name, queue=UPKEEP, partition=name, priority=LAST)
            for name in status.collections
        ]

    async def run(self, key: str) -> Sequence[Task]:
        """Compact it."""
        with suppress(Conflict):  # another process is compacting it
            await self._bed.compact(key)
        return ()


class Publish:
    """Publishes what is due; a schedule says when, and each commit does it too."""

    workflow = "publish"

    def __init__(self, bed: Flowbed) -> None:
        """Use an open project."""
        self._bed = bed

    async def waiting(self) -> Sequence[Task]:
        """Return nothing: a schedule says when."""
        return ()

    async def run(self, key: str) -> Sequence[Task]:  # noqa: ARG002 - there is one
        """Publish it."""
        for problem in (await self._bed.publish_due()).failures:
            log.warning("%s failed: %s", problem.subject, problem.reason)
        return ()


def realtime(bed: Flowbed) -> bool:
    """Return whether texts are embedded as they come, and not left to the choice between lanes."""
    lane = bed.settings.lane
    return lane == "realtime" or (lane == "auto" and bed.settings.deadline_hours is None)


async def waiting_batches(bed: Flowbed) -> list[str]:
    """Return the oldest batches with chunks that wait and that nobody holds; "" stands for deletions."""
    context = bed.run_context()
    sources = sorted(await sources_to_embed(context))
    found: list[str] = []
    if sources:
        async for page in context.ledger.chunks.batches(WAITING, now=context.clock(), sources=sources):
            found += page
            if len(found) >= MANY:
                break
    return found[:MANY]


def tick(name: str) -> str:
    """Return the source of the ledger under which a watch keeps when it last fetched a source; no other has a dot."""
    return f"{name}.watch"
