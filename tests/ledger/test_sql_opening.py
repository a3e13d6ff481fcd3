"""Opening, migrating and refusing a ledger in SQLite, and the meaning of its errors."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import sys
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from flowbed.errors import Damaged, Misconfigured, OutOfSpace, Transient
from flowbed.ledger import Cursor, Swap, open_ledger
from flowbed.ledger.sql import HEAD, VERSION_TABLE, migrations
from flowbed.ledger.sql.database import Database
from flowbed.ledger.sql.schema import metadata
from flowbed.ledger.sql.sqlite import MEMORY, Sqlite
from flowbed.records import Status
from flowbed.testing.ledger import chunk, claim, document, put

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OPEN_AGAIN = """
import asyncio, pathlib, sys
from flowbed.ledger import open_ledger
async def main():
    ledger = await open_ledger("ledger.db", folder=pathlib.Path(sys.argv[1]), new_id="another")
    assert ledger.id == "first", ledger.id
    await ledger.close()
asyncio.run(main())
assert "alembic" not in sys.modules
"""


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_open_keeps_the_first_id(tmp_path: Path) -> None:
    """A ledger keeps its first id; its folder is created if it is missing."""
    for new_id in ("first", "second"):
        ledger = await open_ledger("deep/below/ledger.db", folder=tmp_path, new_id=new_id)
        assert ledger.id == "first"
        await ledger.close()
    assert (tmp_path / "deep" / "below" / "ledger.db").is_file()


async def test_open_current_schema_loads_no_alembic(tmp_path: Path) -> None:
    """Opening a current ledger does not load Alembic, which takes half a second."""
    await (await open_ledger("ledger.db", folder=tmp_path, new_id="first")).close()
    again = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", OPEN_AGAIN, tmp_path, stderr=asyncio.subprocess.PIPE
    )
    assert (await again.communicate())[1] == b""
    assert again.returncode == 0


async def test_memory_ledgers_are_separate(tmp_path: Path) -> None:
    """Two ledgers in memory have separate contents, and create no file."""
    one, two = [await open_ledger(":memory:", folder=tmp_path, new_id=id_) for id_ in ("one", "two")]
    await put(one, [chunk()])
    assert (one.id, two.id) == ("one", "two")
    assert await two.chunks.find("d") == []
    await one.close()
    await two.close()
    assert names(tmp_path) == []


def test_head_is_the_newest_revision() -> None:
    """The revision that opening compares with is the newest that alembic finds."""
    scripts = ScriptDirectory(migrations.__path__[0])
    assert scripts.get_heads() == [HEAD]


def test_migrate_from_nothing_ends_in_the_schema_of_a_new_ledger() -> None:
    """The migrations make the tables and indexes, with their conditions, that a new ledger is created with."""
    migrated, created = sa.create_engine("sqlite://"), sa.create_engine("sqlite://")
    with migrated.begin() as left, created.begin() as right:
        migrations.migrate(left, "the ledger", None)
        migrations.upgrade(right, "the ledger", "id")
        options = {"include_name": lambda name, *_: name != VERSION_TABLE}
        assert compare_metadata(MigrationContext.configure(left, opts=options), metadata) == []
        assert indexes(left) == indexes(right)
        assert versions(left) == versions(right) == [HEAD]
    migrated.dispose()
    created.dispose()


def versions(connection: sa.Connection) -> list[str]:
    table = sa.table(VERSION_TABLE, sa.column("version_num"))
    return list(connection.execute(sa.select(table)).scalars())


def indexes(connection: sa.Connection) -> dict[str, str]:
    query = sa.text("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
    return {name: " ".join(sql.split()) for name, sql in connection.execute(query)}


async def test_open_empty_database_creates_the_ledger(tmp_path: Path) -> None:
    """A database without tables is treated as new."""
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as raw:
        raw.execute("PRAGMA journal_mode=WAL")
    ledger = await open_ledger("ledger.db", folder=tmp_path, new_id="i")
    assert ledger.id == "i"
    await ledger.close()


async def test_open_newer_schema_is_refused(tmp_path: Path) -> None:
    """The schema of a newer Flowbed is refused by name, and left unchanged."""
    await (await open_ledger("ledger.db", folder=tmp_path, new_id="i")).close()
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as raw, raw:
        raw.execute("UPDATE ledger_version SET version_num = '9999'")
    with pytest.raises(Misconfigured, match=r"ledger\.db has schema 9999.*upgrade Flowbed"):
        await open_ledger("ledger.db", folder=tmp_path, new_id="i")


async def test_open_foreign_database_is_refused(tmp_path: Path) -> None:
    """A SQLite file that is not a ledger is refused, and gets no tables."""
    with closing(sqlite3.connect(tmp_path / "other.db")) as raw, raw:
        raw.execute("CREATE TABLE songs (title)")
    with pytest.raises(Misconfigured, match=r"other\.db is a database of another program"):
        await open_ledger("other.db", folder=tmp_path, new_id="i")
    with closing(sqlite3.connect(tmp_path / "other.db")) as raw:
        assert raw.execute("SELECT name FROM sqlite_master").fetchall() == [("songs",)]


async def test_open_other_file_is_refused(tmp_path: Path) -> None:
    """A file that is not a database is refused by name, and left unchanged."""
    (tmp_path / "notes.txt").write_text("not a database " * 100)
    with pytest.raises(Misconfigured, match=r"notes\.txt is not a ledger"):
        await open_ledger("notes.txt", folder=tmp_path, new_id="i")
    assert (tmp_path / "notes.txt").read_text() == "not a database " * 100


async def test_open_impossible_path_is_named(tmp_path: Path) -> None:
    """A folder in place of the file, and a file in place of the folder, are refused by name."""
    (tmp_path / "file").touch()
    with pytest.raises(Misconfigured, match="cannot open or write the ledger"):
        await open_ledger(".", folder=tmp_path, new_id="i")
    with pytest.raises(Misconfigured, match=r"cannot make the folder .*file"):
        await open_ledger("file/ledger.db", folder=tmp_path, new_id="i")


async def test_open_unknown_scheme_is_refused(tmp_path: Path) -> None:
    """An unknown kind of database is refused before anything is created."""
    with pytest.raises(Misconfigured, match="mysql"):
        await open_ledger("mysql://host/db", folder=tmp_path, new_id="i")
    assert names(tmp_path) == []


@pytest.mark.parametrize("url", ["dynamodb:table", "postgresql:me:secret@host/db", "sqlite:/ledger.db"])
async def test_open_address_without_slashes_is_no_file(url: str, tmp_path: Path) -> None:
    """The message does not repeat a password."""
    with pytest.raises(Misconfigured, match="lacks the slashes") as caught:
        await open_ledger(url, folder=tmp_path, new_id="i")
    assert "secret" not in str(caught.value)
    assert names(tmp_path) == []


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Limit the size of this process's files to `size`, like a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_full_disk_loses_nothing(tmp_path: Path) -> None:
    """A write without room raises OutOfSpace and leaves no trace; with room again it succeeds."""
    ledger = await open_ledger("ledger.db", folder=tmp_path, new_id="i")
    moved = await ledger.documents.swap(Swap(cursor=Cursor(source="s"), value="v1", documents=[document()]))
    rows = [chunk(f"i{number}", error="x" * 200) for number in range(5_000)]
    big = Swap(cursor=moved, value="v2", documents=[document("e")], chunks=rows)
    with files_up_to(400_000), pytest.raises(OutOfSpace, match="nothing is lost"):
        await ledger.documents.swap(big)
    assert await ledger.documents.cursor("s") == moved
    assert await ledger.documents.count("s") == 1
    await ledger.documents.swap(big)
    assert await ledger.chunks.counts() == {("c", Status.NONE): 5_000}
    await ledger.close()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_FULL, OutOfSpace),
        (sqlite3.SQLITE_IOERR_WRITE, OutOfSpace),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, Transient),
        (sqlite3.SQLITE_READONLY_DIRECTORY, Misconfigured),
        (sqlite3.SQLITE_CORRUPT, Damaged),
    ],
)
def test_driver_errors_become_flowbed_errors(code: int, kind: type[Exception]) -> None:
    """A driver's error that is not a bug of ours becomes an error that names the ledger."""
    error = sqlite3.OperationalError("as the driver puts it")
    error.sqlite_errorcode = code
    meaning = Sqlite("here.db").translate(error)
    assert type(meaning) is kind
    assert "here.db" in str(meaning)
    assert "as the driver puts it" in str(meaning)


async def test_invalid_statement_is_not_hidden(tmp_path: Path) -> None:
    """An error that only a bug of ours can cause is raised unchanged."""
    database = Database(Sqlite(MEMORY))
    with pytest.raises(sa.exc.OperationalError, match="no such table"):
        await database.read(lambda connection: connection.execute(sa.text("SELECT * FROM songs")))
    await database.close()


async def test_writer_waits_for_another_process(tmp_path: Path) -> None:
    """A write waits for another process's transaction; reads do not."""
    ledger = await open_ledger("ledger.db", folder=tmp_path, new_id="i")
    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        waits = asyncio.create_task(put(ledger, [chunk()]))
        assert await ledger.documents.count("s") == 0
        await asyncio.sleep(0.2)
        assert not waits.done()
        other.execute("COMMIT")
        await waits
    await ledger.close()


async def test_cancelled_callers_leave_whole_transactions(tmp_path: Path) -> None:
    """Callers cancelled at any moment leave whole transactions and no lost connection."""
    ledger = await open_ledger("ledger.db", folder=tmp_path, new_id="i")
    for turn in range(30):
        cursor = await ledger.documents.cursor("s")
        rows = [chunk(f"{turn}/{number}", document=f"{turn}") for number in range(300)]
        swap = Swap(cursor=cursor, value="", documents=[document(f"{turn}")], chunks=rows)
        task = asyncio.create_task(ledger.documents.swap(swap))
        await asyncio.sleep(0.001 * (turn % 10))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await ledger.chunks.renew("nobody", until=1)  # waits for every write that was left to its thread
    done = await ledger.documents.count("s")
    assert (await ledger.documents.cursor("s")).token == done
    assert sum((await ledger.chunks.counts()).values()) == done * 300
    reads = [asyncio.create_task(ledger.chunks.find("0/1")) for _ in range(50)]
    await asyncio.sleep(0)
    for read in reads:
        read.cancel()
    await asyncio.gather(*reads, return_exceptions=True)
    assert len(await claim(ledger, limit=5)) == min(5, done * 300)
    await ledger.close()
