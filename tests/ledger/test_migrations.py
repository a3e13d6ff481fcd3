"""A ledger that an older Flowbed made is brought up to date, and keeps what it holds."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from flowbed.ledger import ChunkRow, open_ledger
from flowbed.ledger.sql import migrations
from flowbed.ledger.sql.database import WRITING
from flowbed.ledger.sql.postgres import Postgres
from flowbed.ledger.sql.schema import HEAD
from flowbed.ledger.sql.sqlite import Sqlite
from flowbed.records import Status
from flowbed.testing.ledger import chunk, claim, document, flat, only, put, run, spend, submission, waiting
from flowbed.testing.ledger.rows import take

if TYPE_CHECKING:
    from flowbed.testing.postgres import PostgresServer

FAILED = {"status": Status.FAILED, "failure": "transient", "error": "why", "attempts": 2}
ROWS = [
    chunk("done", status=Status.SUCCESS, run="r1"),
    chunk("gone", status=Status.SUCCESS, run="r1", deleted=True, batch=""),
    chunk("claimed", status=Status.PENDING, worker="w", until=50),
    chunk("made", status=Status.PENDING, run="r2"),
    chunk("failed", **FAILED),
    chunk("waits"),
]
RUNS = [run("r1", state="committed", version=7), run("r2")]


@pytest.fixture(params=["sqlite", "postgres"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Give an empty place for a ledger."""
    if kind == "sqlite":
        return str(tmp_path / "ledger.db")
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.database()


def make(url: str, revision: str) -> None:
    """Make a ledger as the Flowbed of that revision did, with documents, chunks and runs in it."""
    engine = opened(url)
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", migrations.__path__[0])
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        there = sa.MetaData()
        with warnings.catch_warnings():
            # Of an index on an expression, which one revision has, nothing needs to be known here.
            warnings.simplefilter("ignore", sa.exc.SAWarning)
            there.reflect(connection, only=["facts", "cursors", "documents", "chunks", "runs"])

        def insert(table: str, *rows: object) -> None:
            columns = there.tables[table].c.keys()
            for row in rows:
                held = {name: value for name, value in fields_of(row).items() if name in columns}
                connection.execute(sa.insert(there.tables[table]).values(held))

        connection.execute(sa.insert(there.tables["facts"]).values(name="id", value="old"))
        connection.execute(sa.insert(there.tables["cursors"]).values(source="s", value="v", token=3))
        insert("documents", document())
        insert("chunks", *ROWS)
        insert("runs", *RUNS)
    engine.dispose()


def fields_of(row: object) -> dict[str, object]:
    return row._asdict() if isinstance(row, ChunkRow) else vars(row)


def opened(url: str) -> sa.Engine:
    engine = (Postgres(url) if "://" in url else Sqlite(url)).open_engine()
    return engine.execution_options(**{WRITING: True})


@pytest.mark.parametrize("revision", ["0001", "0002", "0003", "0004"])
async def test_an_older_ledger_keeps_its_rows_and_works(url: str, revision: str) -> None:
    """A ledger of each older revision opens with its id and its rows, and does what a new one does."""
    make(url, revision)
    ledger = await open_ledger(url, folder=Path(), new_id="another")
    try:
        assert ledger.id == "old"
        assert (await ledger.documents.cursor("s")).token == 3
        assert await flat(ledger.documents.pages("s")) == [document()]
        assert by_id(await ledger.chunks.of("s", ["d"])) == by_id(ROWS)
        assert sorted(await ledger.runs.recent(limit=9), key=lambda row: row.id) == RUNS
        assert await ledger.chunks.gathered(["t"], besides={""}) == set()
        assert await waiting(ledger, now=51) == ["b"]
        won = await claim(ledger, worker="v", now=51, submission="x")
        assert {row.id for row in won} == {"claimed", "failed", "waits"}
        await ledger.submissions.create(submission())
        assert await ledger.chunks.hand_over("x", worker="v") == 3
        assert {row.id for row in await take(ledger, "x")} == {row.id for row in won}
        await ledger.runs.commit(["r2"], version=8)
        assert (await only(ledger, "made")).status is Status.SUCCESS
        await ledger.runs.record(run("r3", planned=9), [("waits", 100)], worker="p")
        assert await ledger.runs.get("r3") == run("r3", planned=9)
        await ledger.spending.record([spend()])
        await put(ledger, [chunk("new")])
        assert await ledger.spending.totals("run", limit=9) != []
    finally:
        await ledger.close()


async def test_an_older_ledger_ends_as_a_new_one_begins(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The tables and indexes of a ledger that was migrated are those of a new one."""
    urls = [str(tmp_path / name) for name in ("old.db", "new.db")]
    if kind == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        urls = [server.database(), server.database()]
    make(urls[0], "0004")
    for url in urls:
        await (await open_ledger(url, folder=Path(), new_id="i")).close()
    old, new = map(described, urls)
    assert old == new
    assert any("chunks_submitted" in line for line in new)


def described(url: str) -> list[str]:
    """Describe the tables and indexes of a database, and the revision that it is of, in its own words."""
    query = (
        "SELECT table_name || ' ' || column_name || ' ' || data_type || ' ' || is_nullable || ' '"
        " || coalesce(column_default, '') || ' ' || coalesce(collation_name, '') || ordinal_position"
        " FROM information_schema.columns WHERE table_schema = 'public'"
        " UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'"
        if "://" in url
        else "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL"
    )
    engine = opened(url)
    with engine.connect() as connection:
        revision = connection.execute(sa.text("SELECT version_num FROM ledger_version")).scalar_one()
        lines = sorted(str(line) for line in connection.execute(sa.text(query)).scalars())
    engine.dispose()
    assert revision == HEAD
    return lines


def by_id(rows: list[ChunkRow]) -> dict[str, ChunkRow]:
    return {row.id: row for row in rows}
