"""Workers: which live, by the clock of the ledger, and what is known about them together.

A ledger without them serves projects whose work is done in one process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

# What marks are about: when a turn was taken last, whether a queue is paused, whether a worker shall leave, how many
# processes a host shall have, and how many workers died at a task, at a vector store, or at a batch.
TURN, PAUSED, LEAVE, PROCESSES = "turn", "paused", "leave", "processes"
DEATHS, STORE_DEATHS, BATCH_DEATHS = "deaths", "store-deaths", "batch-deaths"

# The kind of the dead letters of tasks at which too many workers died; their subject is the task's id.
TASK = "task"


@dataclass(frozen=True, kw_only=True)
class WorkerRow:
    """One worker: its process, the version of its code, and what it does.

    `queues` and `running` are JSON: names of queues with how many tasks of each it runs at once, and ids of tasks.
    `state` is `running` or `draining`. `reaper` took its work on, since it had died. `beat` is when it last said that
    it lives, `silent` how long ago that was, when the row was read; both by the ledger's clock, in µs.
    """

    id: str
    host: str
    pid: int
    version: str
    queues: str = "{}"
    running: str = "[]"
    state: str = "running"
    started: int = 0
    beat: int = 0
    reaper: str = ""
    silent: int = 0


class Workers(Protocol):
    """The workers of a project, and marks that they share."""

    async def beat(self, worker: WorkerRow) -> None:
        """Record that a worker lives, and what it does; its first beat is when it started."""
        ...

    async def all(self) -> list[WorkerRow]:
        """Return the workers, oldest first."""
        ...

    async def reap(self, worker: str, *, by: str, silent: int, lost: int) -> bool:
        """Take on the work of a worker that has been silent for this long (µs): one reaper at a time.

        False if it has beaten since, or is gone, or another took its work on and has not been silent for `lost` µs.
        """
        ...

    async def remove(self, worker: str) -> None:
        """Remove a worker that has left, or has died and has no work any more."""
        ...

    async def turn(self, name: str, *, every: int) -> bool:
        """Take the turn of something that one of all workers does every so many µs; False if it was taken."""
        ...

    async def marks(self, *kinds: str) -> Sequence[Mapping[str, int]]:
        """Return the marks of each kind by name."""
        ...

    async def mark(self, kind: str, name: str, number: int) -> None:
        """Set a mark."""
        ...

    async def add(self, kind: str, names: Collection[str]) -> Mapping[str, int]:
        """Add 1 to marks of a kind, and return their new values."""
        ...

    async def unmark(self, kind: str, names: Collection[str]) -> int:
        """Remove marks of a kind; return how many there were."""
        ...


@runtime_checkable
class HoldsWorkers(Protocol):
    """A ledger that keeps workers."""

    workers: Workers
