"""The engine of many processes and machines: tasks are kept in a database, by DBOS. The only importer of its package.

What its open package leaves to us, here or in `flowbed.workers.membership`: finding the dead, giving back what was
running when a process leaves, handing over between versions, deleting what has ended.

It asks its database once in a while whether there is work, on a thread for each queue, and runs each task in the event
loop that opened it. A process has one such engine at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import hashlib
import logging
import math
import secrets
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar, cast

from flowbed.errors import Error, Misconfigured, Transient
from flowbed.records.tasks import Task
from flowbed.telemetry import log
from flowbed.workers import UNFINISHED, VERSION, Entry, Limits, State

try:
    import dbos
    from dbos import DBOS, DBOSClient
except ImportError as missing:
    raise Misconfigured(
        f"workers over Postgres need the package dbos ({missing}): pip install 'flowbed[workers]'"
    ) from missing

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from flowbed.workers import CarryOut

    Trouble = Callable[[object], None]

Value = TypeVar("Value")

SCHEMA = "flowbed_engine"  # of its tables, beside those of the ledger
WORKFLOW, SCHEDULED = "task", "scheduled"
# Seconds after which an own task that does not run counts as lost: it may still be on its way from the database.
ON_ITS_WAY = 30.0
# Seconds between two looks for schedules that were added or changed.
LOOK_FOR_SCHEDULES = 30.0
STATES = {
    "DELAYED": State.WAITING,
    "ENQUEUED": State.WAITING,
    "PENDING": State.RUNNING,
    "SUCCESS": State.DONE,
    "ERROR": State.FAILED,
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": State.FAILED,
    "CANCELLED": State.CANCELLED,
}
MINUTE, HOUR = 60, 3_600
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
            await self._enqueue_scheduled(_task_of(arguments))

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
        return await _call(lambda: self._enqueue(tasks))

    def _enqueue(self, tasks: Sequence[Task]) -> int:
        wanted = {_prefix(task): task for task in tasks}
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
                DBOS.enqueue_workflow_with_options(options, *_arguments(task))
        return len(wanted) - len(there)

    def _has_partitions(self, queue: str) -> bool:
        limits = self._queues.get(queue)
        return limits is not None and limits.partition is not None

    async def cancel(self, entries: Collection[str]) -> None:
        """Cancel entries; the code of one that runs elsewhere is not stopped: the ledger tells it."""
        if entries:
            await _call(lambda: DBOS.cancel_workflows(list(entries)))
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
        found = await _call(
            lambda: self._found(states, worker=worker, ended_before=ended_before, limit=limit)
        )
        return [_entry(each) for each in found]

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
        return await _call(lambda: self._resume(worker, set(self._running)))

    def _resume(self, worker: str, running: Collection[str]) -> int:
        late = self._clock() / 1e6 - ON_ITS_WAY
        lost = [
            each
            for each in self._found({State.RUNNING}, worker=worker)
            if worker != self._worker
            or (each.workflow_id not in running and (each.dequeued_at or 0) / 1e3 < late)
        ]
        return _resume(lost, DBOS.resume_workflows)

    async def delete(self, entries: Collection[str]) -> None:
        """Delete entries."""
        if entries:
            await _call(lambda: DBOS.delete_workflows(list(entries)))

    async def schedule(self, name: str, task: Task, *, every: int) -> None:
        """Enqueue a task every so many seconds, once over all workers."""
        await _call(
            lambda: DBOS.apply_schedules(
                [
                    {
                        "schedule_name": f"{self._name} {name}",
                        "workflow_fn": self._scheduled,
                        "schedule": cron_of(every),
                        "context": list(_arguments(task)),
                        "queue_name": task.queue,
                    }
                ]
            )
        )

    async def drain(self, seconds: float) -> int:
        """Take nothing more, wait, cancel what is left, and enqueue it again."""
        # Stops looking for work at once, then waits for what runs, and looks once a second whether that has ended.
        most = math.ceil(max(seconds, 0)) + TO_RECORD
        closing = _aside(lambda: DBOS.destroy(destroy_registry=True, workflow_completion_timeout_sec=most))
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
                given_back = await _aside(self._give_back)
        except TimeoutError:  # the database is away: the others find out that this worker has ended
            log.warning("left without giving back tasks, since their database cannot be reached")
        return given_back

    def _give_back(self) -> int:
        """Enqueue again what this worker still has: with a client, since the engine has ended."""
        client = DBOSClient(
            system_database_url=self._config["system_database_url"],
            dbos_system_schema=self._config["dbos_system_schema"],
            serializer=self._config["serializer"],
        )
        try:
            left = client.list_workflows(status="PENDING", executor_id=self._worker, load_output=False)
            return _resume(left, client.resume_workflows)
        finally:
            client.destroy()

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


def _resume(lost: Sequence[dbos.WorkflowStatus], resume: Callable[..., object]) -> int:
    """Put entries back into their queues: without naming those, they would land in one without limits."""
    by_queue: dict[str, list[str]] = {}
    for each in lost:
        by_queue.setdefault(each.queue_name or "", []).append(each.workflow_id)
    for queue, names in by_queue.items():
        resume(names, queue_name=queue or None)
    return len(lost)


def _arguments(task: Task) -> tuple[str, str, str, str, int]:
    return task.workflow, task.key, task.queue, task.partition, task.priority


def _task_of(arguments: Sequence[Any]) -> Task:
    workflow, key, queue, partition, priority = arguments
    return Task(workflow=workflow, key=key, queue=queue, partition=partition, priority=priority)


def _prefix(task: Task) -> str:
    """Return what the ids of a task's entries begin with; keys may have any characters and length."""
    return hashlib.sha256(task.id.encode()).hexdigest()[:32]


def _entry(status: dbos.WorkflowStatus) -> Entry:
    given = status.input["args"] if status.input else ()
    task = (
        _task_of(given)
        if status.name == WORKFLOW
        else Task(workflow=status.name, key=status.schedule_name or "", queue=status.queue_name or "")
    )
    state = STATES[status.status]
    at = status.created_at if state in UNFINISHED else status.completed_at or status.updated_at
    return Entry(
        id=status.workflow_id,
        task=task,
        state=state,
        worker=status.executor_id or "",
        version=status.app_version or "",
        at=(at or 0) * 1_000,
    )


def cron_of(seconds: int) -> str:
    """Write a time between two ticks in cron, with a field of seconds first; it has to divide a minute, hour or day.

    Raises:
        ValueError: it does not.
    """
    if 0 < seconds <= MINUTE and MINUTE % seconds == 0:
        return f"*/{seconds} * * * * *" if seconds < MINUTE else "0 * * * * *"
    if seconds % MINUTE == 0 and HOUR % seconds == 0:
        return f"0 */{seconds // MINUTE} * * * *" if seconds < HOUR else "0 0 * * * *"
    if seconds % HOUR == 0 and 24 * HOUR % seconds == 0:
        return f"0 0 */{seconds // HOUR} * * *" if seconds < 24 * HOUR else "0 0 0 * * *"
    raise ValueError(seconds)


def _aside(work: Callable[[], Value]) -> asyncio.Future[Value]:
    """Call `work` in a thread that the end of the process does not wait for."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Value] = loop.create_future()

    def settle(value: Value | None, error: BaseException | None) -> None:
        if not done.done():
            done.set_exception(error) if error is not None else done.set_result(cast("Value", value))

    def run() -> None:
        value, error = None, None
        try:
            value = work()
        except BaseException as raised:  # noqa: BLE001 - it is raised in the loop
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=run, name="engine-close", daemon=True).start()
    return done


async def _call(work: Callable[[], Value]) -> Value:
    """Call DBOS in a thread; while its database cannot be reached, most of its calls wait for it."""
    try:
        return await asyncio.to_thread(work)
    except Error:
        raise
    except (OSError, RuntimeError, dbos.error.DBOSException) as error:
        raise Transient(f"the tasks of the workers cannot be read or written: {error}") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in {"sqlalchemy", "psycopg", "sqlite3"}:
            raise
        raise Transient(f"the database of the workers' tasks cannot be reached: {error}") from error


class _Forward(logging.Handler):
    """Passes on what DBOS logs: trouble with its database once, as the trouble of the worker."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(logging.WARNING)
        self._trouble = trouble

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record, or report the database."""
        message = record.getMessage().partition("\n")[0]
        if any(word in message for word in ("connection", "database", "Exception", "OperationalError")):
            self._trouble(message)
        else:
            log.warning("tasks: %s", message)


def log_trouble(reason: object) -> None:
    """Log that the database is away."""
    log.warning("tasks: %s", reason)


async def open_durable(
    worker: str,
    queues: Mapping[str, Limits],
    carry_out: CarryOut,
    *,
    url: str,
    name: str,
    clock: Callable[[], int],
    version: str = VERSION,
    connections: int = 5,
    trouble: Trouble = log_trouble,
) -> DurableEngine:
    """Open the engine over the database at `url`, for the project `name`; `trouble` hears of its database.

    Raises:
        Misconfigured: the database refuses it.
        Transient: the database cannot be reached.
    """
    logger = logging.getLogger("dbos")
    logger.handlers, logger.propagate = [_Forward(trouble)], False
    config: dbos.DBOSConfig = {
        "name": name,
        "system_database_url": url,
        "dbos_system_schema": SCHEMA,
        "sys_db_pool_size": connections,
        "application_version": version,
        "executor_id": worker,
        "log_level": "WARNING",
        "serializer": dbos.DBOSPortableJSONSerializer(),  # instead of pickle
        # Works behind a pooler too: no LISTEN, and no statement that is prepared in one session and used in another.
        "use_listen_notify": False,
        "scheduler_polling_interval_sec": LOOK_FOR_SCHEDULES,
    }
    if not url.startswith("sqlite"):
        config["db_engine_kwargs"] = {"connect_args": {"prepare_threshold": None}}
    engine = DurableEngine(worker, queues, carry_out, clock=clock, config=config)
    try:
        engine.open()
        await asyncio.to_thread(engine.register)
    except BaseException:
        await asyncio.to_thread(DBOS.destroy, destroy_registry=True)
        raise
    return engine
