"""The jobs of the Batch API as a stage: finds those that wait, and executes each in one process at a time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flowbed.ledger.workers import HoldsWorkers
from flowbed.records.tasks import LAST, Task
from flowbed.services.batches.answering import LineEmbedder
from flowbed.services.batches.deaths import SUSPECT, deaths_at, note_death
from flowbed.services.batches.execution import LEASE_SECONDS, JobExecution, LeaseLost, Yielded
from flowbed.services.batches.fair_scheduling import jobs_to_yield
from flowbed.services.batches.jobs import JOBS, WORKFLOW, task_of
from flowbed.services.batches.output import FOLDER, drop_folder
from flowbed.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbed.ledger import JobRow
    from flowbed.services.batches.answering import LineCodec
    from flowbed.services.service import Service

UPKEEP = "upkeep"  # the queue of what nobody waits for
SWEEP_SECONDS = 3_600.0
# Seconds between two looks whether jobs have to yield their places.
LOOK_SECONDS = 1.0
# Jobs that one process executes concurrently; each has its input on local disk.
AT_ONCE = 8
# Seconds until a suspect is no longer taken for what kills this process: others need not wait for its provider.
PROBATION = 60.0


def _ignore(completed: int, failed: int) -> None:
    """Ignore the counts."""


@dataclass(frozen=True, slots=True)
class _RunningJob:
    """A job that this process executes."""

    owner: str
    execution: JobExecution
    task: asyncio.Task[None] | None


class BatchJobs:
    """`Stage` that executes the jobs of the Batch API."""

    workflow = WORKFLOW

    def __init__(
        self,
        service: Service,
        wire: LineCodec,
        *,
        busy: Callable[[], bool] = lambda: False,
        done: Callable[[int, int], None] = _ignore,
        monotonic: Callable[[], float] = time.monotonic,
        places: int | None = None,
    ) -> None:
        """Use a service, and a format for lines; `places` is how many jobs the process executes at a time.

        `busy` tells whether interactive requests are waiting; `done` receives how many lines were answered and failed.
        """
        self._service, self._rows = service, service.bed.ledger.jobs
        self._clock, self._monotonic = service.bed.clock, monotonic
        self._embedder = LineEmbedder(
            service.embeddings, service.models, wire, busy=busy, monotonic=monotonic
        )
        self._worker = service.bed.worker()
        self._done = done
        self._places = AT_ONCE if places is None else places
        self._running: dict[str, _RunningJob] = {}  # oldest first
        self._suspects: dict[str, float] = {}  # jobs at which processes died, and when they were begun here
        self._tending: asyncio.Task[None] | None = None

    async def waiting(self) -> Sequence[Task]:
        """Return the jobs that nobody executes: of each owner at most as many as there are places."""
        return [task_of(row) for row in await self._unclaimed()]

    async def run(self, key: str) -> Sequence[Task]:
        """Execute a job until it ends, or yields its place."""
        row = await self._rows.get(key)
        if row is None or row.ended or key in self._running:
            return ()
        deaths = await deaths_at(self._service.bed.ledger, key)
        if deaths < SUSPECT:
            return await self._begin(row, deaths)
        if self._is_watching_another(key):
            return ()  # it still waits: the sweep finds it again
        self._suspects[key] = self._monotonic()
        try:
            return await self._begin(row, deaths)
        finally:
            del self._suspects[key]

    def _is_watching_another(self, key: str) -> bool:
        """Tell whether another suspect was begun here, and may still be what kills this process."""
        for name, begun in self._suspects.items():
            job = self._running.get(name)
            cleared = job is not None and job.execution.deaths < SUSPECT
            if name == key or not (cleared or self._monotonic() - begun > PROBATION):
                return True
        return False

    async def _begin(self, row: JobRow, deaths: int) -> Sequence[Task]:
        """Claim a job and execute it."""
        key = row.id
        claiming = asyncio.create_task(self._claim(row))
        try:
            held = await asyncio.shield(claiming)
        except asyncio.CancelledError:
            # A lease that is being taken would be held by nobody who knows of it.
            if (held := await claiming) is not None:
                await self._execution(held, deaths).release()
            raise
        if held is None:
            return ()
        if row.worker:  # it did not give the job back
            deaths = await note_death(self._service.bed.ledger, key)
        row, execution = held, self._execution(held, deaths)
        self._running[key] = _RunningJob(row.owner, execution, asyncio.current_task())
        if self._tending is None:
            self._tending = asyncio.create_task(self._tend(), name="jobs")
        try:
            return await self._execute(row, execution)
        finally:
            del self._running[key]
            if not self._running:
                self._tending.cancel()
                self._tending = None

    def _execution(self, row: JobRow, deaths: int) -> JobExecution:
        return JobExecution(
            row,
            self._service,
            embedder=self._embedder,
            worker=self._worker,
            monotonic=self._monotonic,
            done=self._done,
            deaths=deaths,
        )

    async def _tend(self) -> None:
        """While jobs run, renew their leases, and let jobs of owners with most places yield to those of others."""
        held_at = self._monotonic()
        new = asyncio.Event()
        end = self._service.hints.listen(lambda task: new.set() if task.workflow == WORKFLOW else None)
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_SECONDS):
                        await new.wait()
                new.clear()
                try:
                    await self._yield_places()
                    if self._monotonic() - held_at > LEASE_SECONDS / 3:
                        held_at = self._monotonic()
                        await self._renew_leases()
                except Exception as error:  # noqa: BLE001 - the next look may succeed
                    log.warning("cannot look for waiting jobs, will try again: %s", error)
        finally:
            end()

    async def _yield_places(self) -> None:
        if len(self._running) >= self._places:
            waiting = await self._unclaimed()
            staying = {name: job.owner for name, job in self._running.items() if not job.execution.yielding}
            for name in jobs_to_yield(waiting, staying, places=self._places):
                self._running[name].execution.yield_place()

    async def _unclaimed(self) -> list[JobRow]:
        """Find unclaimed jobs, oldest first, of each owner at most as many as there are places."""
        at = self._clock()
        found: list[JobRow] = []
        owners: Counter[str] = Counter()
        async for page in self._rows.pages():
            for row in page:
                held = row.worker and row.until >= at and not self._service.bed.dead(row.worker)
                if row.id not in self._running and not held and owners[row.owner] < self._places:
                    owners[row.owner] += 1
                    found.append(row)
        return found

    async def _claim(self, row: JobRow) -> JobRow | None:
        """Take the lease of an unclaimed job, or of one whose holder has ended."""
        now = self._clock()
        until = now + round(LEASE_SECONDS * 1e6)
        if row.worker and row.until >= now:
            if not self._service.bed.dead(row.worker):
                return None
            mine = replace(row, worker=self._worker, until=until)
            if not await self._rows.save(mine, worker=row.worker):
                return None
        return await self._rows.hold(row.id, worker=self._worker, now=now, until=until)

    async def _renew_leases(self) -> None:
        """Renew every lease; execution of a job whose lease was lost is cancelled."""
        for name, job in list(self._running.items()):
            now = self._clock()
            until = now + round(LEASE_SECONDS * 1e6)
            held = await self._rows.hold(name, worker=self._worker, now=now, until=until)
            if held is None and job.task is not None:
                job.task.cancel()

    async def _execute(self, row: JobRow, execution: JobExecution) -> Sequence[Task]:
        """Execute a job; whatever ends that early, its lease is released. One that has yielded waits again."""
        try:
            await execution.run()
        except Yielded:
            with contextlib.suppress(Exception):  # the lease then expires
                await execution.release()
            return (task_of(row),)
        except LeaseLost:
            log.info("job %s is executed by another process", row.id)
        except asyncio.CancelledError:
            await execution.release()
            raise
        except Exception:
            # The first failure is the one to raise; the lease expires if it is not released.
            with contextlib.suppress(Exception):
                await execution.release()
            raise
        return ()


class FileRetention:
    """`Stage` that deletes expired files and parts of jobs that have ended, once an hour over all workers."""

    workflow = "retention"

    def __init__(self, service: Service, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Use a service."""
        self._service, self._monotonic = service, monotonic
        self._due = float("-inf")

    async def waiting(self) -> Sequence[Task]:
        """Return the task if an hour has passed since the last one."""
        if self._monotonic() < self._due:
            return ()
        self._due = self._monotonic() + SWEEP_SECONDS
        ledger = self._service.bed.ledger
        every = round(SWEEP_SECONDS * 1e6)
        if isinstance(ledger, HoldsWorkers) and not await ledger.workers.turn("files", every=every):
            return ()
        return (Task(workflow=self.workflow, queue=UPKEEP, priority=LAST),)

    async def run(self, key: str) -> Sequence[Task]:  # noqa: ARG002 - there is one
        """Delete them."""
        await self._service.files.sweep()
        store = self._service.bed.store
        for job in await store.folders(FOLDER):
            if not job.startswith(JOBS):  # not of a batch, whatever it is
                continue
            row = await self._service.bed.ledger.jobs.get(job)
            if row is None or row.ended:
                await drop_folder(store, f"{FOLDER}/{job}")
        return ()
