"""What a worker had and does not run any more returns to its queue: of the dead, of those that leave, what was lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dbos import DBOSClient

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    import dbos

# Seconds after which an own task that does not run counts as lost: it may still be on its way from the database.
ON_ITS_WAY = 30.0


def lost_of_itself(
    found: Sequence[dbos.WorkflowStatus], running: Collection[str], *, now: int
) -> list[dbos.WorkflowStatus]:
    """Return which of its entries a living worker does not run, although it took them; `now` is µs since 1970."""
    late = now / 1e6 - ON_ITS_WAY
    return [
        each for each in found if each.workflow_id not in running and (each.dequeued_at or 0) / 1e3 < late
    ]


def resume(lost: Sequence[dbos.WorkflowStatus], resume_workflows: Callable[..., object]) -> int:
    """Put entries back into their queues: without naming those, they would land in one without limits."""
    by_queue: dict[str, list[str]] = {}
    for each in lost:
        by_queue.setdefault(each.queue_name or "", []).append(each.workflow_id)
    for queue, names in by_queue.items():
        resume_workflows(names, queue_name=queue or None)
    return len(lost)


def give_back(worker: str, config: Any) -> int:
    """Enqueue again what a worker that leaves still has: with a client, since its engine has ended. Blocks."""
    client = DBOSClient(
        system_database_url=config["system_database_url"],
        dbos_system_schema=config["dbos_system_schema"],
        serializer=config["serializer"],
    )
    try:
        left = client.list_workflows(status="PENDING", executor_id=worker, load_output=False)
        return resume(left, client.resume_workflows)
    finally:
        client.destroy()
