"""A worker: takes tasks from an engine and carries them out, and finds in the ledger what no engine tells of."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from flowbed.errors import Error, Transient
from flowbed.ledger.workers import PAUSED
from flowbed.telemetry import log
from flowbed.workers import VERSION
from flowbed.workers.membership import DEATHS_MOST, Membership, Timing
from flowbed.workers.outage import Outage

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from flowbed.ledger.workers import Workers
    from flowbed.records.tasks import Task
    from flowbed.services.stages import Hints, Stage
    from flowbed.workers import Engine, Limits, Opener
    from flowbed.workers.membership import Care

# Seconds after the end of a task until those that follow from it are enqueued.
FOLLOWING = 0.02
# Seconds before a task that failed is tried again, doubled each time.
RETRY, RETRY_MOST = 1.0, 60.0


@dataclass
class _Failed:
    """How often a task failed, and when it may be carried out again (monotonic seconds)."""

    times: int = 0
    until: float = 0.0


class Worker:
    """A context in which tasks are carried out.

    A sweep enqueues what waits in the ledger without a holder, so that hints may be lost: those of an engine's database
    that was replaced, of an older version, or of a process that died between its write and its hint.
    """

    def __init__(
        self,
        name: str,
        stages: Sequence[Stage],
        queues: Mapping[str, Limits],
        opener: Opener,
        *,
        clock: Callable[[], int],
        hints: Hints | None = None,
        rows: Workers | None = None,
        care: Care | None = None,
        timing: Timing = Timing(),  # noqa: B008 - frozen
        version: str = VERSION,
        monotonic: Callable[[], float] = time.monotonic,
        schedules: Mapping[str, tuple[Task, int]] | None = None,
        outage: Outage | None = None,
    ) -> None:
        """Carry out the tasks of `stages` that are in `queues`, by the name `name` (see `wiring.process.worker`).

        `clock` returns µs since 1970, `hints` tell of tasks, and `schedules` are tasks with the seconds between two.
        With `rows`, pauses of queues are heeded. With `care` too, it is one of many workers of one engine: they beat,
        find the dead among them, and sweep in turn. `outage` is told when the ledger is away.
        """
        self.name, self._queues, self._opener = name, dict(queues), opener
        self._stages = {stage.workflow: stage for stage in stages}
        self._clock, self._monotonic, self._hints = clock, monotonic, hints
        self._rows, self._care, self._timing, self._version = rows, care, timing, version
        self._schedules = dict(schedules or {})
        self._failed: dict[str, _Failed] = {}
        self._causes: dict[str, str] = {}  # what running tasks wait for
        self._told: dict[str, Task] = {}
        self._wake = asyncio.Event()
        self._paused: frozenset[str] = frozenset()
        self._loops: list[asyncio.Task[None]] = []
        self._engine: Engine | None = None
        self._membership: Membership | None = None
        self._draining = False
        self._stop_hints: Callable[[], None] = lambda: None
        self.running: dict[str, Task] = {}
        self.told_to_leave = asyncio.Event()
        self.outage = outage or Outage("the ledger", monotonic=monotonic)

    @property
    def engine(self) -> Engine:
        """The engine, while the worker is open."""
        if self._engine is None:
            raise RuntimeError("this worker is not open")
        return self._engine

    async def __aenter__(self) -> Self:
        """Begin to carry out tasks.

        Raises:
            Misconfigured: the engine cannot be used here.
        """
        self._engine = await self._opener(
            self.name, self._queues, self._carry_out, clock=self._clock, version=self._version
        )
        if self._hints is not None:
            self._stop_hints = self._hints.listen(self.hint)
        loops: list[tuple[str, Coroutine[Any, Any, None]]] = [
            ("hints", self._pass_on_hints()),
            ("sweep", self._keep_sweeping()),
        ]
        if self._rows is not None and self._care is not None:
            self._membership = Membership(
                self.name,
                rows=self._rows,
                care=self._care,
                timing=self._timing,
                queues=self._queues,
                version=self._version,
                engine=lambda: self.engine,
                running=self.running,
                leaving=self.told_to_leave,
                outage=self.outage,
                clock=self._clock,
                monotonic=self._monotonic,
            )
            loops += [
                ("beat", self._membership.keep_beating()),
                ("look", self._membership.keep_looking()),
            ]
        if self._schedules:
            loops.append(("schedules", self._schedule()))
        self._loops = [asyncio.create_task(loop, name=name) for name, loop in loops]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Take nothing more, let running tasks end for a while, and give back the others."""
        await self.drain(self._timing.grace)

    async def drain(self, seconds: float) -> int:
        """Leave: take no more tasks, wait for those that run, give back those left; return how many those are."""
        self._draining = True
        self._stop_hints()
        beating = [loop for loop in self._loops if loop.get_name() == "beat"]
        for loop in self._loops:
            if loop not in beating:
                loop.cancel()
        if self._membership is not None:
            self._membership.state = "draining"
        try:
            return await self.engine.drain(seconds)
        finally:
            for loop in beating:
                loop.cancel()
            await asyncio.gather(*self._loops, return_exceptions=True)
            if self._membership is not None:
                await self._membership.leave()

    def hint(self, task: Task) -> None:
        """Take note of a task, to enqueue it soon; never fails and never waits."""
        self._told[task.id] = task
        self._wake.set()

    async def sweep(self) -> int:
        """Enqueue what waits in the ledger and nobody holds; return how many tasks were not enqueued yet.

        Raises:
            Transient: the ledger or the engine cannot be reached.
        """
        if self._rows is not None and self._membership is None:
            self._paused = frozenset((await self._rows.marks(PAUSED))[0])
        found: list[Task] = []
        for stage in self._stages.values():
            found += await stage.waiting()
        return await self.engine.enqueue([task for task in found if self._may_run(task)])

    def _may_run(self, task: Task) -> bool:
        """Tell whether a task is neither paused, nor given up, nor waiting after a failure."""
        paused, deaths = self._paused, 0
        if self._membership is not None:
            paused, deaths = self._membership.paused, self._membership.deaths.get(task.id, 0)
        failed = self._failed.get(task.id)
        waits = failed is not None and failed.until > self._monotonic()
        return not waits and task.queue not in paused and deaths < DEATHS_MOST

    async def _keep_sweeping(self) -> None:
        every = round(self._timing.sweep * 1e6)
        while True:
            asked = self._monotonic()
            try:
                mine = self._membership is None or self._rows is None
                if mine or (self._rows is not None and await self._rows.turn("sweep", every=every)):
                    await self.sweep()
                self.outage.over(asked=asked)
            except Transient as error:
                self.outage.failed(error)
            except Exception as error:  # noqa: BLE001 - the next sweep may succeed
                log.warning("cannot look for work, will try again: %s", error)
            await asyncio.sleep(self._timing.sweep)

    async def _pass_on_hints(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            told, self._told = self._told, {}
            try:
                await self.engine.enqueue([task for task in told.values() if self._may_run(task)])
            except Exception as error:  # noqa: BLE001 - the sweep finds them
                log.info("hints are left to the sweep: %s", error)

    async def _schedule(self) -> None:
        left = dict(self._schedules)
        while left:
            name, (task, every) = next(iter(left.items()))
            try:
                await self.engine.schedule(name, task, every=every)
            except Transient as error:
                self.outage.failed(error)
                await asyncio.sleep(RETRY)
                continue
            del left[name]

    async def _carry_out(self, task: Task) -> None:
        """Carry out one task; a passing failure is waited for, here, where what was done for it is at hand."""
        stage = self._stages.get(task.workflow)
        # It runs here already where this worker was taken for dead, and the task was enqueued again.
        if stage is None or not self._may_run(task) or task.id in self.running:
            return
        self.running[task.id] = task
        failed = self._failed.pop(task.id, None) or _Failed()
        try:
            following = await self._tried(stage, task, failed)
        except asyncio.CancelledError:
            raise
        except Exception:
            failed.until = self._monotonic() + _pause(failed)
            self._failed[task.id] = failed
            raise
        finally:
            self._causes.pop(task.id, None)
            del self.running[task.id]
        if self._membership is not None:
            self._membership.survived(task)
        # Once the engine knows that this one has ended: it may wait again.
        for each in following:
            asyncio.get_running_loop().call_later(FOLLOWING, self.hint, each)

    async def _tried(self, stage: Stage, task: Task, failed: _Failed) -> Sequence[Task]:
        while True:
            try:
                return await stage.run(task.key)
            except Transient as error:
                failed.times += 1
                wait = max(_pause(failed), error.retry_after or 0.0)
                # What several tasks wait for together is said once.
                cause = str(error).partition(" (")[0]
                said = self.outage.lasts or cause in self._causes.values()
                self._causes[task.id] = cause
                level = log.debug if said else log.warning
                level("%s is tried again in %.0f s: %s", task.id, wait, error)
                if self._draining:
                    raise
                await asyncio.sleep(wait)
            except Error:
                failed.times += 1
                raise


def _pause(failed: _Failed) -> float:
    """Return the seconds before a task that failed is tried again."""
    doubled: float = RETRY * 2 ** min(max(failed.times - 1, 0), 10)
    return min(doubled, RETRY_MOST)
