"""Workers carry out the tasks of a project: on one machine over SQLite, on many over Postgres.

`Engine` is the seam: what delivers tasks to workers. It carries hints only; the ledger knows what waits and who holds
it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from flowbed.records.tasks import Task

    # Carries out a task; an engine calls it once for each task that it delivers.
    CarryOut = Callable[[Task], Awaitable[None]]

# Raised by hand when the arguments of workflows change. Entries of an older version are deleted by the first worker of
# a newer one, once no worker of the older one is left; the sweep then enqueues what still waits.
VERSION = "flowbed-1"


class State(StrEnum):
    """How far an entry of an engine is."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


UNFINISHED = frozenset({State.WAITING, State.RUNNING})
ENDED = frozenset(State) - UNFINISHED


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A task in an engine: its id there, its state, the worker that runs it, and the version of the code it is for.

    `at` is when it was enqueued, or when it ended (µs since 1970).
    """

    id: str
    task: Task
    state: State
    worker: str
    version: str
    at: int


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How many tasks of a queue run at once: in one worker, in all, and of one partition in all.

    `poll` is how often an engine that polls looks at the queue (s).
    """

    worker: int
    everywhere: int | None = None
    partition: int | None = None
    poll: float = 0.2


class Engine(Protocol):
    """Delivers tasks to workers: in order of priority, within limits, each to one worker at a time."""

    async def enqueue(self, tasks: Sequence[Task]) -> int:
        """Enqueue tasks, and return how many are new: those that are enqueued or running already are left out.

        Raises:
            Transient: the engine's database cannot be reached.
        """
        ...

    async def cancel(self, entries: Collection[str]) -> None:
        """Cancel entries by id: waiting ones are not delivered, running ones are cancelled; ended ones stay.

        Raises:
            Transient: the engine's database cannot be reached.
        """
        ...

    async def list(
        self,
        states: Collection[State] = UNFINISHED,
        *,
        worker: str | None = None,
        ended_before: int | None = None,
        limit: int = 1_000,
    ) -> list[Entry]:
        """Return entries in some states, oldest first: of one worker, or that ended before a time (µs since 1970).

        Raises:
            Transient: the engine's database cannot be reached.
        """
        ...

    async def resume(self, worker: str) -> int:
        """Enqueue again what `worker` has and does not run: all of a dead one, and what a living one has lost.

        Return how many tasks that were. A worker calls it with its own name, and one other for a dead one.

        Raises:
            Transient: the engine's database cannot be reached.
        """
        ...

    async def delete(self, entries: Collection[str]) -> None:
        """Delete entries by id, in any state. One that is running goes on, and its end is not recorded.

        Raises:
            Transient: the engine's database cannot be reached.
        """
        ...

    async def schedule(self, name: str, task: Task, *, every: int) -> None:
        """Enqueue a task every so many seconds, once over all workers; a schedule of the same name is replaced.

        Raises:
            Transient: the engine's database cannot be reached.
        """
        ...

    async def drain(self, seconds: float) -> int:
        """Deliver nothing more, wait for running tasks, cancel those left after `seconds`, and close.

        Cancelled tasks are enqueued again; return how many those are.
        """
        ...


class Opener(Protocol):
    """Opens an engine, which begins to deliver tasks at once."""

    async def __call__(
        self,
        worker: str,
        queues: Mapping[str, Limits],
        carry_out: CarryOut,
        *,
        clock: Callable[[], int],
        version: str = VERSION,
    ) -> Engine:
        """Open it for one worker, which takes tasks of these queues; `clock` returns µs since 1970.

        Raises:
            Misconfigured: the engine cannot be used here.
            Transient: its database cannot be reached.
        """
        ...
