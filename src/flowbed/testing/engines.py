"""The tests that every engine of workers must pass: subclass the contract, and open the engine."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, ClassVar

import pytest
import pytest_asyncio

from flowbed.errors import Unavailable
from flowbed.records.tasks import Task
from flowbed.wiring.process import now
from flowbed.workers import ENDED, UNFINISHED, VERSION, Limits, State

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from flowbed.workers import CarryOut, Engine

PATIENCE = 30.0  # s
POLL = 0.05  # s, for engines that poll
QUEUES = {
    "one": Limits(worker=1, poll=POLL),
    "many": Limits(worker=3, poll=POLL),
    "parts": Limits(worker=4, partition=1, poll=POLL),
}


def task(key: str, *, queue: str = "many", partition: str = "", priority: int = 1_000) -> Task:
    """Make a task."""
    return Task(workflow="work", key=key, queue=queue, partition=partition, priority=priority)


async def until(reached: Callable[[], object]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(PATIENCE):
        while not reached():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)


class Recorder:
    """Carries out tasks: records them, waits at a closed gate, and fails those named FAIL."""

    def __init__(self) -> None:
        """Start with an open gate."""
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.running: list[Task] = []
        self.most = 0
        self.most_of_a_partition = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, task: Task) -> None:
        """Carry out one task."""
        self.begun.append(task.key)
        self.running.append(task)
        self.most = max(self.most, len(self.running))
        same = sum(1 for each in self.running if each.partition == task.partition)
        self.most_of_a_partition = max(self.most_of_a_partition, same)
        try:
            await asyncio.sleep(0)
            await self.gate.wait()
            if "FAIL" in task.key:
                raise Unavailable("as the test asked")
            self.ended.append(task.key)
        finally:
            self.running.remove(task)


class EngineContract(ABC):
    """Tests of an engine; they share one, since some take seconds to open and close."""

    pytestmark = pytest.mark.asyncio(loop_scope="class")
    durable = True  # false where tasks end with the process
    _open: ClassVar[list[tuple[Engine, list[Recorder]]]] = []  # the one that is open, and who records for it

    @classmethod
    @abstractmethod
    async def open(
        cls, worker: str, queues: Mapping[str, Limits], carry_out: CarryOut, *, version: str = VERSION
    ) -> Engine:
        """Open the engine of a worker; what an earlier one of the same class has kept is there."""

    @pytest_asyncio.fixture(scope="class", loop_scope="class", autouse=True)
    @classmethod
    async def closed_at_last(cls) -> AsyncIterator[None]:
        """Close the engine after the last test."""
        yield
        await cls.close()

    @classmethod
    async def close(cls) -> None:
        """Close the engine that is open, if one is."""
        while cls._open:
            await cls._open.pop()[0].drain(PATIENCE)

    @asynccontextmanager
    async def opened(self, recorder: Recorder) -> AsyncIterator[Engine]:
        """Give the engine of the worker w1 to a test; afterwards, it is as empty as before."""
        if not self._open:
            recorders = [recorder]

            async def carry_out(task: Task) -> None:
                await recorders[0](task)

            self._open.append((await self.open("w1", QUEUES, carry_out), recorders))
        engine, recorders = self._open[0]
        recorders[0] = recorder
        try:
            yield engine
        finally:
            recorder.gate.set()
            await self.in_state(engine, UNFINISHED, 0)
            await engine.delete([each.id for each in await engine.list(ENDED)])

    async def test_enqueue_task_is_carried_out_once(self) -> None:
        """With its key, partition and priority; later it is listed as done."""
        recorder = Recorder()
        async with self.opened(recorder) as engine:
            assert await engine.enqueue([task("a"), task("b", partition="p")]) == 2
            await until(lambda: len(recorder.ended) == 2)
            assert sorted(recorder.begun) == ["a", "b"]
            await self.in_state(engine, {State.DONE}, 2)
            entries = await engine.list(ENDED)
            assert {each.task for each in entries} == {task("a"), task("b", partition="p")}
            assert {each.worker for each in entries} == {"w1"}
            assert {each.version for each in entries} == {VERSION}

    async def test_enqueue_task_that_waits_or_runs_is_left_out(self) -> None:
        """Once it has ended, it is new."""
        recorder = Recorder()
        recorder.gate.clear()
        async with self.opened(recorder) as engine:
            for queue, partition in (("one", ""), ("parts", "p")):
                first, second = (task(f"{queue}{n}", queue=queue, partition=partition) for n in "12")
                assert await engine.enqueue([first]) == 1
                await until(lambda key=first.key: key in recorder.begun)  # type: ignore[misc]
                assert await engine.enqueue([first]) == 0
                assert await engine.enqueue([second]) == 1
                assert await engine.enqueue([first, second]) == 0
            recorder.gate.set()
            await until(lambda: len(recorder.ended) == 4)
            await self.in_state(engine, {State.DONE}, 4)
            assert await engine.enqueue([task("one1", queue="one")]) == 1
            await until(lambda: recorder.ended.count("one1") == 2)

    async def test_enqueue_order_is_by_priority_then_age(self) -> None:
        """What runs already is not stopped for it."""
        recorder = Recorder()
        recorder.gate.clear()
        async with self.opened(recorder) as engine:
            await engine.enqueue([task("first", queue="one")])
            await until(lambda: recorder.begun)
            given = [("low", 900), ("high", 1), ("middle", 500), ("late", 500)]
            for key, priority in given:
                await engine.enqueue([task(key, queue="one", priority=priority)])
            recorder.gate.set()
            await until(lambda: len(recorder.ended) == 5)
        assert recorder.ended == ["first", "high", "middle", "late", "low"]

    async def test_limits_of_worker_and_partition_are_kept(self) -> None:
        """A partition with many tasks does not hold up another."""
        recorder = Recorder()
        recorder.gate.clear()
        async with self.opened(recorder) as engine:
            await engine.enqueue([task(f"m{n}") for n in range(6)])
            await until(lambda: len(recorder.begun) == 3)
            assert len(await engine.list({State.RUNNING})) == 3
            recorder.gate.set()
            await until(lambda: len(recorder.ended) == 6)
            assert recorder.most == 3
            recorder.gate.clear()
            recorder.most = recorder.most_of_a_partition = 0
            await engine.enqueue([task(f"p{n}", queue="parts", partition="p") for n in range(4)])
            await engine.enqueue([task("q", queue="parts", partition="q")])
            await until(lambda: {"q", "p0"} <= {*recorder.begun})
            recorder.gate.set()
            await until(lambda: len(recorder.ended) == 11)
        assert recorder.most_of_a_partition == 1

    async def test_failed_task_stops_no_other(self) -> None:
        """It is listed as failed, and may be enqueued again."""
        recorder = Recorder()
        async with self.opened(recorder) as engine:
            await engine.enqueue([task("FAIL", queue="one"), task("b", queue="one")])
            await until(lambda: "b" in recorder.ended)
            await self.in_state(engine, {State.FAILED}, 1)
            assert await engine.enqueue([task("FAIL", queue="one")]) == 1
            await until(lambda: recorder.begun.count("FAIL") == 2)

    async def test_cancel_waiting_never_runs_and_running_stops(self) -> None:
        """An ended one stays as it is."""
        recorder = Recorder()
        recorder.gate.clear()
        async with self.opened(recorder) as engine:
            await engine.enqueue([task("runs", queue="one")])
            await until(lambda: recorder.begun)
            await engine.enqueue([task("waits", queue="one"), task("after", queue="one")])
            entries = {each.task.key: each.id for each in await engine.list()}
            await engine.cancel([entries["waits"], entries["runs"]])
            await until(lambda: "after" in recorder.begun)
            assert recorder.begun == ["runs", "after"]
            recorder.gate.set()
            await until(lambda: recorder.ended == ["after"])
            await self.in_state(engine, {State.CANCELLED}, 2)
            await self.in_state(engine, {State.DONE}, 1)
            await engine.cancel([entries["after"]])
            assert [each.task.key for each in await engine.list({State.DONE})] == ["after"]

    async def test_delete_waiting_is_forgotten_and_ended_by_age(self) -> None:
        """A deleted task may be enqueued again at once; only what ended before a time is listed by it."""
        recorder = Recorder()
        recorder.gate.clear()
        async with self.opened(recorder) as engine:
            await engine.enqueue([task("runs", queue="one")])
            await until(lambda: recorder.begun)
            await engine.enqueue([task("waits", queue="one")])
            (waits,) = await engine.list({State.WAITING})
            await engine.delete([waits.id])
            assert await engine.list({State.WAITING}) == []
            assert await engine.enqueue([task("waits", queue="one")]) == 1
            recorder.gate.set()
            await until(lambda: recorder.ended == ["runs", "waits"])
            await self.in_state(engine, {State.DONE}, 2)
            assert await engine.list(ENDED, ended_before=now() - 3_600_000_000) == []
            old = await engine.list(ENDED, ended_before=now() + 3_600_000_000)
            assert len(old) == 2
            await engine.delete([each.id for each in old])
            assert await engine.list([*ENDED, *UNFINISHED]) == []

    async def test_list_of_a_worker_is_what_it_runs(self) -> None:
        """Up to a limit, oldest first."""
        recorder = Recorder()
        recorder.gate.clear()
        async with self.opened(recorder) as engine:
            await engine.enqueue([task("a", queue="one")])
            await engine.enqueue([task("b", queue="one")])
            await until(lambda: recorder.begun)
            assert [each.task.key for each in await engine.list(worker="w1")] == ["a"]
            assert await engine.list(worker="another") == []
            assert [each.task.key for each in await engine.list(limit=1)] == ["a"]
            assert [each.task.key for each in await engine.list()] == ["a", "b"]

    async def test_resume_of_a_worker_that_runs_its_tasks_repeats_none(self) -> None:
        """Nor of one that nobody knows."""
        recorder = Recorder()
        recorder.gate.clear()
        async with self.opened(recorder) as engine:
            await engine.enqueue([task("a")])
            await until(lambda: recorder.begun)
            assert await engine.resume("w1") == 0
            assert await engine.resume("nobody") == 0
            recorder.gate.set()
            await until(lambda: recorder.ended)
        assert recorder.begun == ["a"]

    async def test_schedule_enqueues_again_and_again(self) -> None:
        """A schedule of the same name replaces the one before."""
        recorder = Recorder()
        async with self.opened(recorder) as engine:
            await engine.schedule("tick", task("hourly"), every=3_600)
            await engine.schedule("tick", task("often"), every=1)
            await until(lambda: recorder.ended.count("often") >= 2)
            await engine.schedule("tick", task("hourly"), every=3_600)
        assert set(recorder.ended) == {"often"}

    async def test_drain_waits_for_what_runs_and_delivers_nothing_more(self) -> None:
        """What takes longer is cancelled, and where the engine is durable, enqueued again."""
        recorder = Recorder()
        recorder.gate.clear()
        await self.close()
        engine = await self.open("w1", QUEUES, recorder)
        await engine.enqueue([task("runs", queue="one")])
        await until(lambda: recorder.begun)
        await engine.enqueue([task("waits", queue="one")])
        draining = asyncio.create_task(engine.drain(PATIENCE))
        await asyncio.sleep(3 * POLL)
        recorder.gate.set()
        assert await draining == 0
        assert (recorder.begun, recorder.ended) == (["runs"], ["runs"])
        recorder.gate.clear()
        engine = await self.open("w2", QUEUES, recorder)
        if not self.durable:
            await engine.enqueue([task("waits", queue="one")])
        await until(lambda: recorder.begun == ["runs", "waits"])
        assert await engine.drain(0) == 1
        assert recorder.running == []
        recorder.gate.set()
        async with self.opened(recorder):
            if self.durable:
                await until(lambda: recorder.ended == ["runs", "waits"])

    @staticmethod
    async def in_state(engine: Engine, states: frozenset[State] | set[State], number: int) -> None:
        """Wait until so many entries are in some states; an engine may record an end after it."""
        async with asyncio.timeout(PATIENCE):
            while len(await engine.list(states)) != number:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.02)
