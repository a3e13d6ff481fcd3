"""Upgrading the schema of an existing ledger: its contents are kept, or it stays unchanged."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from flowbed.ledger import open_ledger
from flowbed.ledger.sql import HEAD, VERSION_TABLE, migrations, schema
from flowbed.ledger.sql.database import WRITING
from flowbed.ledger.sql.postgres import Postgres
from flowbed.ledger.sql.sqlite import Sqlite
from flowbed.records import Status
from flowbed.testing.ledger import chunk, claim, document, flat, only, put, run, submission, waiting
from flowbed.testing.ledger.rows import take

if TYPE_CHECKING:
    from tests.support.servers.postgres import PostgresServer

ROWS = [
    chunk("done", status=Status.SUCCESS, run="r1"),
    chunk("gone", status=Status.SUCCESS, run="r1", deleted=True, batch=""),
    chunk("claimed", status=Status.PENDING, worker="w", until=50),
    chunk("made", status=Status.PENDING, run="r2"),
    chunk("failed", status=Status.FAILED, failure="transient", error="why", attempts=2),
    chunk("waits"),
]
RUNS = [run("r1", state="committed", version=7), run("r2")]
LATER = f"{int(HEAD) + 1:04}"  # the revision of a later Flowbed
UPGRADE = f"""
import sqlalchemy as sa
from alembic import op

revision = "{LATER}"
down_revision = "{HEAD}"

def upgrade():
    op.add_column("runs", sa.Column("note", sa.String, nullable=False, server_default=""))
    op.create_index("runs_by_note", "runs", ["note"])
"""


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the address of an empty database."""
    if request.param == "sqlite":
        return str(tmp_path / "ledger.db")
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.database()


def engine_of(url: str) -> sa.Engine:
    engine = (Postgres(url) if "://" in url else Sqlite(url)).open_engine()
    return engine.execution_options(**{WRITING: True})


async def create(url: str) -> None:
    """Create a ledger that holds documents, chunks and runs."""
    await (await open_ledger(url, folder=Path(), new_id="first")).close()
    engine = engine_of(url)
    with engine.begin() as connection:
        connection.execute(sa.insert(schema.cursors).values(source="s", value="v", token=3))
        connection.execute(sa.insert(schema.documents), [vars(document())])
        connection.execute(sa.insert(schema.chunks), [row._asdict() for row in ROWS])
        connection.execute(sa.insert(schema.runs), [vars(row) for row in RUNS])
    engine.dispose()


def release(monkeypatch: pytest.MonkeyPatch, folder: Path, upgrade: str) -> None:
    """Make the migrations those of a later Flowbed, which has revision LATER too."""
    scripts = shutil.copytree(migrations.SCRIPTS, folder / "migrations")
    (scripts / "versions" / f"r{LATER}.py").write_text(upgrade)
    monkeypatch.setattr(migrations, "SCRIPTS", scripts)
    monkeypatch.setattr(migrations, "HEAD", LATER)


def catalog(url: str) -> tuple[str, list[str]]:
    """Return the revision of a database, and its tables and indexes in its own words."""
    query = (
        "SELECT table_name || ' ' || column_name || ' ' || data_type || ' ' || is_nullable || ' '"
        " || coalesce(column_default, '') || ' ' || coalesce(collation_name, '') || ordinal_position"
        " FROM information_schema.columns WHERE table_schema = 'public'"
        " UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'"
        if "://" in url
        else "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL"
    )
    engine = engine_of(url)
    with engine.connect() as connection:
        version = sa.table(VERSION_TABLE, sa.column("version_num", sa.String))
        revision = connection.execute(sa.select(version)).scalar_one()
        lines = sorted(str(line) for line in connection.execute(sa.text(query)).scalars())
    engine.dispose()
    return revision, lines


async def test_upgrade_to_a_newer_revision_keeps_contents(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ledger of an older revision is upgraded on opening, keeps its id and rows, and works like a new one."""
    await create(url)
    release(monkeypatch, tmp_path, UPGRADE)
    ledger = await open_ledger(url, folder=Path(), new_id="another")
    try:
        assert ledger.id == "first"
        assert (await ledger.documents.cursor("s")).token == 3
        assert await flat(ledger.documents.pages("s")) == [document()]
        assert sorted(await ledger.chunks.of("s", ["d"])) == sorted(ROWS)
        assert sorted(await ledger.runs.recent(limit=9), key=lambda row: row.id) == RUNS
        assert await waiting(ledger, now=51) == ["b"]
        won = await claim(ledger, worker="v", now=51, submission="x")
        assert {row.id for row in won} == {"claimed", "failed", "waits"}
        await ledger.submissions.create(submission())
        assert await ledger.chunks.hand_over("x", worker="v") == 3
        assert {row.id for row in await take(ledger, "x")} == {row.id for row in won}
        await ledger.runs.commit(["r2"], version=8)
        assert (await only(ledger, "made")).status is Status.SUCCESS
        await put(ledger, [chunk("new")])
    finally:
        await ledger.close()
    revision, lines = catalog(url)
    assert revision == LATER
    assert any("runs_by_note" in line for line in lines)


async def test_upgrade_that_fails_leaves_the_ledger_unchanged(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgrade that breaks off halfway is rolled back whole."""
    await create(url)
    before = catalog(url)
    assert before[0] == HEAD
    with monkeypatch.context() as later:
        release(later, tmp_path, f"{UPGRADE}    raise RuntimeError('broke off')\n")
        with pytest.raises(RuntimeError, match="broke off"):
            await open_ledger(url, folder=Path(), new_id="another")
    assert catalog(url) == before
    ledger = await open_ledger(url, folder=Path(), new_id="another")
    assert sorted(await ledger.chunks.of("s", ["d"])) == sorted(ROWS)
    await ledger.close()
