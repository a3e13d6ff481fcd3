"""Worker processes over Postgres: what one leaves, the others finish, and every text is embedded once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.counting import CountingProcess
from tests.support.processes import start

from flowbed.bed import aopen
from flowbed.ledger.workers import HoldsWorkers, Workers
from flowbed.records import Status
from flowbed.testing.index import contents_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from tests.support.processes import Forked

    from flowbed.bed import Flowbed

PATIENCE = 60.0  # s
SOURCES, TEXTS = 6, 60
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
        self.bed: Flowbed
        folder.mkdir()
        options = f'[model_options]\nserver = "{provider.address}"\nitems = "5"\n'
        sources = [
            f'[sources.s{number}]\nkind = "jsonl"\nlocation = "s{number}.jsonl"\n'
            for number in range(SOURCES)
        ]
        (folder / "flowbed.toml").write_text("".join([SETTINGS, options, *sources]))
        for number in range(SOURCES):
            rows = [{"id": f"k{n}", "text": f"text {number} {n}"} for n in range(TEXTS)]
            (folder / f"s{number}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    @property
    def rows(self) -> Workers:
        assert isinstance(self.bed.ledger, HoldsWorkers)
        return self.bed.ledger.workers

    def start(self, *arguments: str) -> Forked:
        """Start a worker."""
        log = self.folder.parent / f"worker{len(self.started)}"
        process = start("worker", "--json", *arguments, folder=self.folder, variables=self.variables, log=log)
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

    def assert_each_text_was_sent_once(self) -> None:
        """Assert that only what was in flight when its worker was killed was sent again."""
        report = self.provider.report()
        assert len(report.texts) == SOURCES * TEXTS
        unanswered = Counter(text for each in report.requests if not each.answered for text in each.texts)
        assert {text: times for text, times in report.texts.items() if times > 1 + unanswered[text]} == {}

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
    fleet.assert_each_text_was_sent_once()
    assert contents_of(fleet.folder).total == SOURCES * TEXTS
    assert await fleet.ended(second) == 0
    assert "has died" in fleet.log(1)
    assert await fleet.running() == {}
