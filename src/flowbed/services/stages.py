"""Kinds of work that workers carry out, and how services tell them that there is some."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbed.records.tasks import Task


class Stage(Protocol):
    """A kind of work, carried out one key at a time by any worker.

    The ledger holds its state: `run` claims what it works on there, so that two workers that are given the same key do
    the work once.
    """

    @property
    def workflow(self) -> str:
        """The name of the workflow, as tasks have it."""
        ...

    async def waiting(self) -> Sequence[Task]:
        """Return the tasks that wait in the ledger and that no worker holds, a bounded number of them.

        Raises:
            Transient: the ledger cannot be reached.
        """
        ...

    async def run(self, key: str) -> Sequence[Task]:
        """Do the work of one key, if it still waits, and return the tasks that it has led to.

        Cancelled, it gives back what it holds. Safe to repeat.

        Raises:
            Transient: the same call may succeed later; the worker calls it again.
        """
        ...


class Hints:
    """Tells the workers of this process about a task; what none of them hears of is found in the ledger."""

    def __init__(self) -> None:
        """Start without workers."""
        self._listeners: list[Callable[[Task], None]] = []

    def listen(self, listener: Callable[[Task], None]) -> Callable[[], None]:
        """Call `listener` with each task from now on; return what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def __call__(self, task: Task) -> None:
        """Tell of a task; never fails and never waits."""
        for listener in list(self._listeners):
            listener(task)
