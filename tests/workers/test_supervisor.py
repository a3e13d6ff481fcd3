"""Several worker processes of one machine: replaced when they die, scaled, and ended together."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from typing import TYPE_CHECKING

import pytest
from tests.workers.test_workers import rows_of

from flowbed.ledger import open_ledger
from flowbed.ledger.workers import PROCESSES
from flowbed.testing.engines import until
from flowbed.workers import supervisor
from flowbed.workers.supervisor import CANNOT, Supervisor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from flowbed.ledger import Ledger


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    opened = await open_ledger("ledger.db", folder=tmp_path, new_id="0" * 32)
    yield opened
    await opened.close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LOOK", 0.02)
    monkeypatch.setattr(supervisor, "AGAIN", 0.01)


def pids(watched: Supervisor) -> list[int]:
    return [each.process.pid for each in watched._children if each.process.returncode is None]


async def test_supervisor_replaces_the_dead_and_follows_the_scale(ledger: Ledger) -> None:
    """Other machines have a scale of their own."""
    watched = Supervisor(command=["sleep", "600"], wanted=2, rows=rows_of(ledger))
    stop = asyncio.Event()
    running = asyncio.create_task(watched.run(stop))
    await until(lambda: len(pids(watched)) == 2)
    first, second = pids(watched)
    os.kill(first, signal.SIGKILL)
    await until(lambda: len(pids(watched)) == 2 and first not in pids(watched))
    assert second in pids(watched)
    await rows_of(ledger).mark(PROCESSES, "another-host", 9)
    await rows_of(ledger).mark(PROCESSES, "", 3)
    await until(lambda: len(pids(watched)) == 3)
    await rows_of(ledger).mark(PROCESSES, socket.gethostname(), 1)
    await until(lambda: len(pids(watched)) == 1)
    (left,) = pids(watched)
    assert left == second
    stop.set()
    assert await running == 0
    with pytest.raises(ProcessLookupError):
        os.kill(left, 0)


async def test_supervisor_ends_with_those_that_were_told_to_leave() -> None:
    watched = Supervisor(command=["true"], wanted=2, rows=None)
    assert await asyncio.wait_for(watched.run(asyncio.Event()), 30) == 0


async def test_supervisor_process_that_cannot_start_ends_all() -> None:
    watched = Supervisor(command=["sh", "-c", f"exit {CANNOT}"], wanted=2, rows=None)
    assert await asyncio.wait_for(watched.run(asyncio.Event()), 30) == CANNOT
