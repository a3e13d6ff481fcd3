"""The ledger on Postgres: opening it, losing its connection, and the meaning of its errors."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from tests.support.processes.cutting import cutting
from tests.support.servers.postgres import PASSWORD, USER, PostgresServer

from flowbed.errors import Conflict, Misconfigured, OutOfSpace, Rejected, Transient
from flowbed.ledger import Cursor, Swap, open_ledger
from flowbed.ledger.sql import VERSION_TABLE
from flowbed.ledger.sql import postgres as dialect
from flowbed.ledger.sql.database import Database
from flowbed.ledger.sql.postgres import Postgres
from flowbed.ledger.sql.schema import metadata
from flowbed.records import Status
from flowbed.testing.ledger import chunk, claim, document, letter, only, put, run
from flowbed.testing.servers import HOST

NOWHERE = Path()
COMMIT = b"COMMIT\0"  # as the driver sends it, unlike "READ COMMITTED" at the beginning


def through(url: str, port: int) -> str:
    """Return the URL of the same database through a proxy."""
    return re.sub(rf"{HOST}:\d+", f"{HOST}:{port}", url) + "?sslmode=disable"


def swap(cursor: Cursor, *, rows: int) -> Swap:
    chunks = [chunk(f"{cursor.token}/{number}") for number in range(rows)]
    return Swap(cursor=cursor, value="v", documents=[document()], chunks=chunks)


def test_migrations_match_the_schema(ledger_url: str) -> None:
    """The migrations create the schema's tables, and every text is compared by code points."""
    engine = Postgres(ledger_url).open_engine()
    with engine.connect() as connection:
        options = {"include_name": lambda name, *_: name != VERSION_TABLE}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []
        inspector = sa.inspect(connection)
        made = {
            table: {
                column["name"]: getattr(column["type"], "collation", None)
                for column in inspector.get_columns(table)
            }
            for table in inspector.get_table_names()
        }
        conditions = {
            index["name"]: index["dialect_options"].get("postgresql_where")
            for table in inspector.get_table_names()
            for index in inspector.get_indexes(table)
        }
    engine.dispose()
    for table in metadata.tables.values():
        for column in table.columns:
            if isinstance(column.type, sa.String) and not isinstance(column.type, sa.Enum):
                assert made[table.name][column.name] == "C", (table.name, column.name)
    for index in (index for table in metadata.tables.values() for index in table.indexes):
        condition = index.dialect_options["sqlite"]["where"]
        assert (conditions[str(index.name)] is None) == (condition is None), index.name


async def test_open_newer_schema_is_refused(postgres: PostgresServer, ledger_url: str) -> None:
    """The schema of a newer Flowbed is refused by name, without showing the password."""
    postgres.query(ledger_url, "UPDATE ledger_version SET version_num = '9999'")
    with pytest.raises(Misconfigured, match=r"has schema 9999.*upgrade Flowbed") as refused:
        await open_ledger(ledger_url, folder=NOWHERE, new_id="i")
    assert PASSWORD.partition(" ")[0] not in str(refused.value)


async def test_open_foreign_database_is_refused(postgres: PostgresServer) -> None:
    """A database with other tables is refused and left alone; a schema of our own in it is accepted."""
    url = postgres.database()
    postgres.query(url, "CREATE TABLE songs (title text); CREATE SCHEMA mine")
    with pytest.raises(Misconfigured, match="is a database of another program"):
        await open_ledger(url, folder=NOWHERE, new_id="i")
    assert postgres.query(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'") == "songs"
    ledger = await open_ledger(f"{url}?options=-csearch_path%3Dmine", folder=NOWHERE, new_id="mine")
    assert ledger.id == "mine"
    await ledger.close()
    assert "chunks" in postgres.query(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'mine'")


async def test_open_concurrently_creates_one_ledger(postgres: PostgresServer) -> None:
    """Of several that create the same ledger at once one does, and all get its id."""
    url = postgres.database()
    opened = await asyncio.gather(
        *(open_ledger(url, folder=NOWHERE, new_id=f"i{number}") for number in range(6))
    )
    assert len({ledger.id for ledger in opened}) == 1
    for ledger in opened:
        await ledger.close()
    assert postgres.query(url, "SELECT count(*) FROM ledger_version") == "1"


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"password": "wrong"}, Misconfigured, "password"),
        ({"user": "nobody_known"}, Misconfigured, "user"),
        ({"name": "no_such_database"}, Misconfigured, "database"),
        ({"port": "1"}, Transient, "host and port"),
    ],
)
async def test_open_unreachable_server_says_what_to_do(
    postgres: PostgresServer, ledger_url: str, change: dict[str, str], kind: type[Exception], says: str
) -> None:
    """A refused connection is Misconfigured, a missing answer Transient; no message shows the password."""
    is_ = {
        "user": USER,
        "password": "secret%20of%20a%20test",
        "port": str(postgres.port),
        "name": ledger_url.rsplit("/", 1)[1],
        **change,
    }
    url = f"postgresql://{is_['user']}:{is_['password']}@{HOST}:{is_['port']}/{is_['name']}"
    with pytest.raises(kind, match=says) as refused:
        await open_ledger(url, folder=NOWHERE, new_id="i")
    assert f"postgresql://{is_['user']}@{HOST}:{is_['port']}/{is_['name']}" in str(refused.value)
    assert "secret of" not in str(refused.value)
    assert "wrong" not in str(refused.value)


async def test_open_invalid_url_is_refused() -> None:
    """A URL that libpq cannot parse is refused without showing it, since it may contain a password."""
    with pytest.raises(Misconfigured, match="not a valid Postgres URL") as refused:
        await open_ledger("postgresql://me:hidden@host:port:5/x?%zz", folder=NOWHERE, new_id="i")
    assert "hidden" not in str(refused.value)


async def test_open_without_write_permission_is_refused(postgres: PostgresServer, ledger_url: str) -> None:
    """A user without permissions, or a read-only database, is refused with the reason."""
    name = ledger_url.rsplit("/", 1)[1]
    postgres.query(ledger_url, f"CREATE ROLE reader_{name} LOGIN PASSWORD 'p'")
    with pytest.raises(Misconfigured, match="this user may not write"):
        await open_ledger(
            f"postgresql://reader_{name}:p@{HOST}:{postgres.port}/{name}", folder=NOWHERE, new_id="i"
        )
    ledger = await open_ledger(
        f"{ledger_url}?options=-cdefault_transaction_read_only%3Don", folder=NOWHERE, new_id="i"
    )
    assert (await put(ledger, [chunk()])).token == 1  # a write says that it is one
    await ledger.close()


async def test_connection_lost_before_commit_is_retried(postgres: PostgresServer, ledger_url: str) -> None:
    """A swap whose connection is cut before its COMMIT arrives is applied once."""
    async with cutting(postgres.port) as cuts:
        ledger = await open_ledger(through(ledger_url, cuts.port), folder=NOWHERE, new_id="i")
        for said in (b"INSERT INTO chunks", COMMIT):
            before = await ledger.documents.cursor("s")
            cuts.at(said, answered=False)
            moved = await ledger.documents.swap(swap(before, rows=50))
            assert cuts.times == 0
            assert moved == await ledger.documents.cursor("s")
            assert moved.token == before.token + 1
            assert sum((await ledger.chunks.counts()).values()) == 50 * moved.token
        await ledger.close()


async def test_commit_without_answer_is_looked_up(postgres: PostgresServer, ledger_url: str) -> None:
    """A committed transaction whose answer was lost is neither repeated nor reported as failed."""
    async with cutting(postgres.port) as cuts:
        ledger = await open_ledger(through(ledger_url, cuts.port), folder=NOWHERE, new_id="i")
        cuts.at(COMMIT, answered=True)
        moved = await ledger.documents.swap(swap(Cursor(source="s"), rows=50))
        assert moved == await ledger.documents.cursor("s") == Cursor(source="s", value="v", token=1)
        cuts.at(COMMIT, answered=True)
        won = await claim(ledger, limit=30)
        assert len(won) == 30
        assert len(await claim(ledger, worker="v")) == 20
        cuts.at(COMMIT, answered=True)
        await ledger.dead_letters.add([letter()])
        assert [page[0].attempts async for page in ledger.dead_letters.pages()] == [1]
        assert cuts.done == 3
        await ledger.close()


async def test_swap_old_cursor_without_answer_is_conflict(postgres: PostgresServer, ledger_url: str) -> None:
    """A swap from an old cursor is a Conflict even if its connection is cut."""
    async with cutting(postgres.port) as cuts:
        ledger = await open_ledger(through(ledger_url, cuts.port), folder=NOWHERE, new_id="i")
        await ledger.documents.swap(swap(Cursor(source="s"), rows=1))
        cuts.at(b"cursors", answered=True)
        with pytest.raises(Conflict):
            await ledger.documents.swap(swap(Cursor(source="s"), rows=2))
        assert await ledger.chunks.counts() == {("c", Status.NONE): 1}
        await ledger.close()


async def test_restarted_server_is_waited_for(tmp_path: Path) -> None:
    """Work continues after a restart of the server; a crash of the server loses no answered swap."""
    with PostgresServer(durable=True) as server:
        ledger = await open_ledger(server.database(), folder=tmp_path, new_id="i")
        await put(ledger, [chunk("one")])
        for crash in (False, True):
            await asyncio.to_thread(server.stop, crash=crash)
            going_on = asyncio.create_task(put(ledger, [chunk(f"after {crash}")]))
            reading = asyncio.create_task(ledger.chunks.find("d"))
            await asyncio.sleep(0.3)
            assert not going_on.done()
            await asyncio.to_thread(server.start)
            await asyncio.gather(going_on, reading)
        assert (await ledger.documents.cursor("s")).token == 3
        assert {row.id for row in await ledger.chunks.find("d")} == {"one", "after False", "after True"}
        await ledger.close()


async def test_unreachable_server_raises_transient(
    postgres: PostgresServer, ledger_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the server stays away, retries end in Transient, which says if an outcome is unknown."""
    monkeypatch.setattr(Postgres, "pauses", (0.0, 0.05))
    monkeypatch.setattr(dialect, "_OUTCOME_PATIENCE", 0.5)
    async with cutting(postgres.port) as cuts:
        ledger = await open_ledger(through(ledger_url, cuts.port), folder=NOWHERE, new_id="i")
        await put(ledger, [chunk()])
        cuts.closed = True
        cuts.all()
        with pytest.raises(Transient, match="cannot be reached"):
            await put(ledger, [chunk("two")])
        cuts.closed = False
        moved = await ledger.documents.cursor("s")
        cuts.at(COMMIT, answered=True, closing=True)
        with pytest.raises(Transient, match=r"during a COMMIT.*could not be found out"):
            await ledger.documents.swap(Swap(cursor=moved, value="", chunks=[chunk("three")]))
        cuts.closed = False
        assert {row.id for row in await ledger.chunks.find("d")} == {"s#d#00000", "three"}
        await ledger.close()


async def test_deadlock_is_retried(ledger_url: str) -> None:
    """Two transactions that deadlock are both completed, one after the other."""
    database = Database(Postgres(ledger_url))
    engine = Postgres(ledger_url).open_engine()
    chunks = metadata.tables["chunks"]
    ledger = await open_ledger(ledger_url, folder=NOWHERE, new_id="i")
    await put(ledger, [chunk("a"), chunk("b")])
    met: list[str] = []

    def both(first: str, second: str) -> None:
        def work(connection: sa.Connection) -> None:
            for name in (first, second):
                connection.execute(
                    sa.update(chunks).where(chunks.c.id == name).values(attempts=chunks.c.attempts + 1)
                )
                met.append(name)
                while len(set(met)) < 2:  # until the other transaction has locked its first row
                    pass

        database._transact(database._writing_engine, work)

    await asyncio.gather(asyncio.to_thread(both, "a", "b"), asyncio.to_thread(both, "b", "a"))
    assert {row.attempts for row in await ledger.chunks.find("d")} == {2}
    assert len(met) > 4 - 1
    engine.dispose()
    await database.close()
    await ledger.close()


async def test_record_during_commit_keeps_chunks(ledger_url: str) -> None:
    """If a run is recorded again while it is committed, each chunk is in the index or in a pending run."""
    one, two = [await open_ledger(ledger_url, folder=NOWHERE, new_id="i") for _ in range(2)]
    for turn in range(10):
        name = f"i{turn}"
        await put(one, [chunk(f"{name}/a", batch=name), chunk(f"{name}/b", batch=name)])
        await claim(one, name, limit=1)
        (first,) = [row for row in await one.chunks.find("d") if row.batch == name and row.worker]
        await one.runs.record(run(name), [(first.id, 100)], worker="w")
        (second,) = await claim(two, name, worker="v")
        await asyncio.gather(
            one.runs.commit([name], version=7), two.runs.record(run(name), [(second.id, 100)], worker="v")
        )
        state = (await one.runs.get(name) or run()).state
        status = (await only(one, second.id)).status
        assert (state, status) in {("pending", Status.PENDING), ("committed", Status.SUCCESS)}
    for ledger in (one, two):
        await ledger.close()


async def test_swap_unstorable_text_is_rejected(ledger_url: str) -> None:
    """A cursor or etag with a NUL is rejected, and nothing of its swap is applied."""
    ledger = await open_ledger(ledger_url, folder=NOWHERE, new_id="i")
    for bad in (
        Swap(cursor=Cursor(source="s"), value="v\0"),
        Swap(cursor=Cursor(source="s"), value="", documents=[document(etag="e\0")]),
    ):
        with pytest.raises(Rejected, match="cannot store"):
            await ledger.documents.swap(bad)
        assert await ledger.documents.cursor("s") == Cursor(source="s")
    await ledger.close()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (psycopg.errors.DiskFull, OutOfSpace),
        (psycopg.errors.TooManyConnections, Transient),
        (psycopg.errors.QueryCanceled, Transient),
        (psycopg.errors.LockNotAvailable, Transient),
        (psycopg.errors.AdminShutdown, Transient),
        (psycopg.errors.DeadlockDetected, Transient),
        (psycopg.errors.ReadOnlySqlTransaction, Misconfigured),
        (psycopg.errors.InsufficientPrivilege, Misconfigured),
        (psycopg.errors.DataCorrupted, Misconfigured),
        (psycopg.errors.UndefinedFunction, Misconfigured),
        (psycopg.errors.ProgramLimitExceeded, Rejected),
    ],
)
def test_driver_errors_become_flowbed_errors(error: type[psycopg.Error], kind: type[Exception]) -> None:
    """A driver's error that is not a bug of ours becomes an error that names the ledger."""
    meaning = Postgres("postgresql://me:hidden@there/mine").translate(error("as the driver puts it"))
    assert type(meaning) is kind
    assert "postgresql://me@there/mine" in str(meaning)
    assert "as the driver puts it" in str(meaning)


async def test_invalid_statement_is_not_hidden(ledger_url: str) -> None:
    """An error that only a bug of ours can cause is raised unchanged."""
    database = Database(Postgres(ledger_url))
    with pytest.raises(sa.exc.ProgrammingError, match="songs"):
        await database.read(lambda connection: connection.execute(sa.text("SELECT * FROM songs")))
    await database.close()
