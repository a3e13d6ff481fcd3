"""Rows per second of a ledger, in SQLite and on Postgres: `python -m benchmarks.ledger [ROWS]`."""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.servers.postgres import PostgresServer

from flowbed.ledger import ChunkRow, Cursor, DocumentRow, RunRow, Swap, open_ledger
from flowbed.records import Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowbed.ledger import Ledger

ROWS, ROUNDS = 200_000, 3
PAGE = 2_000  # chunks of one swap, as in a fetch
RUN = 8_192  # chunks of one claim and one run


@dataclass
class Seconds:
    """Seconds of each step."""

    of: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Add the time of the block to a step."""
        began = time.perf_counter()
        yield
        self.of[name] = self.of.get(name, 0.0) + time.perf_counter() - began


def page(start: int) -> tuple[list[DocumentRow], list[ChunkRow]]:
    """Make documents of one chunk each."""
    names = [f"some/folder/document-{number:07d}.md" for number in range(start, start + PAGE)]
    digest = f"{start:064x}"
    documents = [
        DocumentRow(source="s", id=name, etag=digest, hash=digest, chunks=1, generation=1) for name in names
    ]
    chunks = [
        ChunkRow(
            collection="c", id=f"s#{name}#00000", source="s", document=name, ordinal=0, tokens=200, text_hash=digest,
            row_hash=digest, version=1, batch=digest,
        )
        for name in names
    ]  # fmt: skip
    return documents, chunks


async def measure(ledger: Ledger, rows: int) -> dict[str, float]:
    """Take chunks through all steps, and then change each; return the seconds of each step."""
    seconds = Seconds()
    cursor = Cursor(source="s")
    for start in range(0, rows, PAGE):
        documents, chunks = page(start)
        with seconds.step("swap, new: a document and a chunk"):
            cursor = await ledger.documents.swap(
                Swap(cursor=cursor, value="", documents=documents, chunks=chunks)
            )
    won: list[ChunkRow] = []
    with seconds.step("claim"):
        async for batches in ledger.chunks.batches([Status.NONE], now=1, sources=()):
            for batch in batches:
                won += await ledger.chunks.claim(
                    [batch], [Status.NONE], worker="w", now=1, until=10**18, sources=(), limit=RUN
                )
    require(len(won) == rows)
    for number, start in enumerate(range(0, rows, RUN)):
        run = RunRow(
            id=f"r{number}", collection="c", space="{}", key="k", sha256="0a", rows=RUN, lane="realtime", worker="w",
            created=number,
        )  # fmt: skip
        with seconds.step("record"):
            await ledger.runs.record(
                run, [(row.id, row.version) for row in won[start : start + RUN]], worker="w"
            )
        with seconds.step("commit"):
            await ledger.runs.commit([run.id], version=number)
    for start in range(0, rows, PAGE):
        chunks = [replace(row, row_hash="changed", version=2) for row in page(start)[1]]
        with seconds.step("read the chunks of documents"):
            found = await ledger.chunks.of("s", [row.document for row in chunks])
        require(len(found) == PAGE)
        with seconds.step("swap, changed: a chunk"):
            cursor = await ledger.documents.swap(Swap(cursor=cursor, value="", chunks=chunks))
    with seconds.step("count by status"):
        require(await ledger.chunks.counts() == {("c", Status.NONE): rows})
    return seconds.of


def require(done: bool) -> None:
    """Stop if a measured step did not do its work."""
    if not done:
        raise SystemExit("the ledger did not do what it was asked to")


async def main(rows: int) -> None:
    """Measure both in turn, and print a table of medians."""
    taken: dict[str, list[dict[str, float]]] = {"SQLite": [], "Postgres": []}
    with PostgresServer(durable=True) as server, tempfile.TemporaryDirectory() as folder:
        for number in range(ROUNDS):
            for name, url in (("SQLite", f"{number}.db"), ("Postgres", server.database())):
                ledger = await open_ledger(url, folder=Path(folder), new_id="i")
                taken[name].append(await measure(ledger, rows))
                await ledger.close()
    print(f"{rows:,} chunks, medians of {ROUNDS} rounds; rows a second\n")
    print("| step | SQLite | Postgres |\n| --- | ---: | ---: |")
    for step in taken["SQLite"][0]:
        rates = [rows / statistics.median(each[step] for each in rounds) for rounds in taken.values()]
        print(f"| {step} | {rates[0]:,.0f} | {rates[1]:,.0f} |")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if sys.argv[1:] else ROWS))
