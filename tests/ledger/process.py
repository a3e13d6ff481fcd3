"""A process that works on a ledger, for tests with concurrent or killed processes.

Started as `process.py TASK FOLDER NAME`. It prints what it did, and "go" before each step in which it may be killed.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from flowbed.errors import Conflict
from flowbed.ledger import ChunkRow, DocumentRow, Ledger, RunRow, Swap, open_ledger
from flowbed.records import Status

DOCUMENTS, EACH = 1_000, 10
BATCHES, IN_BATCH = 6, 100
LATE = 10**18


def page(generation: int) -> tuple[list[DocumentRow], list[ChunkRow]]:
    """Return the documents and chunks of swap number `generation`."""
    names = [f"g{generation}/d{number:04d}" for number in range(DOCUMENTS)]
    documents = [
        DocumentRow(source="s", id=name, etag="e", hash="h", chunks=EACH, generation=generation)
        for name in names
    ]
    return documents, [chunk(f"{name}#{number}", name, "b") for name in names for number in range(EACH)]


def chunk(id: str, document: str, batch: str) -> ChunkRow:
    return ChunkRow(
        collection="c", id=id, source="s", document=document, ordinal=0, tokens=1, text_hash="t" * 64,
        row_hash="r" * 32, version=1, batch=batch,
    )  # fmt: skip


def run(number: int) -> RunRow:
    return RunRow(
        id=f"r{number}", collection="c", space="{}", key="k", sha256="0a", rows=1, lane="realtime", worker="w",
        created=number,
    )  # fmt: skip


async def show_id(ledger: Ledger, name: str) -> None:
    """Print the id of the ledger."""
    say(ledger.id)


async def claim(ledger: Ledger, name: str) -> None:
    """Claim all chunks of every batch, a few at a time."""
    async for found in ledger.chunks.batches([Status.NONE], now=1, sources=()):
        for batch in found:
            while won := await ledger.chunks.claim(
                [batch], [Status.NONE], worker=name, now=1, until=LATE, sources=(), limit=7
            ):
                for row in won:
                    say(row.id)


async def take(ledger: Ledger, name: str) -> None:
    """Take all chunks of every live submission, a few at a time, and hold every submission that is free."""
    async for page in ledger.submissions.pages(live=True):
        for row in page:
            while taken := await ledger.chunks.take(row.id, worker=name, now=1, until=LATE, limit=7):
                for each in taken:
                    say(each.id)
            if await ledger.submissions.hold(row.id, worker=name, now=1, until=LATE):
                say(row.id)


async def count(ledger: Ledger, name: str) -> None:
    """Move the cursor of a source that other processes move too."""
    for _ in range(20):
        while True:
            cursor = await ledger.documents.cursor("s")
            try:
                await ledger.documents.swap(Swap(cursor=cursor, value=str(int(cursor.value or 0) + 1)))
            except Conflict:
                continue
            break


async def swap(ledger: Ledger, name: str) -> None:
    """Swap in large pages until killed."""
    for generation in range(1_000):
        documents, chunks = page(generation)
        cursor = await ledger.documents.cursor("s")
        say("go")
        await ledger.documents.swap(Swap(cursor=cursor, value="", documents=documents, chunks=chunks))


async def record(ledger: Ledger, name: str) -> None:
    """Record thousands of claimed chunks per run until killed."""
    for number in range(1_000):
        documents, chunks = page(number)
        cursor = await ledger.documents.cursor("s")
        await ledger.documents.swap(Swap(cursor=cursor, value="", documents=documents, chunks=chunks))
        won = await ledger.chunks.claim(
            ["b"], [Status.NONE], worker="w", now=1, until=LATE, sources=(), limit=DOCUMENTS * EACH
        )
        say("go")
        await ledger.runs.record(run(number), [(row.id, row.version) for row in won], worker="w")


def say(what: str) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


async def main(task: str, folder: str, name: str) -> None:
    ledger = await open_ledger("ledger.db", folder=Path(folder), new_id=name)
    await TASKS[task](ledger, name)
    await ledger.close()


TASKS = {task.__name__: task for task in (show_id, claim, take, count, swap, record)}

if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
