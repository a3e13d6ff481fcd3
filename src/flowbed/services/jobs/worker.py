"""The background of a server that executes index jobs: some of each stage at a time, shared with other processes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

from flowbed.services.jobs.execution import LEASE_SECONDS, IndexJobExecution, LeaseLost
from flowbed.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flowbed.ledger.index_jobs import IndexJobRow
    from flowbed.services.jobs.jobs import IndexJobService

# Seconds between two searches for jobs that other processes created, passed on or died of.
LOOK_SECONDS = 1.0
SWEEP_SECONDS = 3_600.0
# Jobs of each stage that one process executes at once. Chunking takes a core; embedding waits for a model, and commits
# of one collection wait for each other.
PLACES: Mapping[str, int] = MappingProxyType({"chunking": 1, "embedding": 4, "storing": 2})


class IndexJobWorker:
    """A context in which the index jobs of a project are executed."""

    def __init__(
        self,
        service: IndexJobService,
        *,
        places: Mapping[str, int] = PLACES,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Execute jobs of a service; `places` says of which stages, and how many at once."""
        self._service, self._places, self._monotonic = service, places, monotonic
        self._bed = service.parts.bed
        self._rows = service.parts.rows
        self._worker = self._bed.worker()
        self._running: dict[asyncio.Task[None], IndexJobExecution] = {}
        self._ending = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Start."""
        self._tasks = [
            asyncio.create_task(self._keep_looking(), name="index jobs"),
            asyncio.create_task(self._keep_sweeping(), name="index jobs: sweep"),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop every job where it is; another process, or the next start, continues it."""
        self._ending = True
        self._service.changed.set()
        looking, sweeping = self._tasks
        sweeping.cancel()
        await asyncio.wait([looking, sweeping])
        for execution in self._running.values():
            execution.stop()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def look(self) -> int:
        """Start the jobs whose turn it is in the free places of each stage; return how many."""
        begun = 0
        for stage, places in self._places.items():
            busy = sum(each.stage == stage for each in self._running.values())
            for _ in range(places - busy):
                row = None if self._ending else await self._claim(stage)
                if row is None:
                    break
                self._begin(row)
                begun += 1
        return begun

    async def finish(self) -> None:
        """Execute jobs until none waits that this process could execute now."""
        while await self.look() or self._running:
            await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)

    async def _claim(self, stage: str) -> IndexJobRow | None:
        now = self._bed.clock()
        until = now + round(LEASE_SECONDS * 1e6)
        return await self._rows.claim([stage], worker=self._worker, now=now, until=until)

    def _begin(self, row: IndexJobRow) -> None:
        execution = IndexJobExecution(
            row, self._service.parts, worker=self._worker, monotonic=self._monotonic
        )
        task = asyncio.create_task(self._execute(execution), name=row.id)
        self._running[task] = execution
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        self._service.changed.set()

    async def _execute(self, execution: IndexJobExecution) -> None:
        try:
            await execution.run()
        except LeaseLost:
            log.info("job %s is executed by another process", execution.row.id)
        except Exception as error:  # noqa: BLE001 - other jobs continue; its lease expires, and it is tried again
            log.warning("job %s failed, will try again: %s", execution.row.id, error, exc_info=error)

    async def _keep_looking(self) -> None:
        changed = self._service.changed
        while not self._ending:
            changed.clear()
            try:
                await self._release_dead()
                await self.look()
            except Exception as error:  # noqa: BLE001 - the next search may succeed
                log.warning("cannot search for index jobs, will try again: %s", error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await changed.wait()

    async def _release_dead(self) -> None:
        """Release the jobs of processes of this host that have ended; others' are free when their leases end."""
        for worker in await self._rows.workers():
            if worker != self._worker and self._bed.dead(worker):
                await self._rows.release(worker)

    async def _keep_sweeping(self) -> None:
        while True:
            try:
                await self._service.sweep()
            except Exception as error:  # noqa: BLE001 - the next time may succeed
                log.warning("cannot delete old jobs, will try again: %s", error)
            await asyncio.sleep(SWEEP_SECONDS)
