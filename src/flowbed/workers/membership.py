"""What workers do for each other: they beat, and take over the work of those that have died."""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowbed.errors import Error
from flowbed.ledger import DeadLetter
from flowbed.ledger.workers import DEATHS, LEAVE, PAUSED, TASK, WorkerRow
from flowbed.telemetry import log
from flowbed.workers import ENDED, UNFINISHED, State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from flowbed.ledger import DeadLetters
    from flowbed.ledger.workers import Workers
    from flowbed.records.tasks import Task
    from flowbed.workers import Engine, Limits
    from flowbed.workers.outage import Outage

# A worker that has not beaten without a gap for this many times the silence of a dead one reaps nobody: after an outage
# of the ledger all beats are old, and the living would be taken for dead.
GRACE = 1.5
# Workers that may die at a task before it is given up: it may be what kills them. Where machines are taken away often,
# it dies by chance too: 34 deaths among 6 workers hit one of 200 tasks three times.
DEATHS_MOST = 5
# Seconds between two deletions of ended entries, which are kept for a day.
CLEAN, KEPT = 3_600, 86_400
PAGE = 1_000


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds: between two beats, until a silent worker counts as dead, between two sweeps and two audits.

    `grace` is how long running tasks may take to end when the worker leaves.
    """

    beat: float = 2.0
    dead: float = 10.0
    sweep: float = 5.0
    audit: float = 30.0
    grace: float = 25.0


@dataclass(frozen=True, kw_only=True)
class Care:
    """What is done about the dead: `dead` tells by name whether a process of this machine has ended.

    `relieve` takes from a worker what it holds in the ledger. What killed too many workers goes into `letters`, unless
    it is of `counting` workflows, which count that themselves: their tasks do not say what is worked on.
    """

    dead: Callable[[str], bool]
    relieve: Callable[[str], Awaitable[None]]
    letters: DeadLetters
    counting: frozenset[str] = frozenset()


class Membership:
    """One worker among others: it says that it lives, and looks after those that do not."""

    def __init__(
        self,
        name: str,
        *,
        rows: Workers,
        care: Care,
        timing: Timing,
        queues: Mapping[str, Limits],
        version: str,
        engine: Callable[[], Engine],
        running: Mapping[str, Task],
        leaving: asyncio.Event,
        outage: Outage,
        clock: Callable[[], int],
        monotonic: Callable[[], float],
    ) -> None:
        """Be the worker `name`, whose `running` tasks are shown; `clock` returns µs since 1970.

        `leaving` is set once it shall leave.
        """
        self._name, self._rows, self._care, self._timing = name, rows, care, timing
        self._queues, self._version, self._engine = queues, version, engine
        self._running, self._leaving, self._outage = running, leaving, outage
        self._clock, self._monotonic = clock, monotonic
        self._last = self._unbroken = self._audited = float("-inf")
        self._started = 0  # when its row began, by the ledger's clock
        self._succeeded: set[str] = set()  # tasks, since the last beat
        self.state = "running"
        self.paused: frozenset[str] = frozenset()
        self.deaths: Mapping[str, int] = {}

    async def keep_beating(self) -> None:
        """Beat until cancelled; an outage of the ledger is waited for."""
        await self._keep(self.beat)

    async def keep_looking(self) -> None:
        """Look after the others until cancelled. Beats do not wait for it: the engine may take long to answer."""
        await self._keep(self.look)

    async def _keep(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except Error as error:
                self._outage.failed(error)
            except Exception as error:  # noqa: BLE001 - the next time it may succeed
                log.warning("cannot look after other workers, will try again: %s", error)
            await asyncio.sleep(self._timing.beat)

    async def beat(self) -> None:
        """Say that this worker lives, and read what is paused; forget who died at tasks that have succeeded since.

        Raises:
            Transient: the ledger cannot be reached.
        """
        host, pid, *_ = self._name.rsplit("/", 3)
        asked = self._monotonic()
        await self._rows.beat(
            WorkerRow(
                id=self._name,
                host=host,
                pid=int(pid) if pid.isdigit() else 0,
                version=self._version,
                queues=json.dumps({name: each.worker for name, each in self._queues.items()}),
                running=json.dumps(list(self._running)),
                state=self.state,
            )
        )
        now = self._monotonic()
        if now - self._last > self._timing.dead / 2:
            self._unbroken = now
        self._last = now
        self._outage.over(asked=asked)
        succeeded, self._succeeded = self._succeeded, set()
        paused, self.deaths, leave = await self._rows.marks(PAUSED, DEATHS, LEAVE)
        if proven := succeeded & self.deaths.keys():
            await self._rows.unmark(DEATHS, proven)
        self.paused = frozenset(paused)
        if self._name in leave:
            self._leaving.set()

    async def look(self) -> None:
        """Take over the work of the dead; once in a while, look for lost tasks and delete ended ones.

        Raises:
            Transient: the ledger or the engine cannot be reached.
        """
        rows = await self._rows.all()
        await self._notice_own_death(next((row for row in rows if row.id == self._name), None))
        others = [row for row in rows if row.id != self._name]
        for row in others:
            if silence := self._silence_of_the_dead(row):
                await self._reap(row, silence)
        now = self._monotonic()
        if now - self._audited >= self._timing.audit:
            self._audited = now
            if lost := await self._engine().resume(self._name):
                log.warning("%d tasks that this worker had lost are enqueued again", lost)
            await self._hand_over({row.version for row in others})
            if await self._rows.turn("clean", every=CLEAN * 1_000_000):
                await self._clean()

    async def _notice_own_death(self, row: WorkerRow | None) -> None:
        """Take back what was counted where this worker was taken for dead: its tasks have not killed it."""
        if row is None:
            return
        if self._started and row.started > self._started:
            log.warning(
                "this worker was taken for dead, since it did not beat for %g s: its machine may carry too much",
                self._timing.dead,
            )
            await self._rows.unmark(DEATHS, list(self._running))
        self._started = row.started

    def _silence_of_the_dead(self, row: WorkerRow) -> int:
        """Return for how long a dead worker has been silent (µs), 0 for one that may live."""
        if row.host == socket.gethostname() and self._care.dead(row.id):
            return 1  # its process is gone: there is nothing to wait for
        silence = round(self._timing.dead * 1e6)
        now = self._monotonic()
        # Its own last beat may be old too, and its next one is still to find that out.
        beats = now - self._last <= self._timing.dead / 2
        steady = beats and now - self._unbroken >= GRACE * self._timing.dead
        return silence if steady and row.silent >= silence else 0

    async def _reap(self, row: WorkerRow, silence: int) -> None:
        """Enqueue again what a dead worker had, except what has killed too many."""
        lost = round(self._timing.dead * 1e6)
        if not await self._rows.reap(row.id, by=self._name, silent=silence, lost=lost):
            return
        engine = self._engine()
        had = {
            entry.task.id: entry.id
            for entry in await engine.list({State.RUNNING}, worker=row.id, limit=PAGE)
            if entry.task.workflow not in self._care.counting
        }
        deaths = await self._rows.add(DEATHS, had)
        given_up = [name for name in had if deaths[name] >= DEATHS_MOST]
        if given_up:
            letters = [self._letter(name, deaths[name]) for name in given_up]
            await self._care.letters.add(letters)
            for letter in letters:
                log.error("%s was given up: %s", letter.subject, letter.reason)
            await engine.delete([had[name] for name in given_up])
        await self._care.relieve(row.id)
        resumed = await engine.resume(row.id)
        await self._rows.remove(row.id)
        log.warning("worker %s has died: %d of its tasks are enqueued again", row.id, resumed)

    def _letter(self, task: str, deaths: int) -> DeadLetter:
        return DeadLetter(
            kind=TASK,
            owner="workers",
            subject=task,
            reason=f"{deaths} workers died while they ran it, so it may be what kills them; the log of their machines"
            " says what of, often that memory ran out",
            at=self._clock(),
        )

    async def _hand_over(self, living: set[str]) -> None:
        """Delete entries for versions of which no worker lives; the sweep enqueues what of them still waits."""
        engine = self._engine()
        known = {self._version, *living}
        old = [entry.id for entry in await engine.list(UNFINISHED, limit=PAGE) if entry.version not in known]
        if old:
            await engine.delete(old)
            log.warning("%d tasks of another version of Flowbed are enqueued for this one", len(old))

    async def _clean(self) -> None:
        """Delete entries that ended a day ago, so that the engine's tables do not grow for ever."""
        before = self._clock() - KEPT * 1_000_000
        while ended := await self._engine().list(ENDED, ended_before=before, limit=PAGE):
            await self._engine().delete([entry.id for entry in ended])

    def survived(self, task: Task) -> None:
        """Take note that a task has succeeded: the next beat forgets who died at it, whenever that was."""
        self._succeeded.add(task.id)

    async def leave(self) -> None:
        """Leave the others; whoever finds the ledger away is found dead instead."""
        try:
            await self._rows.unmark(LEAVE, [self._name])
            await self._rows.remove(self._name)
        except Error as error:
            log.warning("cannot leave the other workers, they will find out: %s", error)
