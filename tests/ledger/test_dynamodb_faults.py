"""The ledger in DynamoDB with throttled requests, lost answers, an index that lags, and processes that end anywhere."""

from __future__ import annotations

import hashlib
import random
import secrets
import time
from itertools import count
from typing import TYPE_CHECKING

import pytest
from tests.support.aws.dynamodb import Faulty, Killed, Lagging, address, hurry

from flowbed.errors import Conflict
from flowbed.ledger import Cursor, Swap
from flowbed.ledger.dynamodb import open_dynamodb
from flowbed.ledger.dynamodb.client import connect
from flowbed.ledger.dynamodb.opening import place_of
from flowbed.records import Status
from flowbed.testing.ledger import chunk, claim, document, flat, letter, put, run, submission, waiting
from flowbed.testing.ledger.rows import take

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowbed.ledger import ChunkRow
    from flowbed.ledger.dynamodb.client import Send
    from flowbed.ledger.dynamodb.ledger import DynamoLedger
    from flowbed.testing.aws import Emulator

ACCOUNT = "300000000004"
TABLES = count(1)
CHUNKS = 30
STATUSES = (Status.NONE, Status.FAILED, Status.PENDING)
READS = {"query", "scan", "batch_get_item", "get_item", "describe_table", "describe_time_to_live"}
SHARES = 6


@pytest.fixture(scope="module")
def send(aws: Emulator) -> Iterator[Send]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in aws.variables(account=ACCOUNT).items():
            patch.setenv(name, value)
        yield connect(place_of(address(aws, "any")))


@pytest.fixture
def url(aws: Emulator) -> str:
    return address(aws, f"faults{next(TABLES)}")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeat without waiting: how long is no question here."""
    hurry(monkeypatch)


async def opened(url: str, send: Send) -> DynamoLedger:
    return await open_dynamodb(url, new_id=secrets.token_hex(16), send=send)


def rows(number: int, *, version: int = 100, row_hash: str = "r") -> list[ChunkRow]:
    """Chunks of two batches and of five documents."""
    return [
        chunk(
            f"i{each:03}",
            document=f"d{each % 5}",
            batch=f"b{each % 2}-{version}",
            text_hash=f"t{each}",
            version=version,
            row_hash=row_hash,
        )
        for each in range(number)
    ]


async def fetch(ledger: DynamoLedger) -> None:
    """Fetch twice; the second fetch changes a third of the chunks and deletes a document."""
    while (cursor := await ledger.documents.cursor("s")).token < 2:
        if cursor.token == 0:
            swap = Swap(
                cursor=cursor,
                value="1",
                documents=[document(f"d{number}") for number in range(5)],
                chunks=rows(CHUNKS),
            )
        else:
            changed = [
                row for row in rows(CHUNKS, version=200, row_hash="r2") if row.ordinal or row.id < "i010"
            ]
            gone = [
                row._replace(deleted=True, batch="", version=200)
                for row in rows(CHUNKS)
                if row.document == "d4"
            ]
            kept = [row for row in changed if row.document != "d4"]
            swap = Swap(cursor=cursor, value="2", removed=["d4"], chunks=[*kept, *gone])
        try:
            await ledger.documents.swap(swap)
        except Conflict:
            continue


async def embed(ledger: DynamoLedger, worker: str) -> None:
    """Release dead workers, then claim, record and commit until nothing is left."""
    for other in await ledger.chunks.workers() - {worker}:
        await ledger.chunks.release(other)
    for row in await ledger.runs.pending("c", limit=10):
        await ledger.runs.commit([row.id], version=5)
    async for page in ledger.chunks.batches(STATUSES, now=1_000, sources=()):
        for batch in page:
            won = await ledger.chunks.claim(
                [batch], STATUSES, worker=worker, now=1_000, until=2_000, sources=(), limit=1_000
            )
            if won:
                named = [(row.id, row.version) for row in won]
                id_ = hashlib.sha256(repr(named).encode()).hexdigest()
                await ledger.runs.record(run(id_), named, worker=worker)
                await ledger.runs.commit([id_], version=5)
    await ledger.chunks.release(worker)


async def assert_whole(ledger: DynamoLedger) -> None:
    """Every chunk is finished at its newest version, and counted once."""
    found = {row.id: row for row in await ledger.chunks.of("s", [f"d{number}" for number in range(5)])}
    assert sorted(found) == [row.id for row in rows(CHUNKS)]
    assert {row.status for row in found.values()} == {Status.SUCCESS}
    for id_, row in found.items():
        deleted = int(id_[1:]) % 5 == 4
        assert row.deleted == deleted, row
        assert row.version == (200 if deleted or id_ < "i010" else 100), row
    assert await ledger.chunks.counts() == {("c", Status.SUCCESS): CHUNKS * 4 // 5}
    assert await flat(ledger.chunks.batches(STATUSES, now=1_000, sources=())) == []
    assert await ledger.chunks.workers() == set()
    assert await ledger.runs.collections() == []
    assert await ledger.documents.count("s") == 4
    assert {each.id: each.version for each in await flat(ledger.chunks.marks("c"))} == {
        id_: row.version for id_, row in found.items()
    }


async def test_throttled_and_lost_requests_change_nothing(url: str, send: Send) -> None:
    """A third of all requests are throttled, lost or broken, and half of each batch waits: all is done once."""
    await opened(url, send)
    chance = random.Random(7)
    faults = {"throttled": 0.1, "lost": 0.12, "broken": 0.08}

    def wrong(_: int, operation: str) -> str:
        return chance.choices([*faults, ""], [*faults.values(), 0.7])[0]

    faulty = Faulty(send, wrong, partly=True)
    ledger = await opened(url, faulty)
    await fetch(ledger)
    for _ in range(2):  # what was listed too late is taken by the next run
        await embed(ledger, "w")
    await ledger.dead_letters.add([letter()])
    assert faulty.number > 100
    sure = await opened(url, send)
    await assert_whole(sure)
    assert [row.attempts for row in await flat(sure.dead_letters.pages())] == [1]


async def live(url: str, send: Send, worker: str) -> DynamoLedger:
    """Do what a process does from its start to its end."""
    ledger = await opened(url, send)
    await fetch(ledger)
    await embed(ledger, worker)
    return ledger


async def writes_of_a_life(url: str, send: Send) -> list[int]:
    """Return the numbers of the requests that change something: a process killed at another leaves what they left."""
    writes: list[int] = []

    def note(number: int, operation: str) -> str:
        if operation not in READS:
            writes.append(number)
        return ""

    await live(url, Faulty(send, note), "w1")
    return sorted(writes)


async def survives(aws: Emulator, send: Send, after: int) -> None:
    """End a process after a number of requests; the next one finishes its work."""
    url = address(aws, f"killed{next(TABLES)}")
    killed = Faulty(send, lambda number, _: "killed" if number == after else "")
    with pytest.raises(Killed):
        await live(url, killed, "w1")
    await assert_whole(await live(url, send, "w2"))


async def test_process_killed_at_some_requests_loses_nothing(aws: Emulator, url: str, send: Send) -> None:
    """Whatever was written by then, the next process ends with the same ledger and the same counts."""
    for after in (await writes_of_a_life(url, send))[7::24]:
        await survives(aws, send, after)


@pytest.mark.long
@pytest.mark.parametrize("share", range(SHARES))
async def test_process_killed_at_any_request_loses_nothing(
    aws: Emulator, url: str, send: Send, share: int
) -> None:
    """The same at each request that changes something, in parts that run side by side."""
    writes = await writes_of_a_life(url, send)
    assert len(writes) > 60
    for after in writes[share::SHARES]:
        await survives(aws, send, after)


async def test_submission_with_lost_answers_carries_each_chunk_once(url: str, send: Send) -> None:
    """Every other write is lost after it was carried out: each step has its result, and is counted once."""
    await opened(url, send)
    turns = count()

    def wrong(_: int, operation: str) -> str:
        written = operation in {"batch_execute_statement", "transact_write_items", "update_item"}
        return "lost" if written and next(turns) % 2 == 0 else ""

    ledger = await opened(url, Faulty(send, wrong))
    await put(ledger, [chunk(each, ordinal=place, text_hash=each) for place, each in enumerate("abc")])
    won = await claim(ledger, submission="x")
    assert len(won) == 3
    await ledger.submissions.create(submission())
    await ledger.chunks.bind(won[2:], worker="w", submission="y")
    assert (await ledger.chunks.in_flight(["a", "b", "c"], besides=["x"])).gathered == {"c"}
    assert await ledger.chunks.hand_over("x", worker="w") == 2
    assert [row.id for row in await take(ledger, "x")] == ["a", "b"]
    assert await ledger.chunks.let_go("x") == 2
    assert await ledger.chunks.release("w") == 1
    assert await ledger.chunks.counts() == {("c", Status.NONE): 3}
    assert await waiting(ledger) == ["b"]


async def test_index_that_lags_misleads_nobody(url: str, send: Send) -> None:
    """A chunk still listed as free is claimed once, a finished run is not returned, and what is found is current."""
    lagging = Lagging(send, url)
    one, two = await opened(url, lagging), await opened(url, lagging)
    await put(one, [chunk(), chunk("gone", batch="", deleted=True)])
    assert await flat(two.chunks.batches([Status.NONE], now=1, sources=())) == []
    lagging.settle()
    assert await flat(two.chunks.batches([Status.NONE], now=1, sources=())) == ["b", ""]
    assert (
        len(await one.chunks.claim(["b", ""], STATUSES, worker="w", now=1, until=9, sources=(), limit=5)) == 2
    )
    assert await two.chunks.claim(["b", ""], STATUSES, worker="v", now=1, until=9, sources=(), limit=5) == []
    await one.runs.record(run(), [("s#d#00000", 100), ("gone", 100)], worker="w")
    lagging.settle()
    assert [row.id for row in await two.runs.pending("c", limit=5)] == ["r1"]
    await one.runs.commit(["r1"], version=7)
    assert await two.runs.pending("c", limit=5) == []
    assert await two.chunks.counts() == {("c", Status.SUCCESS): 1}
    assert await flat(two.chunks.batches(STATUSES, now=100, sources=())) == []


async def test_late_applier_of_an_old_swap_changes_nothing(url: str, send: Send) -> None:
    """A process that stopped in the middle of applying a swap goes on when later swaps were applied."""
    one, two = await opened(url, send), await opened(url, send)
    await put(one, [chunk("a"), chunk("b")])
    cursor = await one.documents.cursor("s")
    stopped = Faulty(send, lambda *_: "")
    late = await opened(url, stopped)
    moved = Swap(cursor=cursor, value="2", chunks=[chunk("a", version=200, row_hash="r2")])
    log = next(late.documents._logs)
    pieces = await late.documents._write_log(log, moved)
    await late.documents._advance(moved, log, pieces)
    pending = await late.table.get(("SWAPS", "s"))
    assert pending is not None
    await put(two, [chunk("a", version=300, row_hash="r3")])
    await late.documents._swapping.apply(pending)
    assert [(row.version, row.row_hash) for row in await two.chunks.find("a")] == [(300, "r3")]
    assert await two.chunks.counts() == {("c", Status.NONE): 2}


async def test_two_fetchers_of_one_source_only_one_wins(url: str, send: Send) -> None:
    """The loser's rows are nowhere, and its log is gone."""
    one, two = await opened(url, send), await opened(url, send)
    start = Cursor(source="s")
    await one.documents.swap(Swap(cursor=start, value="1", chunks=[chunk("a")]))
    with pytest.raises(Conflict):
        await two.documents.swap(Swap(cursor=start, value="x", chunks=[chunk("b")]))
    assert await two.chunks.find("b") == []
    assert [row.id for row in await two.chunks.of("s", ["d"])] == ["a"]


async def test_worker_that_never_returns_loses_its_claims_at_their_end(url: str, send: Send) -> None:
    """A function that is frozen or ended by its time limit holds nothing for longer than its claims last."""
    frozen, other = await opened(url, send), await opened(url, send)
    await put(other, [chunk("a"), chunk("b")])
    assert len(await claim(frozen, worker="frozen", until=60)) == 2
    await frozen.chunks.renew("frozen", until=90)
    assert await claim(other, worker="v", now=80) == []
    assert [row.id for row in await claim(other, worker="v", now=91)] == ["a", "b"]
    # Its thaw comes too late: it can neither record nor fail what is another's by now.
    await frozen.runs.record(run(), [("a", 100), ("b", 100)], worker="frozen")
    assert {row.run for row in await other.chunks.of("s", ["d"])} == {""}
    assert await other.chunks.workers() == {"v"}


async def test_what_can_be_forgotten_expires_by_the_clock_of_dynamodb(url: str, send: Send) -> None:
    """Logs, records of swaps, reserved texts and names of claims expire; rows of chunks and documents do not."""
    ledger = await opened(url, send)
    await put(ledger, [chunk("a"), chunk("b", batch="", deleted=True)])
    await claim(ledger, submission="x")
    expiring: dict[str, float] = {}
    for raw in send("scan", {"TableName": place_of(url).table})["Items"]:
        if "ttl" in raw:
            expiring[raw["PK"]["S"].partition("#")[0]] = (int(raw["ttl"]["N"]) - time.time()) / 86_400
    assert {kind: round(days) for kind, days in expiring.items()} == {"LOG": 30, "SWAP": 30, "T": 2, "H": 7}
