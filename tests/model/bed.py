"""An index and the actors that work on it, any of which may be paused at a named point."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.processes import interleaving
from tests.support.processes.interleaving import Actor
from tests.support.world import COLLECTION, LISTED, LOGGED, Listed, Logged, World, rules

from flowbed import telemetry
from flowbed.embedding.cache.cached import Cached
from flowbed.errors import Conflict, NotFound, Transient
from flowbed.index.active_space import Collections, live_collection, require_collection
from flowbed.index.compaction import compact
from flowbed.index.datasets import Datasets
from flowbed.lanes.contexts import RunContext
from flowbed.lanes.embed import embed
from flowbed.lanes.failures import RunStats
from flowbed.lanes.write_deltas import commit_pending
from flowbed.ledger import open_ledger
from flowbed.pipeline import ConfiguredSource
from flowbed.pipeline.rollback import release, roll_back
from flowbed.pipeline.run import run
from flowbed.pipeline.sync import sync
from flowbed.testing.clock import FixedClock
from flowbed.testing.embedder import Seeded
from flowbed.testing.faults import Fault, FaultyStore, unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from flowbed.index.active_space import Live
    from flowbed.records import Problem
    from flowbed.storage import Store, Stored


DIMENSIONS = 8
DOCUMENTS = [(LISTED, "a"), (LOGGED, "b")]
# Points of an actor between reading and writing, besides those of `flowbed.telemetry`.
OPENED, READ = "index.opened", "delta.read"
FAULTS = [("get", "before"), ("create", "before"), ("create", "after")]


class WrongError(AssertionError):
    """The index is, or became, what it must never be."""


class Overtaken(FaultyStore):
    """A store where an actor can be overtaken between listing the deltas to commit and merging them."""

    async def get(self, key: str) -> Stored:
        """Read, and pause if that is ordered."""
        if key.endswith("/delta.arrow"):
            interleaving.reach(READ)
        return await super().get(key)


class OpenedEarly(Datasets):
    """Datasets where an actor can be overtaken between opening and writing."""

    async def open(self, live: Live, *, version: int | None = None) -> Any:
        """Open, and pause if that is ordered."""
        dataset = await super().open(live, version=version)
        interleaving.reach(OPENED)
        return dataset


@dataclass
class Once:
    """The calls that an armed fault hits: the next one, or none."""

    armed: bool = False

    def __contains__(self, number: object) -> bool:
        """Hit once."""
        struck, self.armed = self.armed, False
        return struck


class Bed:
    """The real context, and the actors that use it."""

    def __init__(self, place: Callable[[Path], Store], disturb: Callable[[bool], None]) -> None:
        """Open everything, with the store that `place` returns; `disturb` turns the store's own faults on and off."""
        self.world = World()
        self.clock = FixedClock()
        self.loop = asyncio.Runner()
        # In memory where possible: each write waits until it is on disk.
        shared = Path("/dev/shm")  # noqa: S108 - a folder of a random name in it
        self.folder = Path(tempfile.mkdtemp(dir=shared if shared.is_dir() else None))
        self.faults = {fault: Once() for fault in FAULTS}
        self.store = Overtaken(
            place(self.folder),
            [
                Fault(operation=operation, calls=once, **{when: unavailable})  # type: ignore[arg-type]
                for (operation, when), once in self.faults.items()
            ],
        )
        self.ledger = self.run(open_ledger(":memory:", folder=self.folder, new_id="ledger"))
        self.datasets = Datasets(self.store)
        self.disturb = disturb
        self.paused: list[Actor] = []
        self.killed: list[Actor] = []
        self.started = 0
        self.target = 0  # of the rollback that starts next
        self.restored: list[tuple[int, int]] = []  # targets and versions that were not looked at yet
        self.deaf = [telemetry.listen(self.hear), interleaving.listen()]  # before any actor pauses

    def hear(self, point: str, facts: dict[str, Any]) -> None:
        """Record rollbacks: only they may bring back old rows."""
        if point == telemetry.ROLLBACK_RESTORED:
            self.restored.append((facts["target"], facts["version"]))

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine without interruption."""
        return self.loop.run(work)

    def context(self, worker: str) -> RunContext:
        """Build the context of another process."""
        return RunContext(
            store=self.store,
            ledger=self.ledger,
            datasets=OpenedEarly(self.store),
            embedder=lambda: Cached(Seeded(DIMENSIONS), []),
            batch_api=lambda: None,
            new_id=lambda: secrets.token_hex(12),
            clock=self.clock,
            monotonic=lambda: self.clock() / 1e6,
            dead=lambda name: any(actor.name == name for actor in self.killed),
            worker=worker,
            concurrency=1,
            sources=frozenset({LISTED, LOGGED}),
            collections=Collections(self.store),
        )

    def feeds(self) -> dict[str, ConfiguredSource]:
        """Return both sources."""
        return {
            LISTED: ConfiguredSource(source=Listed(self.world), rules=rules(LISTED)),
            LOGGED: ConfiguredSource(source=Logged(self.world), rules=rules(LOGGED)),
        }

    async def work(self, context: RunContext) -> None:
        """Do what a run does."""
        report = await run(context, feeds=self.feeds(), allow_deletes=True)
        unforeseen(report.failures)

    async def fetch(self, context: RunContext) -> None:
        """Fetch both sources."""
        for feed in self.feeds().values():
            unforeseen((await sync(feed, context, allow_deletes=True)).problems)

    async def embed(self, context: RunContext) -> None:
        """Embed the waiting chunks, and commit them."""
        unforeseen((await embed(context, sources=())).failures)

    async def commit(self, context: RunContext) -> None:
        """Commit the pending deltas."""
        tally = RunStats()
        await commit_pending(COLLECTION, context, tally)
        unforeseen(tally.failures)

    async def compact(self, context: RunContext) -> None:
        """Compact without the lease, which only saves work."""
        live = await live_collection(context.store, COLLECTION)
        if live is not None:
            await compact(
                live,
                datasets=context.datasets,
                vector_index="never",
                oldest_pending=await oldest_pending(context),
                now=context.clock(),
            )

    async def roll_back(self, context: RunContext) -> None:
        """Roll back without the lease, which only saves work."""
        await context.store.delete([f"{COLLECTION}/lease.json"])
        live = await require_collection(self.store, COLLECTION)
        await roll_back(context, live, self.target)

    async def release(self, context: RunContext) -> None:
        """Release what was rolled back."""
        await release(context, await require_collection(self.store, COLLECTION))

    def start(self, job: str, stop: str = "", times: int = 1) -> None:
        """Start a job, and run it up to a point or to its end."""
        self.started += 1
        name = f"{job} {self.started}"
        context = self.context(name)
        work = getattr(self, job.replace(" ", "_"))
        actor = Actor(name, lambda: work(context))
        self.paused.append(actor)
        self.resume(actor, stop, times)

    def resume(self, actor: Actor, stop: str = "", times: int = 1) -> None:
        """Continue an actor up to a point or to its end."""
        self.disturb(True)
        actor.proceed(stop, times)
        self.disturb(False)
        if actor.done:
            self.paused.remove(actor)
            if actor.error is not None and not isinstance(actor.error, Conflict | Transient | NotFound):
                raise actor.error

    def kill(self, actor: Actor) -> None:
        """Leave an actor paused for good."""
        self.paused.remove(actor)
        self.killed.append(actor)

    async def table(self, version: int | None = None) -> tuple[int, list[dict[str, Any]]]:
        """Read a version of the index, with tombstones."""
        live = await live_collection(self.store, COLLECTION)
        dataset = None if live is None else await self.datasets.open(live, version=version)
        if dataset is None:
            return 0, []
        return int(dataset.version), dataset.to_table().to_pylist()

    def close(self) -> None:
        """End the remaining actors, and close everything."""
        self.disturb(False)
        for actor in (*self.paused, *self.killed):
            actor.unwind()
        for deafen in self.deaf:
            deafen()
        self.run(self.ledger.close())
        self.loop.close()
        shutil.rmtree(self.folder)


async def oldest_pending(context: RunContext) -> int | None:
    """Return since when the oldest delta waits for a commit."""
    pending = await context.ledger.runs.pending(COLLECTION, limit=1)
    return pending[0].created if pending else None


def unforeseen(problems: Iterable[Problem]) -> None:
    """Fail for problems that are not due to the store's faults."""
    if wrong := [each for each in problems if "(a fault to order)" not in each.reason]:
        raise WrongError(f"a job met {wrong}")
