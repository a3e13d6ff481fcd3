"""What workers do for each other, and what a worker finds that no hint told of."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
from dbos import DBOS

from flowbed.errors import Transient
from flowbed.ledger import open_ledger
from flowbed.ledger.workers import DEATHS, PAUSED, HoldsWorkers, WorkerRow, Workers
from flowbed.services.stages import Hints
from flowbed.testing.engines import PATIENCE, QUEUES, Recorder, task, until
from flowbed.wiring.process import now
from flowbed.workers import VERSION, State
from flowbed.workers import worker as worker_module
from flowbed.workers.engines.durable.opening import open_durable
from flowbed.workers.engines.local import open_local
from flowbed.workers.membership import DEATHS_MOST, Care, Membership, Timing
from flowbed.workers.outage import Outage
from flowbed.workers.worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from flowbed.ledger import Ledger
    from flowbed.records.tasks import Task
    from flowbed.workers import CarryOut, Engine
    from flowbed.workers.engines.durable.engine import DurableEngine

QUICK = Timing(beat=0.05, dead=0.4, sweep=0.05, audit=0.2, grace=1)
DEAD = "another-host/7/1.00/dead"


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    opened = await open_ledger("ledger.db", folder=tmp_path, new_id="0" * 32)
    yield opened
    await opened.close()


def rows_of(ledger: Ledger) -> Workers:
    assert isinstance(ledger, HoldsWorkers)
    return ledger.workers


@dataclass
class Pile:
    """A stage whose work is a pile of keys; it runs as a recorder does."""

    recorder: Recorder
    left: list[str] = field(default_factory=list)
    failures: int = 0
    workflow = "work"

    async def waiting(self) -> Sequence[Task]:
        return [task(key) for key in self.left]

    async def run(self, key: str) -> Sequence[Task]:
        if self.failures:
            self.failures -= 1
            raise Transient("the ledger cannot be reached")
        await self.recorder(task(key))
        if key in self.left:
            self.left.remove(key)
        return [replace(task("next"), workflow="work")] if key == "first" else []


def worker(pile: Pile, ledger: Ledger, **how: Any) -> Worker:
    """Make a worker with an engine of its own."""
    given = {"clock": now, "rows": rows_of(ledger), "timing": QUICK, **how}
    return Worker("here/1/1.00/w", [pile], QUEUES, given.pop("opener", open_local), **given)


async def test_worker_hint_is_carried_out_and_what_follows_from_it(ledger: Ledger) -> None:
    hints, recorder = Hints(), Recorder()
    async with worker(Pile(recorder), ledger, hints=hints, timing=replace(QUICK, sweep=3_600)):
        hints(task("first"))
        await until(lambda: recorder.ended == ["first", "next"])
    hints(task("late"))  # nobody listens any more
    assert recorder.begun == ["first", "next"]


async def test_worker_sweep_finds_what_no_hint_told_of(ledger: Ledger) -> None:
    recorder = Recorder()
    pile = Pile(recorder, ["a", "b"])
    async with worker(pile, ledger):
        await until(lambda: not pile.left)
        pile.left.append("c")
        await until(lambda: not pile.left)
    assert sorted(recorder.ended) == ["a", "b", "c"]


async def test_worker_paused_queue_waits_until_it_is_resumed(ledger: Ledger) -> None:
    recorder = Recorder()
    pile = Pile(recorder, ["a"])
    await rows_of(ledger).mark(PAUSED, "many", 1)
    async with worker(pile, ledger) as working:
        for _ in range(3):
            assert await working.sweep() == 0
        assert recorder.begun == []
        await rows_of(ledger).unmark(PAUSED, ["many"])
        await until(lambda: not pile.left)


async def test_worker_passing_failure_is_waited_for_within_the_task(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "RETRY", 0.01)
    recorder = Recorder()
    pile = Pile(recorder, ["a"], failures=3)
    async with worker(pile, ledger) as working:
        await until(lambda: not pile.left)
        states = {each.state for each in await working.engine.list(frozenset(State))}
    assert states == {State.DONE}
    assert recorder.ended == ["a"]


async def test_worker_failure_of_several_tasks_is_said_once(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker_module, "RETRY", 0.01)
    pile = Pile(Recorder(), ["a", "b", "c"], failures=9)
    async with worker(pile, ledger):
        await until(lambda: not pile.left)
    assert [each.levelname for each in caplog.records if "cannot be reached" in each.message] == ["WARNING"]


async def test_worker_task_that_fails_waits_longer_each_time(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "RETRY", 3_600)
    recorder = Recorder()

    class Broken(Pile):
        async def run(self, key: str) -> Sequence[Task]:
            self.recorder.begun.append(key)
            raise ZeroDivisionError

    async with worker(Broken(recorder, ["a"]), ledger) as working:
        await until(lambda: recorder.begun)
        for _ in range(5):
            await working.sweep()
    assert recorder.begun == ["a"]


class Letters:
    """Dead letters, kept."""

    def __init__(self) -> None:
        self.subjects: list[str] = []

    async def add(self, letters: Sequence[Any]) -> None:
        self.subjects += [letter.subject for letter in letters]


@dataclass
class Others:
    """A worker's view of the others, with a clock that the test moves."""

    rows: Workers
    engine: Engine
    seconds: float = 1_000.0
    relieved: list[str] = field(default_factory=list)
    letters: Letters = field(default_factory=Letters)

    def membership(self, **how: Any) -> Membership:
        async def relieve(name: str) -> None:
            self.relieved.append(name)

        care = Care(
            dead=lambda _: False,
            relieve=relieve,
            letters=self.letters,  # type: ignore[arg-type]
            counting=frozenset({"counts"}),
        )
        given: dict[str, Any] = {
            "rows": self.rows,
            "care": care,
            "timing": QUICK,
            "queues": QUEUES,
            "version": VERSION,
            "engine": lambda: self.engine,
            "running": {},
            "leaving": asyncio.Event(),
            "outage": Outage("the ledger", monotonic=lambda: self.seconds),
            "clock": now,
            "monotonic": lambda: self.seconds,
        }
        return Membership("here/1/1.00/w", **{**given, **how})


async def test_membership_reaps_only_after_its_own_beats_had_no_gap(ledger: Ledger) -> None:
    """After an outage all beats are old: whoever has a gap itself takes nobody for dead yet."""
    rows = rows_of(ledger)
    recorder = Recorder()
    engine = await open_local("here", QUEUES, recorder, clock=now)
    others = Others(rows, engine)
    member = others.membership()
    await rows.beat(WorkerRow(id=DEAD, host="another-host", pid=7, version=VERSION))
    await asyncio.sleep(QUICK.dead + 0.1)

    async def beat(after: float) -> None:
        others.seconds += after
        await member.beat()
        await member.look()

    await beat(0)
    for _ in range(3):
        await beat(0.15)
    assert others.relieved == []
    others.seconds += 0.3  # a gap
    await member.look()  # before the beat that finds it
    assert others.relieved == []
    await beat(0)  # it counts from here
    for _ in range(3):
        await beat(0.15)
    assert others.relieved == []
    await beat(0.16)
    assert others.relieved == [DEAD]
    assert [row.id for row in await rows.all()] == ["here/1/1.00/w"]
    await engine.drain(0)


async def test_membership_process_that_is_gone_is_reaped_at_once(ledger: Ledger) -> None:
    rows = rows_of(ledger)
    engine = await open_local("here", QUEUES, Recorder(), clock=now)
    others = Others(rows, engine)

    async def relieve(name: str) -> None:
        others.relieved.append(name)

    care = Care(dead=lambda name: name.endswith("gone"), relieve=relieve, letters=ledger.dead_letters)
    member = others.membership(care=care)
    import socket

    for name in ("gone", "lives"):
        await rows.beat(WorkerRow(id=f"h/7/1.00/{name}", host=socket.gethostname(), pid=7, version=VERSION))
    await member.beat()
    await member.look()
    assert others.relieved == ["h/7/1.00/gone"]
    await engine.drain(0)


@asynccontextmanager
async def durable(
    folder: Path, worker: str, recorder: CarryOut, *, version: str = VERSION, abandon: bool = False
) -> AsyncIterator[DurableEngine]:
    """Open the durable engine on SQLite; abandoned, it ends as a killed process does."""
    url = f"sqlite:///{folder}/tasks.db"
    engine = await open_durable(
        worker, QUEUES, recorder, url=url, name="flowbed-test", clock=now, version=version
    )
    try:
        yield engine
    finally:
        if abandon:
            await asyncio.to_thread(DBOS.destroy, destroy_registry=True)
            for each in list(engine._running.values()):
                each.cancel()
        else:
            await engine.drain(PATIENCE)


async def test_membership_dead_workers_tasks_are_resumed_but_what_kills_too_many(
    ledger: Ledger, tmp_path: Path
) -> None:
    rows = rows_of(ledger)
    recorder = Recorder()
    recorder.gate.clear()
    async with durable(tmp_path, DEAD, recorder, abandon=True) as engine:
        counted = replace(task("counted"), workflow="counts")
        await engine.enqueue([task("kills"), task("fine"), counted])
        await until(lambda: len(recorder.begun) == 3)
    await rows.beat(WorkerRow(id=DEAD, host="another-host", pid=7, version=VERSION))
    for _ in range(DEATHS_MOST - 1):
        await rows.add(DEATHS, ["work(kills)", "counts(counted)"])
    after = Recorder()
    async with durable(tmp_path, "here/1/1.00/w", after) as engine:
        others = Others(rows, engine)
        member = others.membership()
        await asyncio.sleep(QUICK.dead + 0.1)
        for _ in range(5):
            others.seconds += 0.19
            await member.beat()
            await member.look()
        await until(lambda: len(after.ended) == 2)
        assert others.letters.subjects == ["work(kills)"]
        assert others.relieved == [DEAD]
        await member.beat()
        assert member.deaths["work(fine)"] == 1
        member.survived(task("fine"))
        await member.beat()
        left = {"work(kills)": DEATHS_MOST, "counts(counted)": DEATHS_MOST - 1}
        assert await rows.marks(DEATHS) == [left]
    assert sorted(after.begun) == ["counted", "fine"]


async def test_membership_success_is_counted_whenever_the_others_died(ledger: Ledger) -> None:
    """A task that is killed now and then, and succeeds in between, is never given up."""
    rows = rows_of(ledger)
    engine = await open_local("here", QUEUES, Recorder(), clock=now)
    member = Others(rows, engine).membership()
    for _ in range(DEATHS_MOST + 1):
        await member.beat()
        assert (await rows.add(DEATHS, ["work(fine)"]))["work(fine)"] == 1
        member.survived(task("fine"))
        await member.beat()
        assert await rows.marks(DEATHS) == [{}]
    await engine.drain(0)


async def test_membership_living_worker_taken_for_dead_takes_its_deaths_back(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    rows = rows_of(ledger)
    engine = await open_local("here", QUEUES, Recorder(), clock=now)
    member = Others(rows, engine).membership(running={"work(long)": task("long")})
    for _ in range(2):
        await member.beat()
        await member.look()
    await rows.add(DEATHS, ["work(long)", "work(other)"])  # as another worker does
    await rows.remove("here/1/1.00/w")
    await member.beat()
    await member.look()
    assert await rows.marks(DEATHS) == [{"work(other)": 1}]
    assert caplog.text.count("this worker was taken for dead") == 1
    await engine.drain(0)


async def test_worker_task_that_runs_already_is_not_begun_again(ledger: Ledger) -> None:
    """An engine may deliver it twice after the worker was taken for dead."""
    recorder = Recorder()
    recorder.gate.clear()
    async with worker(Pile(recorder, ["a"]), ledger) as working:
        await until(lambda: recorder.begun)
        await working._carry_out(task("a"))
        recorder.gate.set()
        await until(lambda: recorder.ended)
    assert recorder.begun == ["a"]


async def test_membership_tasks_of_an_older_version_are_handed_over(ledger: Ledger, tmp_path: Path) -> None:
    """They are deleted once no worker of that version lives, and the sweep enqueues them for this one."""
    rows = rows_of(ledger)
    recorder = Recorder()
    recorder.gate.clear()
    keys = [f"k{n}" for n in range(5)]
    async with durable(tmp_path, DEAD, recorder, version="flowbed-0", abandon=True) as engine:
        await engine.enqueue([task(key) for key in keys])
        await until(lambda: len(recorder.begun) == 3)
    await rows.beat(WorkerRow(id=DEAD, host="another-host", pid=7, version="flowbed-0"))
    after = Recorder()
    async with durable(tmp_path, "here/1/1.00/w", after) as engine:
        others = Others(rows, engine)
        member = others.membership()
        await member.beat()
        await member.look()
        assert len(await engine.list()) == 5  # a worker of that version may live
        await asyncio.sleep(4 * 0.05)
        assert after.begun == []
        await rows.remove(DEAD)
        others.seconds += QUICK.audit
        await member.beat()
        await member.look()
        assert await engine.list() == []
        assert await engine.enqueue([task(key) for key in keys]) == 5
        await until(lambda: len(after.ended) == 5)
    assert sorted(after.begun) == keys
