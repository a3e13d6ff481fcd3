"""What the life of a chunk costs in DynamoDB, in write units: the larger part of a ledger's bill."""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING

import pytest
from tests.support.aws.dynamodb import Metered, address

from flowbed.ledger import ChunkRow, Cursor, Swap
from flowbed.ledger.dynamodb import open_dynamodb
from flowbed.records import Status
from flowbed.testing.ledger import document, run, submission

if TYPE_CHECKING:
    from flowbed.ledger.dynamodb.ledger import DynamoLedger
    from flowbed.testing.aws import Emulator

DOCUMENTS, LINES = 15, 20
CHUNKS = DOCUMENTS * LINES
NOW = 1_764_000_000_000_000  # µs
WAITING = (Status.NONE, Status.FAILED)
# Write units per chunk. A plain port of the ledger in memory took 27.5, and 42.5 on the batch lane.
REALTIME, BATCH = 3.6, 5.6


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def rows() -> list[ChunkRow]:
    """Lines of receipts, with ids and digests as long as they are."""
    batch = digest("batch")
    made = []
    for number in range(DOCUMENTS):
        receipt = f"IMAGE#{digest(str(number))[:8]}-0000-4000-8000-{number:012}#RECEIPT#00001"
        made += [
            ChunkRow(
                collection="lines",
                id=f"{receipt}#LINE#{line:05}",
                source="receipts",
                document=receipt,
                ordinal=line,
                tokens=12,
                text_hash=digest(f"text {number} {line}"),
                row_hash=digest(f"row {number} {line}"),
                version=NOW,
                batch=batch,
            )
            for line in range(LINES)
        ]
    return made


@pytest.fixture
async def metered(aws: Emulator, monkeypatch: pytest.MonkeyPatch) -> tuple[DynamoLedger, Metered]:
    for name, value in aws.variables(account="300000000003").items():
        monkeypatch.setenv(name, value)
    url = address(aws, f"costs{secrets.token_hex(4)}")
    send = Metered(url)
    ledger = await open_dynamodb(url, new_id=secrets.token_hex(16), send=send)
    send.units.clear()
    send.requests.clear()
    return ledger, send


async def swapped(ledger: DynamoLedger) -> list[ChunkRow]:
    made = rows()
    names = dict.fromkeys(row.document for row in made)
    await ledger.documents.swap(
        Swap(
            cursor=Cursor(source="receipts"),
            value="cursor",
            documents=[
                document(
                    name,
                    source="receipts",
                    chunks=LINES,
                    generation=NOW,
                    hash=digest(name),
                    etag=digest(name),
                )
                for name in names
            ],
            chunks=made,
        )
    )
    return made


async def test_life_of_a_chunk_on_the_realtime_lane_costs_what_was_promised(
    metered: tuple[DynamoLedger, Metered],
) -> None:
    """Fetched, claimed, put into a run and committed: three writes of one unit, and little beside them."""
    ledger, send = metered
    made = await swapped(ledger)
    won = await ledger.chunks.claim(
        [made[0].batch], WAITING, worker="w", now=NOW, until=NOW + 60_000_000, sources=(), limit=CHUNKS
    )
    await ledger.chunks.renew("w", until=NOW + 120_000_000)
    await ledger.runs.record(run(collection="lines"), [(row.id, row.version) for row in won], worker="w")
    await ledger.runs.commit(["r1"], version=2)
    await ledger.chunks.release("w")
    assert await ledger.chunks.counts() == {("lines", Status.SUCCESS): CHUNKS}
    assert send.units.total() / CHUNKS <= REALTIME, send.units


async def test_life_of_a_chunk_on_the_batch_lane_costs_what_was_promised(
    metered: tuple[DynamoLedger, Metered],
) -> None:
    """Two more writes: its text is reserved for its submission, and it is taken back to be written."""
    ledger, send = metered
    made = await swapped(ledger)
    await ledger.chunks.claim(
        [made[0].batch],
        WAITING,
        worker="finder",
        now=NOW,
        until=NOW + 60_000_000,
        sources=(),
        limit=CHUNKS,
        submission="x",
    )
    await ledger.chunks.in_flight([row.text_hash for row in made], besides=["x"])
    await ledger.submissions.create(submission("x"))
    assert await ledger.chunks.hand_over("x", worker="finder") == CHUNKS
    await ledger.chunks.release("finder")
    won = await ledger.chunks.take("x", worker="w", now=NOW, until=NOW + 60_000_000, limit=CHUNKS)
    assert len(won) == CHUNKS
    await ledger.runs.record(run(collection="lines"), [(row.id, row.version) for row in won], worker="w")
    await ledger.runs.commit(["r1"], version=2)
    await ledger.chunks.release("w")
    assert await ledger.chunks.counts() == {("lines", Status.SUCCESS): CHUNKS}
    assert send.units.total() / CHUNKS <= BATCH, send.units


async def test_reads_of_a_listing_do_not_grow_with_its_chunks(metered: tuple[DynamoLedger, Metered]) -> None:
    """Counting chunks and listing batches with waiting ones reads markers, not chunks."""
    ledger, send = metered
    made = await swapped(ledger)
    send.requests.clear()
    listed = [page async for page in ledger.chunks.batches(WAITING, now=NOW, sources=())]
    overview = await ledger.overview()
    assert listed == [[made[0].batch]]
    assert overview.unfinished == {("lines", Status.NONE): CHUNKS}
    assert send.requests.total() <= 30, send.requests
