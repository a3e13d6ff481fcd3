"""The ledger in memory with lagging indexes, lost answers and concurrent workers."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from flowbed import ledger
from flowbed.errors import Conflict
from flowbed.ledger import Cursor, Swap
from flowbed.ledger.items.table import ABSENT, Check, ConditionFailed, Put, all_of
from flowbed.ledger.memory import MemoryLedger, memory_table
from flowbed.ledger.memory.table import LimitExceeded
from flowbed.records import Status
from flowbed.testing.ledger import (
    chunk,
    claim,
    document,
    file,
    flat,
    job,
    letter,
    only,
    put,
    run,
    spend,
    submission,
    waiting,
)
from flowbed.testing.ledger.rows import take

ITEM = {"record": "thing"}


@pytest.mark.parametrize(
    "operations",
    [
        pytest.param([Put(("p", f"{n}"), ITEM, expected=None) for n in range(101)], id="items"),
        pytest.param([Put(("p", "s"), ITEM, expected=None), Check(("p", "s"), expected=ABSENT)], id="twice"),
        pytest.param([Put(("p", "s"), {**ITEM, "text": "x" * 420_000}, expected=None)], id="an item's bytes"),
        pytest.param(
            [Put(("p", f"{n}"), {**ITEM, "text": "x" * 350_000}, expected=None) for n in range(13)],
            id="bytes",
        ),
        pytest.param([Put(("p", ""), ITEM, expected=None)], id="an empty key"),
        pytest.param([Put(("p", "é" * 600), ITEM, expected=None)], id="a long key"),
    ],
)
async def test_transact_over_a_limit_is_refused(operations: list[Put]) -> None:
    """A transaction that exceeds DynamoDB's limits raises LimitExceeded and writes nothing."""
    table = memory_table()
    with pytest.raises(LimitExceeded):
        await table.transact(operations)
    assert await all_of(table.query, "p") == []
    with pytest.raises(LimitExceeded):
        await table.get_many([("p", f"{n}") for n in range(101)])


async def test_query_pages_at_a_megabyte() -> None:
    """A query stops at a megabyte, and can be continued."""
    table = memory_table()
    for number in range(10):
        await table.write(Put(("p", f"{number}"), {**ITEM, "text": "x" * 300_000}, expected=None))
    page = await table.query("p")
    assert (len(page.items), page.after) == (4, "3")
    assert [item["place"] for item in await all_of(table.query, "p")] == [("p", f"{n}") for n in range(10)]


async def test_transact_failed_condition_writes_nothing() -> None:
    """If one condition fails, nothing is written."""
    table = memory_table()
    await table.write(Put(("p", "there"), ITEM, expected=ABSENT))
    with pytest.raises(ConditionFailed):
        await table.transact(
            [Put(("p", "new"), ITEM, expected=ABSENT), Put(("p", "there"), ITEM, expected=ABSENT)]
        )
    assert [item["place"] for item in await all_of(table.query, "p")] == [("p", "there")]


async def test_stale_index_misleads_nobody() -> None:
    """A chunk still listed as free is claimed once, and a run still listed as pending is not returned."""
    table = memory_table(lag=10**6)
    one, two = MemoryLedger(table, id="i"), MemoryLedger(table, id="i")
    await put(one, [chunk()])
    assert await waiting(one) == ["b"]
    asked = {"statuses": [Status.NONE], "now": 1, "until": 9, "sources": (), "limit": 5}
    assert len(await one.chunks.claim(["b"], worker="w", **asked)) == 1  # type: ignore[arg-type]
    assert await flat(two.chunks.batches([Status.NONE], now=1, sources=())) == ["b"]
    assert await two.chunks.claim(["b"], worker="v", **asked) == []  # type: ignore[arg-type]
    await one.runs.record(run(), [("s#d#00000", 100)], worker="w")
    await one.settle()
    assert [row.id for row in await two.runs.pending("c", limit=5)] == ["r1"]
    await one.runs.commit(["r1"], version=7)
    assert await two.runs.pending("c", limit=5) == []


async def test_lost_answers_change_nothing() -> None:
    """With lost answers, every operation has the same result as without, counted once."""
    table = memory_table()
    ledger = MemoryLedger(table, id="i")
    table.unanswered = 3
    moved = await ledger.documents.swap(
        Swap(
            cursor=Cursor(source="s"),
            value="v",
            documents=[document()],
            chunks=[chunk("a"), chunk("b"), chunk("c")],
        )
    )
    assert moved == await ledger.documents.cursor("s") == Cursor(source="s", value="v", token=1)
    with pytest.raises(Conflict):
        await ledger.documents.swap(Swap(cursor=Cursor(source="s"), value="again"))
    table.unanswered = 3
    assert len(await claim(ledger)) == 3
    table.unanswered = 3
    await ledger.runs.record(run(), [("a", 100), ("b", 100)], worker="w")
    table.unanswered = 3
    await ledger.runs.commit(["r1"], version=7)
    table.unanswered = 3
    await ledger.dead_letters.add([letter(), letter()])
    assert [row.attempts for row in await flat(ledger.dead_letters.pages())] == [2]
    assert {row.id: row.status for row in await ledger.chunks.find("d")} == {
        "a": Status.SUCCESS,
        "b": Status.SUCCESS,
        "c": Status.PENDING,
    }
    assert await ledger.runs.get("r1") == run(state="committed", version=7)


async def test_gathered_with_lag_sees_concurrent_submission() -> None:
    """However far indexes lag, two submissions that claimed the same text see each other."""
    table = memory_table(lag=10**6)
    one, two = MemoryLedger(table, id="i"), MemoryLedger(table, id="i")
    await put(one, [chunk("a", batch="b1"), chunk("b", batch="b2")])
    await one.settle()
    asked = {"statuses": [Status.NONE], "now": 1, "until": 9, "sources": (), "limit": 5}
    await asyncio.gather(
        one.chunks.claim(["b1"], worker="w", submission="x", **asked),  # type: ignore[arg-type]
        two.chunks.claim(["b2"], worker="v", submission="y", **asked),  # type: ignore[arg-type]
    )
    assert (await one.chunks.in_flight(["t"], besides={"x"})).gathered == {"t"}
    assert (await two.chunks.in_flight(["t"], besides={"y"})).gathered == {"t"}
    await one.submissions.create(submission())
    assert await one.chunks.hand_over("x", worker="w") == 1
    assert [row.id async for page in two.submissions.pages(live=True) for row in page] == ["x"]
    assert (await two.chunks.in_flight(["t"], besides={"y"})).gathered == set()
    assert [row.id for row in await take(two, "x")] == ["a"]


async def test_lost_answers_change_nothing_of_submissions() -> None:
    """A submission whose answers are lost has the same result as without, each step counted once."""
    table = memory_table()
    ledger = MemoryLedger(table, id="i")
    await put(ledger, [chunk("a"), chunk("b", ordinal=1), chunk("c", ordinal=2)])
    table.unanswered = 4
    won = await claim(ledger, submission="x")
    assert len(won) == 3
    table.unanswered = 2
    await ledger.submissions.create(submission())
    await ledger.chunks.bind(won[2:], worker="w", submission="y")
    table.unanswered = 3
    assert await ledger.chunks.hand_over("x", worker="w") == 2
    table.unanswered = 3
    assert [row.id for row in await take(ledger, "x")] == ["a", "b"]
    table.unanswered = 2
    held = await ledger.submissions.hold("x", worker="p", now=1, until=9)
    assert held is not None
    table.unanswered = 1
    assert await ledger.submissions.cancel("x")
    table.unanswered = 1
    assert await ledger.submissions.save(replace(held, ended=5), worker="p")
    table.unanswered = 2
    await ledger.spending.record([spend(), spend()])
    assert [each.texts for each in await ledger.spending.totals("run", limit=5)] == [spend().texts]
    table.unanswered = 3
    assert await ledger.chunks.let_go("x") == 2


async def test_lost_answers_change_nothing_of_files_and_jobs() -> None:
    """Files and jobs whose answers are lost exist once, and are removed once."""
    table = memory_table()
    ledger = MemoryLedger(table, id="i")
    for _ in range(2):
        table.unanswered = 2
        await ledger.files.create(file())
        await ledger.jobs.create(job())
    assert await ledger.files.list("o", purpose=None, after=None, limit=9, descending=False) == [file()]
    assert await ledger.jobs.list("o", after=None, limit=9) == [job()]
    table.unanswered = 1
    assert await ledger.files.remove("file-1")
    assert not await ledger.files.remove("file-1")
    table.unanswered = 1
    held = await ledger.jobs.hold("batch_1", worker="w", now=1, until=9)
    assert held == job(worker="w", until=9)
    table.unanswered = 1
    assert await ledger.jobs.save(replace(held, line=5), worker="w")


async def test_swap_cut_off_is_whole_or_absent() -> None:
    """However far a swap got before its process died, the next one finds all of it or nothing."""
    outcomes = [await cut_off(after) for after in range(1, 40)]
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {False, True}


async def cut_off(after: int) -> bool:
    """Cut off a swap after some steps; return whether it was applied."""
    table = memory_table()
    ledger = MemoryLedger(table, id="i")
    before = [chunk(f"{number:03d}") for number in range(120)]
    moved = await ledger.documents.swap(Swap(cursor=Cursor(source="s"), value="1", chunks=before))
    changed = [row._replace(row_hash="r2", version=200) for row in before]
    swapping = asyncio.create_task(
        ledger.documents.swap(Swap(cursor=moved, value="2", documents=[document()], chunks=changed))
    )
    for _ in range(after):
        await asyncio.sleep(0)
    swapping.cancel()
    await asyncio.gather(swapping, return_exceptions=True)
    other = MemoryLedger(table, id="i")
    landed = (await other.documents.cursor("s")).value == "2"
    assert await other.documents.count("s") == landed
    assert {row.row_hash for row in await other.chunks.of("s", ["d"])} == {"r2" if landed else "r"}
    return landed


async def test_concurrent_swaps_and_claims_keep_chunks_consistent() -> None:
    """Fetchers and workers that meet at every step leave chunks done, or waiting at their newest version."""
    table = memory_table(lag=20)

    async def fetch() -> None:
        ledger = MemoryLedger(table, id="i")
        for number in range(8):
            while True:
                cursor = await ledger.documents.cursor("s")
                known = {row.id: row for row in await ledger.chunks.of("s", ["d"])}
                rows = [
                    chunk(
                        f"{n}",
                        version=max(number, known[f"{n}"].version + 1 if f"{n}" in known else 0),
                        row_hash=f"r{number}",
                    )
                    for n in range(5)
                ]
                try:
                    await ledger.documents.swap(Swap(cursor=cursor, value=f"{number}", chunks=rows))
                    break
                except Conflict:
                    continue

    async def work(name: str) -> None:
        ledger = MemoryLedger(table, id="i")
        for turn in range(25):
            won = await claim(ledger, worker=name, limit=3)
            await ledger.runs.record(
                run(f"{name}{turn}"), [(row.id, row.version) for row in won], worker=name
            )
            await ledger.runs.commit([f"{name}{turn}"], version=turn)

    await asyncio.gather(fetch(), fetch(), work("w"), work("v"))
    ledger = MemoryLedger(table, id="i")
    await work("last")
    rows = await ledger.chunks.of("s", ["d"])
    assert len(rows) == 5
    assert {row.status for row in rows} == {Status.SUCCESS}
    for row in rows:
        assert (await ledger.runs.get(row.run) or run()).state == "committed"
    assert (await only(ledger, "0")).row_hash.startswith("r")


def test_every_public_name_of_the_ledger_is_there() -> None:
    """They are resolved on first use."""
    assert [name for name in ledger.__all__ if not hasattr(ledger, name)] == []
