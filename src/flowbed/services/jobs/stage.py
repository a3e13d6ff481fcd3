"""Index jobs as stages of workers: chunking, embedding and storing each have a queue of their own."""

from __future__ import annotations

import time
from types import MappingProxyType
from typing import TYPE_CHECKING

from flowbed.ledger.index_jobs import STAGES
from flowbed.records.tasks import LAST, Task
from flowbed.services.jobs.execution import IndexJobExecution
from flowbed.services.jobs.lease import LEASE_SECONDS, LeaseLost
from flowbed.services.jobs.reembedding import ReembeddingExecution
from flowbed.services.jobs.tasks import queue_of, task_of
from flowbed.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from flowbed.services.jobs.jobs import IndexJobService
    from flowbed.services.stages import Stage

UPKEEP = "upkeep"  # the queue of what nobody waits for
SWEEP_SECONDS = 3_600.0
# Tasks that one look into the ledger makes of a stage.
FOUND_MOST = 64
# Jobs of each queue that one process executes at once. Chunking takes a core; embedding waits for a model, and commits
# of one collection wait for each other.
PLACES: Mapping[str, int] = MappingProxyType(
    {queue_of("chunking"): 1, queue_of("embedding"): 4, queue_of("storing"): 2}
)


class IndexJobStage:
    """`Stage` that executes one stage of index jobs.

    A task only says that there is a job: which one is worked on is decided by the ledger, which knows priorities and
    what each owner has had.
    """

    def __init__(
        self,
        jobs: IndexJobService,
        stage: str,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Execute the stage `stage` of jobs."""
        self.workflow = stage
        self._jobs, self._monotonic = jobs, monotonic
        self._bed, self._worker = jobs.parts.bed, jobs.parts.bed.worker()

    async def waiting(self) -> Sequence[Task]:
        """Return the jobs that wait for the stage and nobody holds; those of processes that have ended are free."""
        rows = self._jobs.parts.rows
        for worker in await rows.workers():
            if worker != self._worker and self._bed.dead(worker):
                await rows.release(worker)
        found = await rows.waiting(self.workflow, now=self._bed.clock(), limit=FOUND_MOST)
        return [task_of(row) for row in found]

    async def run(self, key: str) -> Sequence[Task]:  # noqa: ARG002 - the ledger says which job is next
        """Execute the stage of the job whose turn it is."""
        now = self._bed.clock()
        until = now + round(LEASE_SECONDS * 1e6)
        row = await self._jobs.parts.rows.claim([self.workflow], worker=self._worker, now=now, until=until)
        if row is None:
            return ()
        kind = ReembeddingExecution if row.target else IndexJobExecution
        execution = kind(row, self._jobs.parts, worker=self._worker, monotonic=self._monotonic)
        try:
            await execution.run()
        except LeaseLost:
            log.info("job %s is executed by another process", row.id)
            return ()
        left = execution.row
        return () if left.ended or left.due > self._bed.clock() else (task_of(left),)


class IndexJobRetention:
    """`Stage` that deletes jobs that ended long ago, and input that belongs to no job."""

    workflow = "index-job-retention"

    def __init__(self, jobs: IndexJobService, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Delete nothing yet."""
        self._jobs, self._monotonic = jobs, monotonic
        self._due = float("-inf")

    async def waiting(self) -> Sequence[Task]:
        """Return the task if an hour has passed since the last one."""
        if self._monotonic() < self._due:
            return ()
        self._due = self._monotonic() + SWEEP_SECONDS
        return (Task(workflow=self.workflow, queue=UPKEEP, priority=LAST),)

    async def run(self, key: str) -> Sequence[Task]:  # noqa: ARG002 - there is one
        """Delete what is old."""
        await self._jobs.sweep()
        return ()


def index_job_stages(jobs: IndexJobService) -> list[Stage]:
    """Return the stages of index jobs, and what deletes old ones; none where the ledger keeps no jobs."""
    if not jobs.kept:
        return []
    return [*(IndexJobStage(jobs, stage) for stage in STAGES), IndexJobRetention(jobs)]


async def finish_jobs(jobs: IndexJobService, stages: Collection[str] = STAGES) -> None:
    """Execute jobs here, one after the other, until none waits for one of the stages."""
    working = [IndexJobStage(jobs, stage) for stage in STAGES if stage in stages]
    while found := [(stage, task) for stage in working for task in await stage.waiting()]:
        for stage, task in found:
            await stage.run(task.key)
