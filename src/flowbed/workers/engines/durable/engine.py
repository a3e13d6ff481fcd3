"""The calls of the engine: tasks are enqueued, delivered, listed, cancelled and deleted, by DBOS.

It asks its database once in a while whether there is work, on a thread for each queue, and runs each task in the event
loop that opened it. A process has one such engine at a time.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dbos import DBOS

from flowbed.records.tasks import Task
from flowbed.telemetry import log
from flowbed.workers import UNFINISHED, Entry, Limits, State
from flowbed.workers.engines.durable.database import call, call_aside
from flowbed.workers.engines.durable.entries import (
    SCHEDULED,
    STATES,
    WORKFLOW,
    arguments_of,
    cron_of,
    entry_of,
    prefix_of,
    task_of,
)
from flowbed.workers.engines.durable.recovery import give_back, lost_of_itself, resume

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    import dbos

    from flowbed.workers import CarryOut

# Seconds that DBOS has to record the end of tasks that were cancelled when it is closed.
TO_RECORD = 3
# Seconds that closing may take beyond that: while its database is away, DBOS waits for it for ever.
TO_CLOSE = 15.0


class TaskFailed(Exception):  # noqa: N818 - the record that DBOS keeps of an error, without the error's text
    """A task failed; the log of its worker says why."""


class DurableEngine:
    """`Engine` over DBOS."""

    def __init__(
        self,
        worker: str,
        queues: Mapping[str, Limits],
        carry_out: CarryOut,
        *,
        clock: Callable[[], int],
        config: Any,
    ) -> None:
        """Take what `open_durable` was given; `open` starts it."""
        self._worker, self._queues, self._carry_out = worker, queues, carry_out
        self._clock, self._config = clock, config
        self._version: str = config["application_version"]
        self._name: str = config["name"]
        self._running: dict[str, asyncio.Task[None]] = {}

    def open(self) -> None:
        """Create or upgrade the tables, and begin to take tasks, in the running event loop. Blocks for a moment.

        Raises:
            Misconfigured: this process has one already.
        """
        # With the id of an executor that never was, it has nothing to recover; whoever finds the dead resumes theirs.
        DBOS(config=self._config)

        async def task(workflow: str, key: str, queue: str, partition: str, priority: int) -> None:
            await self._run(
                Task(workflow=workflow, key=key, queue=queue, partition=partition, priority=priority)
            )

        async def scheduled(at: Any, arguments: Any) -> None:  # noqa: ARG001 - DBOS's signature
            await self._enqueue_scheduled(task_of(arguments))

        # The deaths of workers are counted in the ledger.
        DBOS.workflow(name=WORKFLOW, max_recovery_attempts=None)(task)
        self._scheduled = DBOS.workflow(name=SCHEDULED, max_recovery_attempts=None)(scheduled)
        DBOS.listen_queues(list(self._queues))
        DBOS.launch()

    def register(self) -> None:
        """Register the queues with their limits; those that were registered last apply to all workers. Blocks."""
        for name, limits in self._queues.items():
            DBOS.register_queue(
                name,
                # Without a limit, the first to look takes the whole queue.
                worker_concurrency=limits.worker,
                global_concurrency=limits.everywhere,
                partition_concurrency=limits.partition,
                polling_interval_sec=limits.poll,
                on_conflict="always_update",
            )

    async def enqueue(self, tasks: Sequence[Task]) -> int:
        """Enqueue tasks; those of queues that this worker does not take are for others."""
        if not tasks:
            return 0
        return await call(lambda: self._enqueue(tasks))

    def _enqueue(self, tasks: Sequence[Task]) -> int:
        wanted = {prefix_of(task): task for task in tasks}
        # A task that was resumed has lost its mark against doubles, and one of a partition never has it.
        there = {each.workflow_id.partition("-")[0] for each in self._found(UNFINISHED, prefixes=[*wanted])}
        for prefix, task in wanted.items():
            if prefix not in there:
                options: dbos.EnqueueOptions = {
                    "workflow_name": WORKFLOW,
                    "queue_name": task.queue,
                    "workflow_id": f"{prefix}-{secrets.token_hex(8)}",
                    "app_version": self._version,
                    "priority": task.priority,
                }
                if self._has_partitions(task.queue):
                    options["queue_partition_key"] = task.partition or "-"
                else:
                    options |= {"deduplication_id": task.id, "duplication_policy": "return-existing"}
                DBOS.enqueue_workflow_with_options(options, *arguments_of(task))
        return len(wanted) - len(there)

    def _has_partitions(self, queue: str) -> bool:
        limits = self._queues.get(queue)
        return limits is not None and limits.partition is not None

    async def cancel(self, entries: Collection[str]) -> None:
        """Cancel entries; the code of one that runs elsewhere is not stopped: the ledger tells it."""
        if entries:
            await call(lambda: DBOS.cancel_workflows(list(entries)))
        for name in entries:
            if (running := self._running.get(name)) is not None:
                running.cancel()

    async def list(
        self,
        states: Collection[State] = UNFINISHED,
        *,
        worker: str | None = None,
        ended_before: int | None = None,
        limit: int = 1_000,
    ) -> list[Entry]:
        """Return entries, oldest first."""
        found = await call(lambda: self._found(states, worker=worker, ended_before=ended_before, limit=limit))
        return [entry_of(each) for each in found]

    def _found(
        self,
        states: Collection[State],
        *,
        worker: str | None = None,
        ended_before: int | None = None,
        prefixes: Sequence[str] | None = None,
        limit: int | None = None,
    ) -> Sequence[dbos.WorkflowStatus]:
        return DBOS.list_workflows(
            status=[name for name, state in STATES.items() if state in states],
            executor_id=worker,
            completed_before=None
            if ended_before is None
            else datetime.fromtimestamp(ended_before / 1e6, UTC).isoformat(),
            workflow_id_prefix=None if prefixes is None else [f"{each}-" for each in prefixes],
            application_name=self._name,
            limit=limit,
            load_output=False,
        )

    async def resume(self, worker: str) -> int:
        """Enqueue again what a worker has and does not run."""
        running = set(self._running)

        def look() -> int:
            found = self._found({State.RUNNING}, worker=worker)
            lost = found if worker != self._worker else lost_of_itself(found, running, now=self._clock())
            return resume(lost, DBOS.resume_workflows)

        return await call(look)

    async def delete(self, entries: Collection[str]) -> None:
        """Delete entries."""
        if entries:
            await call(lambda: DBOS.delete_workflows(list(entries)))

    async def schedule(self, name: str, task: Task, *, every: int) -> None:
        """Enqueue a task every so many seconds, once over all workers."""
        await call(
            lambda: DBOS.apply_schedules(
                [
                    {
                        "schedule_name": f"{self._name} {name}",
                        "workflow_fn": self._scheduled,
                        "schedule": cron_of(every),
                        "context": list(arguments_of(task)),
                        "queue_name": task.queue,
                    }
                ]
            )
        )

    async def drain(self, seconds: float) -> int:
        """Take nothing more, wait, cancel what is left, and enqueue it again."""
        # Stops looking for work at once, then waits for what runs, and looks once a second whether that has ended.
        most = math.ceil(max(seconds, 0)) + TO_RECORD
        closing = call_aside(
            lambda: DBOS.destroy(destroy_registry=True, workflow_completion_timeout_sec=most)
        )
        if self._running and seconds > 0:
            await asyncio.wait(list(self._running.values()), timeout=seconds)
        left = list(self._running.values())
        for each in left:
            each.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        given_back = 0
        try:
            async with asyncio.timeout(TO_CLOSE):
                await closing
                given_back = await call_aside(lambda: give_back(self._worker, self._config))
        except TimeoutError:  # the database is away: the others find out that this worker has ended
            log.warning("left without giving back tasks, since their database cannot be reached")
        return given_back

    async def _run(self, task: Task) -> None:
        """Run one task that DBOS delivers."""
        name = DBOS.workflow_id or ""

        async def carry_out() -> None:
            await self._carry_out(task)

        # In a context of its own: what is called inside is no step of the workflow.
        running = self._running[name] = asyncio.create_task(
            carry_out(), name=task.id, context=contextvars.Context()
        )
        try:
            await running
        except Exception as error:  # noqa: BLE001 - one task stops no other; the sweep enqueues it again
            log.warning("%s failed: %s", task.id, error)
            # The text of an error may name documents: it stays out of the database.
            raise TaskFailed(f"{task.id}: {type(error).__name__}") from None
        finally:
            del self._running[name]

    async def _enqueue_scheduled(self, task: Task) -> None:
        """Enqueue the task of a schedule, unless it still waits or runs: as no step of the schedule's workflow."""

        async def enqueue() -> None:
            await self.enqueue([task])

        await asyncio.create_task(enqueue(), context=contextvars.Context())
