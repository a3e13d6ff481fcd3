"""The engine of one process: tasks are kept in memory; what a process loses with its end, the sweep enqueues again."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flowbed.telemetry import log
from flowbed.workers import ENDED, UNFINISHED, VERSION, Entry, Limits, State

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from flowbed.records.tasks import Task
    from flowbed.workers import CarryOut

# Ended entries that are listed; older ones are forgotten.
REMEMBERED = 1_000


@dataclass
class _Held:
    """An entry, its place in the order of arrival, and the asyncio task that runs it."""

    entry: Entry
    place: int
    running: asyncio.Task[None] | None = None


class LocalEngine:
    """`Engine` in this process."""

    def __init__(
        self,
        worker: str,
        queues: Mapping[str, Limits],
        carry_out: CarryOut,
        *,
        clock: Callable[[], int],
        version: str = VERSION,
    ) -> None:
        """Start empty; `clock` returns µs since 1970."""
        self._worker, self._queues, self._carry_out = worker, queues, carry_out
        self._version, self._clock = version, clock
        self._places = itertools.count()
        self._entries: dict[str, _Held] = {}  # unfinished ones, by the task's id
        self._ended: dict[str, Entry] = {}
        self._timers: dict[str, asyncio.Task[None]] = {}
        self._draining = False

    async def enqueue(self, tasks: Sequence[Task]) -> int:
        """Enqueue tasks; those of queues that this process does not take are left to others."""
        added = 0
        for task in tasks:
            if task.queue not in self._queues or task.id in self._entries or self._draining:
                continue
            place = next(self._places)
            entry = Entry(
                id=f"{task.id}#{place}",
                task=task,
                state=State.WAITING,
                worker="",
                version=self._version,
                at=self._clock(),
            )
            self._entries[task.id] = _Held(entry, place)
            added += 1
        self._deliver()
        return added

    async def cancel(self, entries: Collection[str]) -> None:
        """Cancel entries."""
        for held in [each for each in self._entries.values() if each.entry.id in entries]:
            if held.running is None:
                self._end(held, State.CANCELLED)
            else:
                held.running.cancel()
        self._deliver()

    async def list(
        self,
        states: Collection[State] = UNFINISHED,
        *,
        worker: str | None = None,
        ended_before: int | None = None,
        limit: int = 1_000,
    ) -> list[Entry]:
        """Return entries, oldest first."""
        every = [*self._ended.values(), *(held.entry for held in self._entries.values())]
        found = [
            entry
            for entry in every
            if entry.state in states
            and (worker is None or entry.worker == worker)
            and (ended_before is None or (entry.state in ENDED and entry.at < ended_before))
        ]
        return found[:limit]

    async def resume(self, worker: str) -> int:  # noqa: ARG002 - the seam's
        """Do nothing: what this process has, it runs, and what others had is in no memory but theirs."""
        return 0

    async def delete(self, entries: Collection[str]) -> None:
        """Delete entries."""
        for name in entries:
            self._ended.pop(name, None)
        for name, held in list(self._entries.items()):
            if held.entry.id in entries:
                del self._entries[name]
        self._deliver()

    async def schedule(self, name: str, task: Task, *, every: int) -> None:
        """Enqueue a task every so many seconds."""

        async def repeat() -> None:
            while True:
                await asyncio.sleep(every)
                await self.enqueue([task])

        if (before := self._timers.pop(name, None)) is not None:
            before.cancel()
        self._timers[name] = asyncio.create_task(repeat(), name=f"schedule {name}")

    async def drain(self, seconds: float) -> int:
        """Deliver nothing more, wait for running tasks, and cancel those left after `seconds`."""
        self._draining = True
        timers = list(self._timers.values())
        for timer in timers:
            timer.cancel()
        running = [held.running for held in self._entries.values() if held.running is not None]
        if running and seconds > 0:
            await asyncio.wait(running, timeout=seconds)
        left = [each for each in running if not each.done()]
        for each in left:
            each.cancel()
        await asyncio.gather(*running, *timers, return_exceptions=True)
        return len(left)

    def _deliver(self) -> None:
        """Start waiting tasks while their queues have room."""
        if self._draining:
            return
        for queue, limits in self._queues.items():
            held = [each for each in self._entries.values() if each.entry.task.queue == queue]
            waiting = [each for each in held if each.running is None]
            running = Counter(each.entry.task.partition for each in held if each.running is not None)
            room = min(limits.worker, limits.everywhere or limits.worker) - running.total()
            while room > 0 and (chosen := _next(waiting, running, limits)) is not None:
                waiting.remove(chosen)
                running[chosen.entry.task.partition] += 1
                room -= 1
                self._begin(chosen)

    def _begin(self, held: _Held) -> None:
        held.entry = replace(held.entry, state=State.RUNNING, worker=self._worker)
        # Without the context of who enqueued it, which may be a request.
        held.running = asyncio.create_task(
            self._run(held.entry.task), name=held.entry.task.id, context=contextvars.Context()
        )
        # Not at the end of `_run`, which never begins if it is cancelled at once.
        held.running.add_done_callback(lambda done: self._ended_as(held, done))

    async def _run(self, task: Task) -> None:
        await self._carry_out(task)

    def _ended_as(self, held: _Held, done: asyncio.Task[None]) -> None:
        state = State.DONE
        if done.cancelled():
            state = State.CANCELLED
        elif (error := done.exception()) is not None:  # one task stops no other; the sweep enqueues it again
            state = State.FAILED
            log.warning("%s failed: %s", held.entry.task.id, error)
        self._end(held, state)
        self._deliver()

    def _end(self, held: _Held, state: State) -> None:
        if self._entries.get(held.entry.task.id) is held:  # else it was deleted
            del self._entries[held.entry.task.id]
            self._ended[held.entry.id] = replace(held.entry, state=state, at=self._clock())
            while len(self._ended) > REMEMBERED:
                del self._ended[next(iter(self._ended))]


def _next(waiting: Sequence[_Held], running: Counter[str], limits: Limits) -> _Held | None:
    """Choose the first by priority; among equals one of the partition with fewest running, and then the oldest."""
    free = [
        each
        for each in waiting
        if limits.partition is None or running[each.entry.task.partition] < limits.partition
    ]
    return min(
        free,
        key=lambda each: (each.entry.task.priority, running[each.entry.task.partition], each.place),
        default=None,
    )


async def open_local(
    worker: str,
    queues: Mapping[str, Limits],
    carry_out: CarryOut,
    *,
    clock: Callable[[], int],
    version: str = VERSION,
) -> LocalEngine:
    """Open the engine of this process."""
    return LocalEngine(worker, queues, carry_out, clock=clock, version=version)
