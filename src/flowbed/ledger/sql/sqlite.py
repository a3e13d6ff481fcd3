"""SQLite as the place of a ledger: how it is opened, what its errors mean, and what only its dialect can say."""

from __future__ import annotations

import sqlite3
from itertools import repeat
from operator import itemgetter
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import Insert, insert
from sqlalchemy.pool import QueuePool, StaticPool

from flowbed.errors import Error, Misconfigured, OutOfSpace, Transient
from flowbed.ledger.sql.database import WRITING
from flowbed.ledger.sql.write_ahead_log import use_write_ahead_log

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from flowbed.ledger.sql.database import Change, Lock, Row

MEMORY = ":memory:"

_BUSY_SECONDS = 30.0  # longer than any transaction of ours, shorter than anyone's patience
_CACHE_KIB = 16 * 1024  # holds the upper levels of every index of ten million chunks, for each connection
# Pages (31 MiB) after which the log is brought into the file. A claim of thousands of chunks writes 5 MiB: by SQLite's
# usual 1,000 pages the same ones of each index would be brought there time and again, and each time be waited for.
_WAL_PAGES = 8_000
_WAL_KEPT = 64 * 1024 * 1024  # a huge transaction's log gives its disk back

_FULL = "no room to write the ledger {location}: nothing is lost; free disk space and run again"
_LOCKED = "the ledger {location} stayed locked: another process is writing a great deal, or hangs"
_CLOSED = (
    "cannot open or write the ledger {location}: make the file and its folder writable, "
    "or set `ledger` to another path"
)
_BROKEN = (
    "{location} is no ledger, or a damaged one: set `ledger` to another path, or restore it from a backup"
)

# What each primary result code means to the caller. One that is missing can only be a mistake of ours.
_MEANINGS: Mapping[int, tuple[type[Error], str]] = {
    sqlite3.SQLITE_FULL: (OutOfSpace, _FULL),
    sqlite3.SQLITE_IOERR: (OutOfSpace, _FULL),  # how a full disk shows in the log and in shared memory
    sqlite3.SQLITE_BUSY: (Transient, _LOCKED),
    sqlite3.SQLITE_LOCKED: (Transient, _LOCKED),
    sqlite3.SQLITE_PROTOCOL: (Transient, _LOCKED),
    sqlite3.SQLITE_CANTOPEN: (Misconfigured, _CLOSED),
    sqlite3.SQLITE_READONLY: (Misconfigured, _CLOSED),
    sqlite3.SQLITE_PERM: (Misconfigured, _CLOSED),
    sqlite3.SQLITE_AUTH: (Misconfigured, _CLOSED),
    sqlite3.SQLITE_NOTADB: (Misconfigured, _BROKEN),
    sqlite3.SQLITE_CORRUPT: (Misconfigured, _BROKEN),
}


class Sqlite:
    """`Dialect` of a SQLite file, or of `:memory:`."""

    pauses: Sequence[float] = ()

    def __init__(self, location: str) -> None:
        """Take the path of a file."""
        self.location = location
        self._statements: WeakKeyDictionary[Change, tuple[list[str], sa.Select[Any], sa.Update]] = (
            WeakKeyDictionary()
        )
        # One writer, since SQLite has one: callers queue for it in order, rather than poll for its lock in none.
        self.writers = 1
        # More readers would only queue for the interpreter. What lives in memory lives in one connection, which two
        # threads must not use at once.
        self.readers = 0 if location == MEMORY else 3

    def open_engine(self) -> sa.Engine:
        """Make an engine with a connection for each thread."""
        if self.location == MEMORY:
            engine = sa.create_engine("sqlite://", creator=lambda: _connect(MEMORY), poolclass=StaticPool)
        else:
            engine = sa.create_engine(
                "sqlite://",
                creator=lambda: _connect(self.location),
                poolclass=QueuePool,
                pool_size=self.writers + self.readers,
                max_overflow=0,
            )
        sa.event.listen(engine, "begin", _begin)
        return engine

    def insert(self, table: sa.Table) -> Insert:
        """Begin an insert that can say what happens on a conflict."""
        return insert(table)

    def execute_many(
        self,
        connection: sa.Connection,
        statement: sa.Insert | sa.Update | sa.Delete,
        rows: Sequence[Mapping[str, Any]],
    ) -> int:
        """Execute a statement for each row of parameters, which name all but its constants; count the rows changed.

        The parameters go to the driver as they are: SQLAlchemy's way of preparing them takes as long as SQLite does.
        """
        compiled = statement.compile(dialect=connection.dialect)
        order = compiled.positiontup or []
        constants = {name: value for name, value in compiled.params.items() if name not in rows[0]}
        in_order = itemgetter(*order)
        return connection.exec_driver_sql(
            str(compiled), [in_order({**constants, **row}) for row in rows]
        ).rowcount

    def change(
        self, connection: sa.Connection, kind: type[Row], change: Change, given: Mapping[str, Any]
    ) -> list[Row]:
        """Read what will be, then write it: between the two nobody else writes.

        Each column comes as one JSON text. From a statement that returns rows the driver fetches them one by one, and
        lets go of the interpreter for each: beside a busy thread that takes several times as long as SQLite does.
        """
        if change not in self._statements:
            self._statements[change] = _statements(change)
        names, read, write = self._statements[change]
        rowids, *columns = connection.execute(read, given).one()
        told: dict[str, Iterable[Any]] = dict(zip(names, map(orjson.loads, columns), strict=True))
        for name, column in told.items():
            if isinstance(change.table.c[name].type, sa.Boolean):
                told[name] = map(bool, column)
        if connection.execute(write, {**given, "of_rows": rowids}).rowcount == 0:
            return []
        told |= {name: repeat(given[f"to_{name}"]) for name in change.constants}
        # As `kind._make` does, which is written in Python.
        rows = zip(*(told[name] for name in kind._fields), strict=False)
        return list(map(tuple.__new__, repeat(kind), rows))

    def lock(self, connection: sa.Connection, what: Lock, *, shared: bool = False) -> None:
        """Do nothing: writers come one by one as it is."""

    def passes(self, error: Exception) -> bool:  # noqa: ARG002 - as the protocol has it
        """Tell that nothing passes by itself: SQLite has waited for others already."""
        return False

    def mark(self, connection: sa.Connection) -> str | None:  # noqa: ARG002
        """Name no transaction: a COMMIT of this process gets its answer."""
        return None

    def landed(self, mark: str) -> bool:  # noqa: ARG002
        """Find nothing out: see `mark`."""
        return False

    def translated(self, error: Exception) -> Error | None:
        """Say what a driver's error means to the caller; None where it can only be a mistake of ours."""
        cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        code = (
            getattr(cause, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF
        )  # the high bits only tell variants apart
        if code not in _MEANINGS:
            return None
        kind, text = _MEANINGS[code]
        return kind(f"{text.format(location=self.location)} ({cause})")


def _statements(change: Change) -> tuple[list[str], sa.Select[Any], sa.Update]:
    """Write what reads the rows of a change as they will be, but for its constants, and what changes them."""
    columns = change.table.c
    asked = {
        each.name: change.expressions.get(each.name, each)
        for each in columns
        if each.name not in change.constants
    }
    rowid: sa.ColumnElement[int] = sa.literal_column("rowid")
    inner = change.chosen.with_only_columns(
        rowid, *(each.label(name) for name, each in asked.items())
    ).subquery()
    one_of_them = sa.text("rowid IN (SELECT value FROM json_each(:of_rows))")
    write = sa.update(change.table).where(one_of_them).values(dict(change.values))
    return list(asked), sa.select(*map(sa.func.json_group_array, inner.c)), write


def _connect(location: str) -> sqlite3.Connection:
    # The driver's own transactions (isolation_level) begin too late and end at DDL: `_begin` does it instead.
    connection = sqlite3.connect(
        location, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        use_write_ahead_log(connection, patience=_BUSY_SECONDS, log_bytes=_WAL_KEPT)
        for setting in (
            "synchronous=NORMAL",  # with WAL: a crash of the process loses nothing, of the machine the last commits
            f"cache_size=-{_CACHE_KIB}",
            f"wal_autocheckpoint={_WAL_PAGES}",
        ):
            connection.execute(f"PRAGMA {setting}").close()
    except BaseException:
        connection.close()
        raise
    return connection


def _begin(connection: sa.Connection) -> None:
    options: Mapping[str, Any] = connection.get_execution_options()
    # A deferred transaction that turns to writing fails at once where another has written since; it cannot wait.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get(WRITING) else "BEGIN")
