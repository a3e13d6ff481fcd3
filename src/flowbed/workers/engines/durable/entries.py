"""Tasks as DBOS keeps them: the arguments, ids and states of its workflows, and schedules in cron."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from flowbed.records.tasks import Task
from flowbed.workers import UNFINISHED, Entry, State

if TYPE_CHECKING:
    from collections.abc import Sequence

    import dbos

WORKFLOW, SCHEDULED = "task", "scheduled"
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


def arguments_of(task: Task) -> tuple[str, str, str, str, int]:
    """Return the arguments of the workflow that runs a task."""
    return task.workflow, task.key, task.queue, task.partition, task.priority


def task_of(arguments: Sequence[Any]) -> Task:
    """Return the task of a workflow's arguments."""
    workflow, key, queue, partition, priority = arguments
    return Task(workflow=workflow, key=key, queue=queue, partition=partition, priority=priority)


def prefix_of(task: Task) -> str:
    """Return what the ids of a task's entries begin with; keys may have any characters and length."""
    return hashlib.sha256(task.id.encode()).hexdigest()[:32]


def entry_of(status: dbos.WorkflowStatus) -> Entry:
    """Return a workflow as an entry."""
    given = status.input["args"] if status.input else ()
    task = (
        task_of(given)
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
