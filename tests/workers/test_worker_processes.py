"""Worker processes over Postgres: what one leaves, the others finish, and every text is embedded once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.counting import CountingProcess
from tests.support.processes.running import start

from flowbed.bed import aopen
from flowbed.cli.app import run
from flowbed.ledger.workers import HoldsWorkers, Workers
from flowbed.records import Status
from flowbed.testing.index import contents_of
from flowbed.workers.membership import DEATHS_MOST

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from tests.support.processes.running import Forked
    from tests.support.servers.postgres import PostgresServer

    from flowbed.bed import Flowbed

PATIENCE = 120.0  # s: other processes may need the cores
SOURCES, TEXTS = 6, 60
IN_FLIGHT, CONCURRENCY = 5, 2  # texts of a request, and requests at once
SETTINGS = """\
model = "seeded:32"
concurrency = 2
[workers]
beat_seconds = 0.2
dead_seconds = 1
sweep_seconds = 0.5
poll_seconds = 0.1
grace_seconds = 5
[workers.queues.embed]
worker = 1
"""


@pytest.fixture
def slow() -> Iterator[CountingProcess]:
    """Start a provider that takes a while for each request, and counts the texts."""
    with CountingProcess(delay=0.1) as running:
        yield running


class Fleet:
    """A project with workers, opened by the test too."""

    def __init__(self, folder: Path, url: str, provider: CountingProcess) -> None:
        self.folder, self.provider = folder, provider
        self.variables = {"FLOWBED_LEDGER": url}
        self.started: list[Forked] = []
        self.count = 0
        self.settings = SETTINGS
        self.bed: Flowbed
        folder.mkdir()
        self.name_sources(SOURCES)
        for number in range(SOURCES):
            rows = [{"id": f"k{n}", "text": f"text {number} {n}"} for n in range(TEXTS)]
            (folder / f"s{number}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    def name_sources(self, number: int) -> None:
        """Name so many of the sources in the settings."""
        options = f'[model_options]\nserver = "{self.provider.address}"\nitems = "{IN_FLIGHT}"\n'
        sources = [
            f'[sources.s{each}]\nkind = "jsonl"\nlocation = "s{each}.jsonl"\n' for each in range(number)
        ]
        (self.folder / "flowbed.toml").write_text("".join([self.settings, options, *sources]))

    @property
    def rows(self) -> Workers:
        assert isinstance(self.bed.ledger, HoldsWorkers)
        return self.bed.ledger.workers

    def start(self, *arguments: str, point: str = "") -> Forked:
        """Start a worker, which is killed at `point`."""
        log = self.folder.parent / f"worker{self.count}"
        self.count += 1
        given = ("worker", "--json", *arguments)
        process = start(*given, folder=self.folder, variables=self.variables, point=point, log=log)
        self.started.append(process)
        return process

    def log(self, number: int) -> str:
        """Return what a worker has logged."""
        return (self.folder.parent / f"worker{number}.err").read_text()

    async def running(self) -> dict[int, list[str]]:
        """Return what each worker runs, by process."""
        return {row.pid: json.loads(row.running) for row in await self.rows.all()}

    async def done(self) -> bool:
        """Tell whether everything is in the index."""
        counts = await self.bed.ledger.chunks.counts()
        return counts == {(f"s{number}", Status.SUCCESS): TEXTS for number in range(SOURCES)}

    def assert_each_text_was_sent_once(self, *, kills: int) -> None:
        """Assert that only what was in flight when workers were killed was sent again: at most two requests each.

        An answer may have been written, and its reader killed before it kept the vectors.
        """
        report = self.provider.report()
        assert len(report.texts) == SOURCES * TEXTS
        assert max(report.texts.values()) <= 1 + kills
        assert sum(times - 1 for times in report.texts.values()) <= kills * CONCURRENCY * IN_FLIGHT

    async def ended(self, process: Forked, number: int = signal.SIGTERM) -> int:
        """End a worker, and return its exit status."""
        assert process.process.pid is not None
        os.kill(process.process.pid, number)
        self.started.remove(process)
        return (await process.ended()).returncode


async def until(reached: Callable[[], Any]) -> None:
    """Wait for a condition, which may be a coroutine's."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found = reached()
            if await found if asyncio.iscoroutine(found) else found:
                return
            await asyncio.sleep(0.1)


@pytest.fixture
async def fleet(
    tmp_path: Path, ledger_url: str, slow: CountingProcess, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Fleet]:
    """Yield a project without workers; those that a test starts are killed after it."""
    made = Fleet(tmp_path / "project", ledger_url, slow)
    monkeypatch.setenv("FLOWBED_LEDGER", ledger_url)
    async with await aopen(made.folder) as made.bed:
        yield made
        for each in made.started:
            each.kill()
            await each.ended()


async def test_worker_killed_is_replaced_by_the_other_and_each_text_sent_once(fleet: Fleet) -> None:
    """The one that is left, drained at the end, leaves nothing behind."""
    first, second = fleet.start(), fleet.start()
    pid = first.process.pid
    await until(lambda: len(fleet.provider.report().texts) > TEXTS)

    async def embeds() -> bool:
        return any(each.startswith("embed(") for each in (await fleet.running()).get(pid or 0, []))

    await until(embeds)
    first.kill()
    await until(fleet.done)
    fleet.assert_each_text_was_sent_once(kills=1)
    assert contents_of(fleet.folder).total == SOURCES * TEXTS
    assert await fleet.ended(second) == 0
    assert "has died" in fleet.log(1)
    assert await fleet.running() == {}


async def test_workers_postgres_restarted_wait_and_say_so_once(
    fleet: Fleet, postgres: PostgresServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody is taken for dead, and no text is sent twice; then the commands list, pause and drain."""
    # Nobody dies here: a worker that gets no processor for a second must not be taken for dead.
    fleet.settings = SETTINGS.replace("dead_seconds = 1", "dead_seconds = 60")
    fleet.name_sources(SOURCES)
    first, second = fleet.start(), fleet.start()
    await until(lambda: len(fleet.provider.report().texts) > TEXTS)
    postgres.stop()
    await until(lambda: all("waiting for the ledger" in fleet.log(number) for number in range(2)))
    postgres.start()
    await until(fleet.done)
    await until(lambda: all("the ledger is back" in fleet.log(number) for number in range(2)))
    report = fleet.provider.report()
    assert set(report.texts.values()) == {1}
    for number in range(2):
        assert fleet.log(number).count("waiting for the ledger") == 1, fleet.log(number)
        assert fleet.log(number).count("the ledger is back") == 1
        assert "has died" not in fleet.log(number)

    async def called(*arguments: str) -> Any:
        capsys.readouterr()
        given = ["workers", *arguments, "--json", "--config", str(fleet.folder)]
        assert await asyncio.to_thread(run, given) == 0
        return json.loads(capsys.readouterr().out)

    await called("pause", "embed")
    shown = await called("list")
    assert {each["pid"] for each in shown["workers"]} == {first.process.pid, second.process.pid}
    assert {each["state"] for each in shown["workers"]} == {"running"}
    assert shown["queues"]["embed"] == {"waiting": 0, "oldest_seconds": 0, "paused": True}
    assert (await called("resume", "embed"))["paused"] is False
    assert await called("scale", "3", "--host", "elsewhere") == {"host": "elsewhere", "processes": 3}
    leaving = next(each["id"] for each in shown["workers"] if each["pid"] == first.process.pid)
    await called("drain", leaving)
    fleet.started.remove(first)
    assert (await first.ended()).returncode == 0
    assert [each["pid"] for each in (await called("list"))["workers"]] == [second.process.pid]


@pytest.mark.long
async def test_worker_task_that_kills_workers_is_given_up_and_retried_by_command(fleet: Fleet) -> None:
    """The other tasks are done; the one is a dead letter after five workers, and its texts are sent once."""
    fleet.name_sources(1)
    for _ in range(DEATHS_MOST):
        killed = fleet.start(point="request.sent:1")
        fleet.started.remove(killed)
        assert (await killed.ended()).returncode == -signal.SIGKILL
    fleet.name_sources(SOURCES)
    fleet.start()

    async def letters() -> list[str]:
        return [each.subject for each in await fleet.bed.dead_letters() if each.kind == "task"]

    await until(letters)
    (task,) = await letters()
    assert task.startswith("embed(")
    await until(lambda: len(fleet.provider.report().texts) >= (SOURCES - 1) * TEXTS)
    assert not await fleet.done()
    await fleet.bed.retry_dead_letters(task)
    await until(fleet.done)
    assert await letters() == []
    fleet.assert_each_text_was_sent_once(kills=DEATHS_MOST)


@pytest.mark.long
async def test_worker_stopped_while_postgres_is_away_ends_and_leaves_its_work_to_others(
    fleet: Fleet, postgres: PostgresServer
) -> None:
    first = fleet.start()
    await until(lambda: len(fleet.provider.report().texts) > TEXTS)
    postgres.stop()
    await asyncio.sleep(1)
    assert first.process.pid is not None
    os.kill(first.process.pid, signal.SIGTERM)
    fleet.started.remove(first)
    try:
        assert (await first.ended(PATIENCE)).returncode is not None
    finally:
        postgres.start()
    fleet.start()
    await until(fleet.done)
    fleet.assert_each_text_was_sent_once(kills=1)
