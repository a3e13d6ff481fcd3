"""The background of a server: finds jobs, executes each in one process at a time, and deletes old files."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from flowbed.services.batches.answering import LineEmbedder
from flowbed.services.batches.execution import LEASE_SECONDS, JobExecution, LeaseLost, Yielded
from flowbed.services.batches.fair_scheduling import jobs_to_yield, next_job
from flowbed.services.batches.output import FOLDER, drop_folder
from flowbed.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbed.ledger import JobRow
    from flowbed.services.batches.answering import LineCodec
    from flowbed.services.service import Service

# Seconds between two searches for jobs that other processes created or died of.
LOOK_SECONDS = 1.0
# Jobs that one process executes concurrently; each has its input on local disk.
AT_ONCE = 8
# Seconds before a failed job is tried again, doubled each time.
RETRY, RETRY_MOST = 1.0, 60.0
SWEEP_SECONDS = 3_600.0


def _ignore(completed: int, failed: int) -> None:
    """Ignore the counts."""


@dataclass(frozen=True, slots=True)
class _RunningJob:
    """A job that this process executes."""

    owner: str
    execution: JobExecution
    task: asyncio.Task[None]


class JobWorker:
    """A context in which the jobs of a project are executed, sharing them with other processes."""

    def __init__(
        self,
        service: Service,
        wire: LineCodec,
        *,
        busy: Callable[[], bool] = lambda: False,
        done: Callable[[int, int], None] = _ignore,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Use a service, and a format for lines.

        `busy` tells whether interactive requests are waiting; `done` receives how many lines were answered and failed.
        """
        self._service, self._rows = service, service.bed.ledger.jobs
        self._clock, self._monotonic = service.bed.clock, monotonic
        self._embedder = LineEmbedder(
            service.embeddings, service.models, wire, busy=busy, monotonic=monotonic
        )
        self._worker = service.bed.worker()
        self._done = done
        self._running: dict[str, _RunningJob] = {}  # oldest first
        self._failures: dict[
            str, tuple[int, float]
        ] = {}  # number of failures of a job, and when it may run again
        self._ending = False
        self._looking: asyncio.Task[None] | None = None
        self._sweeping: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Start."""
        self._looking = asyncio.create_task(self._keep_looking(), name="jobs")
        self._sweeping = asyncio.create_task(self._keep_sweeping(), name="files")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop every job at its current part; another process, or the next start, continues it."""
        # Not cancelled: a lease that is being taken would then be held by nobody who knows of it.
        self._ending = True
        self._service.jobs.changed.set()
        if self._looking is not None and self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait([self._looking, self._sweeping])
        tasks = [job.task for job in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def look(self) -> None:
        """Start unclaimed jobs in free places, alternating between owners.

        With all places taken, ask jobs of the owners with most places to yield.
        """
        waiting = [] if self._ending else await self._waiting()
        while waiting and not self._ending and len(self._running) < AT_ONCE:
            owners = Counter(job.owner for job in self._running.values())
            row = next_job(waiting, owners)
            waiting.remove(row)
            held = await self._claim(row)
            if held is not None and held.id not in self._running:
                self._begin(held)
        staying = {name: job.owner for name, job in self._running.items() if not job.execution.yielding}
        for name in jobs_to_yield(waiting, staying, places=AT_ONCE):
            self._running[name].execution.yield_place()

    async def sweep(self) -> None:
        """Delete expired files, and parts of jobs that have ended."""
        await self._service.files.sweep()
        store = self._service.bed.store
        for job in await store.folders(FOLDER):
            row = await self._rows.get(job)
            if row is None or row.ended:
                await drop_folder(store, f"{FOLDER}/{job}")

    async def _keep_looking(self) -> None:
        held_at = self._monotonic()
        changed = self._service.jobs.changed
        while not self._ending:
            changed.clear()
            try:
                await self.look()
                if self._monotonic() - held_at > LEASE_SECONDS / 3:
                    held_at = self._monotonic()
                    await self._renew_leases()
            except Exception as error:  # noqa: BLE001 - the next search may succeed
                log.warning("cannot search for jobs, will try again: %s", error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await changed.wait()

    async def _keep_sweeping(self) -> None:
        while True:
            try:
                await self.sweep()
            except Exception as error:  # noqa: BLE001 - the next time may succeed
                log.warning("cannot delete old files, will try again: %s", error)
            await asyncio.sleep(SWEEP_SECONDS)

    async def _waiting(self) -> list[JobRow]:
        """Find unclaimed jobs, oldest first, of each owner at most as many as there are places."""
        now, at = self._monotonic(), self._clock()
        found: list[JobRow] = []
        owners: Counter[str] = Counter()
        async for page in self._rows.pages():
            for row in page:
                delayed = self._failures.get(row.id, (0, now))[1] > now
                held = row.worker and row.until >= at and not self._service.bed.dead(row.worker)
                if row.id not in self._running and not delayed and not held and owners[row.owner] < AT_ONCE:
                    owners[row.owner] += 1
                    found.append(row)
        return found

    def _begin(self, row: JobRow) -> None:
        execution = JobExecution(
            row,
            self._service,
            embedder=self._embedder,
            worker=self._worker,
            monotonic=self._monotonic,
            done=self._done,
        )
        task = asyncio.create_task(self._execute(row, execution), name=row.id)
        self._running[row.id] = _RunningJob(row.owner, execution, task)

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
            if await self._rows.hold(name, worker=self._worker, now=now, until=until) is None:
                job.task.cancel()

    async def _execute(self, row: JobRow, execution: JobExecution) -> None:
        """Execute a job until it ends or fails."""
        try:
            await execution.run()
        except Yielded:
            with contextlib.suppress(Exception):  # the lease then expires
                await execution.release()
        except LeaseLost:
            log.info("job %s is executed by another process", row.id)
        except asyncio.CancelledError:
            await execution.release()
            raise
        except Exception as error:  # noqa: BLE001 - other jobs continue, and this one is tried again
            failures = self._failures.get(row.id, (0, 0.0))[0] + 1
            wait = min(RETRY * 2 ** min(failures, 10), RETRY_MOST)
            self._failures[row.id] = failures, self._monotonic() + wait
            log.warning("job %s failed, will try again in %g s: %s", row.id, wait, error)
            with contextlib.suppress(Exception):
                await execution.release()
        else:
            self._failures.pop(row.id, None)
        finally:
            self._running.pop(row.id, None)
            self._service.jobs.changed.set()
