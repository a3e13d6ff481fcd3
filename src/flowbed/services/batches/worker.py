"""The background of a server: jobs are found, held by one process at a time, and done; old files are swept."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from flowbed.services.batches.answering import Answers
from flowbed.services.batches.execution import HELD, GaveWay, Lost, Work
from flowbed.services.batches.fair_scheduling import following, giving_way
from flowbed.services.batches.output import FOLDER, drop_folder
from flowbed.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbed.ledger import JobRow
    from flowbed.services.batches.answering import Wire
    from flowbed.services.service import Service

# Seconds between two looks for jobs that other processes have taken on, or died of.
EVERY = 1.0
# Jobs that one process works on at once, in turns; each has its input on this machine's disk.
AT_ONCE = 8
# Seconds after which a job that could not go on is tried again, doubled each time.
AGAIN, AGAIN_MOST = 1.0, 60.0
SWEPT_EVERY = 3_600.0


def _nothing(completed: int, failed: int) -> None:
    """Count nothing."""


@dataclass(frozen=True, slots=True)
class _Begun:
    """A job that is worked on here."""

    owner: str
    work: Work
    task: asyncio.Task[None]


class Working:
    """A context in which the jobs of a project go on, beside those of other processes."""

    def __init__(
        self,
        service: Service,
        wire: Wire,
        *,
        busy: Callable[[], bool] = lambda: False,
        done: Callable[[int, int], None] = _nothing,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take what is served and how lines are worded.

        `busy` tells whether people wait for answers; `done` is told how many lines were answered, and failed.
        """
        self._service, self._rows = service, service.bed.ledger.jobs
        self._clock, self._monotonic = service.bed.clock, monotonic
        self._answers = Answers(service.embeddings, service.models, wire, busy=busy, monotonic=monotonic)
        self._worker = service.bed.worker()
        self._done = done
        self._running: dict[str, _Begun] = {}  # in the order in which they were begun
        self._failures: dict[
            str, tuple[int, float]
        ] = {}  # how often a job could not go on, and when it may again
        self._ending = False
        self._looking: asyncio.Task[None] | None = None
        self._sweeping: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin."""
        self._looking = asyncio.create_task(self._look_on(), name="jobs")
        self._sweeping = asyncio.create_task(self._sweep_on(), name="files")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let go of every job where it is; another process, or the next one here, goes on with it."""
        # Not cancelled: a job that is just being held would be held by nobody who knows.
        self._ending = True
        self._service.jobs.changed.set()
        if self._looking is not None and self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait([self._looking, self._sweeping])
        tasks = [begun.task for begun in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def look(self) -> None:
        """Begin with the jobs that nobody works on, as many as may be, round their owners.

        Where all places are taken, jobs of those who have most of them are asked to give way.
        """
        waiting = [] if self._ending else await self._waiting()
        while waiting and not self._ending and len(self._running) < AT_ONCE:
            owners = Counter(begun.owner for begun in self._running.values())
            row = following(waiting, owners)
            waiting.remove(row)
            held = await self._held(row)
            if held is not None and held.id not in self._running:
                self._begin(held)
        staying = {job: begun.owner for job, begun in self._running.items() if not begun.work.gives_way}
        for job in giving_way(waiting, staying, places=AT_ONCE):
            self._running[job].work.give_way()

    async def sweep(self) -> None:
        """Remove files whose time is over, and parts of jobs that have ended."""
        await self._service.files.sweep()
        store = self._service.bed.store
        for job in await store.folders(FOLDER):
            row = await self._rows.get(job)
            if row is None or row.ended:
                await drop_folder(store, f"{FOLDER}/{job}")

    async def _look_on(self) -> None:
        held_at = self._monotonic()
        changed = self._service.jobs.changed
        while not self._ending:
            changed.clear()
            try:
                await self.look()
                if self._monotonic() - held_at > HELD / 3:
                    held_at = self._monotonic()
                    await self._hold_on()
            except Exception as error:  # noqa: BLE001 - whatever it is, the next look may find more
                log.warning("jobs cannot be looked for, which is tried again: %s", error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY):
                    await changed.wait()

    async def _sweep_on(self) -> None:
        while True:
            try:
                await self.sweep()
            except Exception as error:  # noqa: BLE001 - whatever it is, the next time may do it
                log.warning("old files are not swept, which is tried again: %s", error)
            await asyncio.sleep(SWEPT_EVERY)

    async def _waiting(self) -> list[JobRow]:
        """Find jobs that nobody works on, oldest first, and of each owner no more than there are places."""
        now, at = self._monotonic(), self._clock()
        found: list[JobRow] = []
        owners: Counter[str] = Counter()
        async for page in self._rows.pages():
            for row in page:
                put_off = self._failures.get(row.id, (0, now))[1] > now
                held = row.worker and row.until >= at and not self._service.bed.dead(row.worker)
                if row.id not in self._running and not put_off and not held and owners[row.owner] < AT_ONCE:
                    owners[row.owner] += 1
                    found.append(row)
        return found

    def _begin(self, row: JobRow) -> None:
        work = Work(
            row,
            self._service,
            answers=self._answers,
            worker=self._worker,
            monotonic=self._monotonic,
            done=self._done,
        )
        task = asyncio.create_task(self._work(row, work), name=row.id)
        self._running[row.id] = _Begun(row.owner, work, task)

    async def _held(self, row: JobRow) -> JobRow | None:
        """Hold a job that nobody holds; that of a process which has ended here is taken over."""
        now = self._clock()
        until = now + round(HELD * 1e6)
        if row.worker and row.until >= now:
            if not self._service.bed.dead(row.worker):
                return None
            mine = replace(row, worker=self._worker, until=until)
            if not await self._rows.save(mine, worker=row.worker):
                return None
        return await self._rows.hold(row.id, worker=self._worker, now=now, until=until)

    async def _hold_on(self) -> None:
        """Put off the end of every hold; work on a job that was lost is ended."""
        for job, begun in list(self._running.items()):
            now = self._clock()
            until = now + round(HELD * 1e6)
            if await self._rows.hold(job, worker=self._worker, now=now, until=until) is None:
                begun.task.cancel()

    async def _work(self, row: JobRow, work: Work) -> None:
        """Work on a job until it has ended, or cannot go on."""
        try:
            await work.run()
        except GaveWay:
            with contextlib.suppress(Exception):  # its hold then runs out
                await work.let_go()
        except Lost:
            log.info("job %s is worked on elsewhere", row.id)
        except asyncio.CancelledError:
            await work.let_go()
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, other jobs go on, and this one is tried again
            failures = self._failures.get(row.id, (0, 0.0))[0] + 1
            wait = min(AGAIN * 2 ** min(failures, 10), AGAIN_MOST)
            self._failures[row.id] = failures, self._monotonic() + wait
            log.warning("job %s cannot go on, and is tried again in %g s: %s", row.id, wait, error)
            with contextlib.suppress(Exception):
                await work.let_go()
        else:
            self._failures.pop(row.id, None)
        finally:
            self._running.pop(row.id, None)
            self._service.jobs.changed.set()
