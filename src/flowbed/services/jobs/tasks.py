"""The tasks that index jobs are to workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.records.tasks import Task

if TYPE_CHECKING:
    from flowbed.ledger.index_jobs import IndexJobRow


def queue_of(stage: str) -> str:
    """Return the queue of a stage of index jobs."""
    return f"index-{stage}"


def task_of(row: IndexJobRow) -> Task:
    """Return the task for the stage that a job waits for."""
    return Task(workflow=row.stage, key=row.id, queue=queue_of(row.stage), partition=row.owner)
