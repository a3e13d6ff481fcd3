"""SQLite as the place of a ledger: how it is opened, what its errors mean, and what only its dialect can say."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass
from itertools import repeat
from operator import itemgetter
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import Insert, insert
from sqlalchemy.pool import QueuePool, StaticPool

from flowbed.errors import Error, Misconfigured, OutOfSpace, Transient
from flowbed.ledger.database import WRITING, Seen

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from flowbed.ledger.database import Change, Lock, Row

MEMORY = ":memory:"

_BUSY_SECONDS = 30.0  # longer than any transaction of ours, shorter than anyone's patience
_WAL_PAUSE, _WAL_TRIES = 0.02, 1_500  # 30 s in all
_CACHE_KIB = 16 * 1024  # holds the upper levels of every index of ten million chunks, for each connection
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
    """`Dialect` of a SQLite file, or of `:memory:`; it has one writer, so that what can be read first, is."""

    pauses: Sequence[float] = ()

    def __init__(self, location: str) -> None:
        """Take the path of a file."""
        self.location = location
        self._statements: WeakKeyDictionary[Change, _Statements] = WeakKeyDictionary()
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
        """Read what will be, then write it: between the two nobody else writes."""
        seen = self.look(connection, kind, change, given)
        if seen.rows:
            self._write(connection, change, given, seen)
        return seen.rows

    def look(
        self, connection: sa.Connection, kind: type[Row], change: Change, given: Mapping[str, Any]
    ) -> Seen[Row]:
        """Read what a change would make of its rows.

        Each column comes as one JSON text. From a statement that returns rows the driver fetches them one by one, and
        lets go of the interpreter for each: beside a busy thread that takes several times as long as SQLite does.
        """
        statements = self._written(change)
        count, stamps, numbers, *columns = connection.execute(statements.look, given).one()
        if not count:
            return Seen(rows=[], numbers="[]", stamps=0)
        told: dict[str, Iterable[Any]] = dict(zip(statements.names, map(orjson.loads, columns), strict=True))
        for name, column in told.items():
            if isinstance(change.table.c[name].type, sa.Boolean):
                told[name] = map(bool, column)
        told |= {name: repeat(given[f"to_{name}"]) for name in change.constants}
        rows = list(map(kind._make, zip(*(told[name] for name in kind._fields), strict=False)))
        return Seen(rows=rows, numbers=numbers, stamps=stamps)

    def settle(
        self, connection: sa.Connection, change: Change, given: Mapping[str, Any], seen: Seen[Row]
    ) -> bool:
        """Write what was seen, unless a row of it is not as it was."""
        found = connection.execute(self._written(change).again, {**given, "of_numbers": seen.numbers}).one()
        if tuple(found) != (len(seen.rows), seen.stamps):
            return False
        self._write(connection, change, given, seen)
        return True

    def _write(
        self, connection: sa.Connection, change: Change, given: Mapping[str, Any], seen: Seen[Any]
    ) -> None:
        connection.execute(self._written(change).write, {**given, "of_numbers": seen.numbers})

    def _written(self, change: Change) -> _Statements:
        if change not in self._statements:
            self._statements[change] = _statements(change)
        return self._statements[change]

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


@dataclass(frozen=True, kw_only=True)
class _Statements:
    """What carries out a change; `look` reads how many rows there are, their stamps added up, numbers, and `names`."""

    names: list[str]
    look: sa.Select[Any]
    again: sa.Select[int, Any]
    write: sa.Update


def _statements(change: Change) -> _Statements:
    asked = {
        each.name: change.expressions.get(each.name, each)
        for each in change.table.c
        if each.name not in change.constants
    }
    number: sa.ColumnElement[int] = sa.literal_column("rowid")
    columns = (each.label(name) for name, each in asked.items())
    inner = change.chosen.with_only_columns(number, change.stamp.label("stamp"), *columns).subquery()
    told = (inner.c.rowid, *(inner.c[name] for name in asked))
    one_of_them = sa.text("rowid IN (SELECT value FROM json_each(:of_numbers))")
    chosen = change.chosen.where(one_of_them).order_by(None).limit(None)
    again = chosen.with_only_columns(change.stamp.label("stamp")).subquery()
    return _Statements(
        names=list(asked),
        look=sa.select(
            sa.func.count(), sa.func.sum(inner.c.stamp), *map(sa.func.json_group_array, told)
        ).select_from(inner),
        again=sa.select(sa.func.count(), sa.func.sum(again.c.stamp)).select_from(again),
        write=sa.update(change.table).where(one_of_them).values(dict(change.values)),
    )


def _connect(location: str) -> sqlite3.Connection:
    # The driver's own transactions (isolation_level) begin too late and end at DDL: `_begin` does it instead.
    connection = sqlite3.connect(
        location, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        _write_ahead(connection)
        for setting in (
            "synchronous=NORMAL",  # with WAL: a crash of the process loses nothing, of the machine the last commits
            f"cache_size=-{_CACHE_KIB}",
            f"journal_size_limit={_WAL_KEPT}",
        ):
            connection.execute(f"PRAGMA {setting}").close()
    except BaseException:
        connection.close()
        raise
    return connection


def _write_ahead(connection: sqlite3.Connection) -> None:
    # Two connections that turn a new file to WAL at once can deadlock, where SQLite gives up without waiting.
    for attempt in range(_WAL_TRIES):
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or attempt == _WAL_TRIES - 1:
                raise
            time.sleep(_WAL_PAUSE)
        else:
            return


def _begin(connection: sa.Connection) -> None:
    options: Mapping[str, Any] = connection.get_execution_options()
    # A deferred transaction that turns to writing fails at once where another has written since; it cannot wait.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get(WRITING) else "BEGIN")
