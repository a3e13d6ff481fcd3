"""Several processes that work on one project whose ledger is on Postgres; some are killed."""

from __future__ import annotations

import asyncio
import random
import re
import signal
from typing import TYPE_CHECKING

import pytest
from tests.support.counting import CountingProcess

from flowbed.ledger import open_ledger
from flowbed.records import Status
from flowbed.testing.index import assert_same
from flowbed.wiring import process

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.processes.killing import Project
    from tests.support.processes.running import Ran

    from flowbed.testing.index import Contents

FILES = 120
WORDS = ("birch", "elm", "fir", "larch", "oak", "pine")


@pytest.fixture
def shared(project: Project, ledger_url: str) -> Project:
    """Return a project with its ledger on Postgres, and files of one chunk each."""
    settings = project.folder / "flowbed.toml"
    settings.write_text(f'model = "seeded:32"\nledger = "{ledger_url}"\n', "utf-8")
    chance = random.Random(FILES)
    for number in range(FILES):
        project.write_text(f"docs/{number:03d}.md", f"{' '.join(chance.choices(WORDS, k=12))} {number}")
    project.write_source("docs", "files", "docs")
    return project


def alone(project: Project, folder: Path) -> Contents:
    """Return the index that one process makes of the same files with a ledger in SQLite."""
    copy = project.copy(folder)
    settings = copy.folder / "flowbed.toml"
    settings.write_text(re.sub(r"(?m)^ledger = .*\n", "", settings.read_text("utf-8")), "utf-8")
    return copy.anew(folder.with_name("anew"))


async def test_four_runs_on_postgres_send_each_text_once(shared: Project, tmp_path: Path) -> None:
    """All four end well, and the index is that of one run."""
    with CountingProcess(delay=0.05) as provider:
        # With a limit for each run, something is left for the others whichever is first.
        begun = [await shared.begun(provider, "--limit", str(FILES // 4)) for _ in range(4)]
        ended = await asyncio.gather(*(each.ended() for each in begun))
        assert [each.returncode for each in ended] == [0] * 4, ended
        counted = provider.report()
    assert [each.report["embedded"] for each in ended] == [FILES // 4] * 4
    assert set(counted.texts.values()) == {1}
    assert len(counted.texts) == FILES
    shared.assert_finished()
    assert_same(shared.contents(), alone(shared, tmp_path / "alone"))


async def test_run_after_killed_runs_resends_only_texts_in_flight(shared: Project, tmp_path: Path) -> None:
    """Two of four runs are killed; the next one ends in the same index."""
    with CountingProcess(delay=0.2) as provider:

        async def run(signal_: signal.Signals | None = None) -> Ran:
            after = "request.sent" if signal_ else ""
            return await (await shared.begun(provider, "--limit", str(FILES // 4), after=after)).ended(
                signal_
            )

        killed = await asyncio.gather(run(signal.SIGKILL), run(signal.SIGKILL), run(), run())
        assert [each.returncode for each in killed] == [-signal.SIGKILL, -signal.SIGKILL, 0, 0], killed
        again = await (await shared.begun(provider)).ended()
        assert again.returncode == 0, again
        twice = sum(times - 1 for times in provider.report().texts.values())
    assert twice <= sum(each.in_flight for each in killed)
    shared.assert_finished()
    assert_same(shared.contents(), alone(shared, tmp_path / "alone"))


async def test_claim_of_another_host_lasts_until_it_expires(shared: Project, ledger_url: str) -> None:
    """Whether its worker is alive cannot be seen from here."""
    elsewhere = "another-host/1/0.00/abcd"
    assert not process.dead(elsewhere)
    with CountingProcess() as provider:
        first = await (await shared.begun(provider, "--limit", "1")).ended()
        assert first.returncode == 0, first
        ledger = await open_ledger(ledger_url, folder=shared.folder, new_id="i")
        ((batch,),) = [
            page async for page in ledger.chunks.batches([Status.NONE], now=process.now(), sources=())
        ]
        held = await ledger.chunks.claim(
            [batch],
            [Status.NONE],
            worker=elsewhere,
            now=process.now(),
            until=process.now() + 10**9,
            sources=(),
            limit=50,
        )
        left = await (await shared.begun(provider)).ended()
        assert (left.returncode, left.report["embedded"]) == (0, FILES - 1 - len(held))
        assert {
            row.worker for row in await ledger.chunks.ready(batch, [Status.NONE], now=0, sources=())
        } == set()
        await ledger.chunks.renew(elsewhere, until=process.now())
        await ledger.close()
        taken = await (await shared.begun(provider)).ended()
        assert (taken.returncode, taken.report["embedded"]) == (0, len(held))
        assert set(provider.report().texts.values()) == {1}
    shared.assert_finished()
