"""Operations on a few chunks of a large ledger use its indexes, and never scan all chunks."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from flowbed.ledger import open_ledger
from flowbed.ledger.sql.database import WRITING
from flowbed.records import Status
from flowbed.testing.ledger import chunk, claim, flat, put, submission, waiting
from flowbed.testing.ledger.rows import take

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from flowbed.ledger import Ledger

DONE, CARRIED = 20_000, 300


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    return "ledger.db" if request.param == "sqlite" else str(request.getfixturevalue("ledger_url"))


@pytest.fixture
async def ledger(url: str, tmp_path: Path) -> AsyncIterator[Ledger]:
    """Return a ledger with many finished chunks, and some claimed or in a live submission."""
    opened = await open_ledger(url, folder=tmp_path, new_id="i")
    await put(opened, [chunk(f"d{n}", batch=f"b{n % 50}", status=Status.SUCCESS) for n in range(DONE)])
    carried = [chunk(f"c{n}", batch="carried", text_hash=f"{n * 999_983:064x}"[::-1]) for n in range(CARRIED)]
    await put(opened, [*carried, chunk("held", batch="held")])
    await claim(opened, "carried", worker="finder", submission="x", limit=CARRIED)
    await claim(opened, "held")
    await put(opened, [chunk("taken", batch="taken", text_hash="taken")])
    await claim(opened, "taken", worker="other", submission="making")
    await opened.submissions.create(submission())
    await opened.chunks.hand_over("x", worker="finder")
    with engine(opened).execution_options(**{WRITING: True}).begin() as connection:
        connection.execute(sa.text("ANALYZE"))
    yield opened
    await opened.close()


async def test_submission_queries_use_indexes(ledger: Ledger) -> None:
    """Queries and updates about submissions and claims read no finished chunks."""
    with explained(ledger) as plans:
        assert (await ledger.chunks.in_flight(["taken", "held"], besides={"y"})).gathered == {"taken"}
        assert len(await take(ledger, "x", limit=10)) == 10
        assert len(await flat(ledger.chunks.submitted("x"))) == CARRIED
        assert await ledger.chunks.hand_over("x", worker="p") == 10
        assert await waiting(ledger) == []
        assert await claim(ledger, "carried") == []
        assert await ledger.chunks.workers() == {"w", "other"}
        await ledger.overview()
        await ledger.chunks.renew("w", until=99)
        assert await ledger.chunks.release("w") == 1
        assert await ledger.chunks.let_go("x") == CARRIED
    assert len(plans) >= 10
    for statement, plan in plans.items():
        assert not through_all(plan), f"{statement}\n{plan}"


@pytest.mark.parametrize("url", ["ledger.db"])
async def test_sqlite_uses_partial_indexes(ledger: Ledger) -> None:
    """SQLite uses the partial indexes, for which it needs the condition in the same words."""
    with explained(ledger) as plans:
        await ledger.chunks.in_flight(["t"], besides={"y"})
        await take(ledger, "x")
        await ledger.chunks.let_go("x")
    making, gathered, taken, _, let_go = plans.values()
    assert "chunks_submitted (submission>?)" in making
    assert "chunks_submitted (submission=?)" in gathered
    assert "chunks_submitted (submission=?)" in taken
    assert "chunks_submitted (submission=?)" in let_go


def through_all(plan: str) -> bool:
    """Return whether a query plan scans the table of chunks, or an index of all of them."""
    tables = ("chunks", "candidates", "inside", "kept", "first", "further")
    partial = ("chunks_unfinished", "chunks_held", "chunks_submitted")
    return any(
        "Seq Scan on chunks" in line
        or (any(f"SCAN {each}" in line for each in tables) and not any(each in line for each in partial))
        for line in plan.splitlines()
    )


def engine(ledger: Ledger) -> sa.Engine:
    database: Any = ledger.chunks
    found = database._database._engine
    assert isinstance(found, sa.Engine)
    return found


@contextmanager
def explained(ledger: Ledger) -> Iterator[dict[str, str]]:
    """Collect the query plan of every statement about chunks."""
    plans: dict[str, str] = {}

    def explain(connection: sa.Connection, _: object, statement: str, given: Any, *__: object) -> None:
        if "chunks" in statement:
            asked = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
            driver: Any = connection.connection.driver_connection
            rows = driver.execute(f"{asked} {statement}", given).fetchall()
            plans[statement] = "\n".join(str(row[-1]) for row in rows)

    sa.event.listen(engine(ledger), "before_cursor_execute", explain)
    yield plans
    sa.event.remove(engine(ledger), "before_cursor_execute", explain)
