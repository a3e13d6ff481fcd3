"""What workers carry out: tasks are keys and names, never texts or vectors."""

from __future__ import annotations

from dataclasses import dataclass

# Tasks with a lower number come first, and of equal ones the older.
FIRST, NORMAL, LAST = 1, 1_000, 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class Task:
    """One unit of work: a workflow, and the key of what it works on.

    A task is a hint. The ledger says what waits and who holds it, so that a task that is lost, doubled or late costs
    time and nothing else. Of one workflow and key, one task is enqueued or running at a time. `partition` is what tasks
    of a queue take turns by, such as a collection or the owner of a job.
    """

    workflow: str
    key: str = ""
    queue: str
    partition: str = ""
    priority: int = NORMAL

    @property
    def id(self) -> str:
        """The name of the task, for messages and for finding doubles."""
        return f"{self.workflow}({self.key})"
