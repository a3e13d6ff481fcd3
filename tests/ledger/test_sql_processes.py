"""Concurrent and killed processes on one ledger."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flowbed.ledger import BatchRow, Cursor, Swap, open_ledger
from flowbed.records import Status
from flowbed.testing.ledger import submission

if TYPE_CHECKING:
    from asyncio.subprocess import Process

PROCESS = Path(__file__).with_name("process.py")
_SPEC = importlib.util.spec_from_file_location("ledger_process", PROCESS)
assert _SPEC is not None
assert _SPEC.loader is not None
process = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(process)


async def start(task: str, folder: Path, name: str) -> Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, PROCESS, task, folder, name, stdout=pipe, stderr=pipe
    )


async def together(task: str, folder: Path, number: int = 3) -> list[list[str]]:
    """Run processes at once, and return what each printed."""
    started = [await start(task, folder, f"p{n}") for n in range(number)]
    ended = await asyncio.gather(*(each.communicate() for each in started))
    assert [(each.returncode, error.decode()) for each, (_, error) in zip(started, ended, strict=True)] == [
        (0, "")
    ] * number
    return [said.decode().split() for said, _ in ended]


async def killed(task: str, folder: Path, *, turns: int, after: float) -> None:
    """Kill a process a moment after it began its last step."""
    started = await start(task, folder, "p")
    assert started.stdout is not None
    for _ in range(turns):
        assert await started.stdout.readline() == b"go\n"
    await asyncio.sleep(after)
    started.kill()
    await started.communicate()


async def test_open_concurrent_processes_create_one_ledger(tmp_path: Path) -> None:
    """Three processes that create the same ledger at once get the same id."""
    said = await together("show_id", tmp_path / "new")
    assert len({id_ for (id_,) in said}) == 1


async def test_claim_concurrent_processes_are_exclusive(tmp_path: Path) -> None:
    """Three processes that claim the same batches get every chunk exactly once."""
    names = [f"b{number}" for number in range(process.BATCHES)]
    rows = [
        process.chunk(f"{name}/{number}", "d", name) for name in names for number in range(process.IN_BATCH)
    ]
    ledger = await open_ledger("ledger.db", folder=tmp_path, new_id="i")
    for name in names:
        await ledger.batches.register(BatchRow(id=name, source="s", key=name, timestamp=1, chunks=1))
    await ledger.documents.swap(Swap(cursor=Cursor(source="s"), value="", chunks=rows))
    won = Counter(id_ for ids in await together("claim", tmp_path) for id_ in ids)
    assert won == Counter(row.id for row in rows)
    assert await ledger.chunks.counts() == {("c", Status.PENDING): len(rows)}
    await ledger.close()


async def test_take_concurrent_processes_are_exclusive(tmp_path: Path) -> None:
    """Three processes that take from the same submissions get every chunk and submission exactly once."""
    names = [f"b{number}" for number in range(process.BATCHES)]
    rows = [
        process.chunk(f"{name}/{number}", "d", name) for name in names for number in range(process.IN_BATCH)
    ]
    ledger = await open_ledger("ledger.db", folder=tmp_path, new_id="i")
    await ledger.documents.swap(Swap(cursor=Cursor(source="s"), value="", chunks=rows))
    for name in names:
        asked = {"worker": "finder", "now": 1, "until": 2, "sources": (), "limit": 1_000}
        await ledger.chunks.claim([name], [Status.NONE], submission=name, **asked)  # type: ignore[arg-type]
        await ledger.submissions.create(submission(name))
        await ledger.chunks.hand_over(name, worker="finder")
    won = Counter(id_ for ids in await together("take", tmp_path) for id_ in ids)
    assert won == Counter([*(row.id for row in rows), *names])
    await ledger.close()


async def test_swap_concurrent_processes_lose_nothing(tmp_path: Path) -> None:
    """Three processes that swap from one cursor, with retries on Conflict, move it once per success."""
    await together("count", tmp_path)
    ledger = await open_ledger("ledger.db", folder=tmp_path, new_id="i")
    assert await ledger.documents.cursor("s") == Cursor(source="s", value="60", token=60)
    await ledger.close()


@pytest.mark.parametrize("after", [0.0, 0.08])
async def test_swap_killed_is_whole_or_absent(tmp_path: Path, after: float) -> None:
    """After SIGKILL during a swap, only completed swaps are stored, and work continues."""
    await killed("swap", tmp_path, turns=2, after=after)
    ledger = await open_ledger("ledger.db", folder=tmp_path, new_id="i")
    cursor = await ledger.documents.cursor("s")
    assert cursor.token >= 1
    assert await ledger.documents.count("s") == cursor.token * process.DOCUMENTS
    assert await ledger.chunks.counts() == {
        ("c", Status.NONE): cursor.token * process.DOCUMENTS * process.EACH
    }
    documents, chunks = process.page(999)
    await ledger.documents.swap(Swap(cursor=cursor, value="", documents=documents, chunks=chunks))
    await ledger.close()


@pytest.mark.parametrize("after", [0.0, 0.08])
async def test_record_killed_is_whole_or_absent(tmp_path: Path, after: float) -> None:
    """After SIGKILL during a record, the run exists with all its chunks, or not at all."""
    await killed("record", tmp_path, turns=1, after=after)
    ledger = await open_ledger("ledger.db", folder=tmp_path, new_id="i")
    documents, _ = process.page(0)
    rows = await ledger.chunks.of("s", [row.id for row in documents])
    recorded = await ledger.runs.get("r0")
    assert Counter(row.run for row in rows) == {"r0" if recorded else "": len(rows)}
    assert {row.status for row in rows} == {Status.PENDING}
    await ledger.close()
