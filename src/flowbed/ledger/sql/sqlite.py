"""The dialect of SQLite: how to open it, what its errors mean, and its own SQL."""

from __future__ import annotations

import contextlib
import re
import shutil
import sqlite3
from itertools import repeat
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite import Insert, insert
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.pool import QueuePool, StaticPool
from sqlalchemy.util import LRUCache, immutabledict

from flowbed.errors import Damaged, Error, Misconfigured, OutOfSpace, Transient
from flowbed.ledger.sql.database import WRITING
from flowbed.ledger.sql.salvage import NOT_UTF8
from flowbed.ledger.sql.schema import metadata
from flowbed.ledger.sql.write_ahead_log import use_write_ahead_log

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from flowbed.ledger.sql.database import Change, Lock, Row

MEMORY = ":memory:"
CREATING, READ_ONLY = "mode=rwc", "mode=ro"

_BUSY_SECONDS = 30.0  # longer than any of our transactions, shorter than anyone's patience
_CACHE_KIB = 16 * 1024  # per connection; holds the upper levels of every index of ten million chunks
# Pages (31 MiB) of log before a checkpoint. Claiming thousands of chunks writes 5 MiB: with SQLite's default of 1,000
# pages, the same index pages would be copied again and again, and every copy waited for.
_WAL_PAGES = 8_000
# Rows from which on they are inserted by one statement.
_TOGETHER = 64
_WAL_KEPT = 64 * 1024 * 1024  # the log shrinks to this after a huge transaction

_FULL = "no room to write the ledger {location}: nothing is lost; free disk space and run again"
_LOCKED = "the ledger {location} stayed locked: another process is writing a lot, or hangs; run again"
_DENIED = (
    "cannot open or write the ledger {location}: make the file and its folder writable, "
    "or set `ledger` to another path"
)
_BROKEN = (
    "{location} is not a ledger, or is damaged: restore it from a backup, or let `flowbed verify --repair` save what"
    " can be read of it; if the path is wrong, set `ledger` to another"
)
_NOT_UTF8 = "the ledger {location} holds a text that is not UTF-8; `flowbed verify --repair` repairs its row"
_MISSING = re.compile(r"(?:no such column: |no such table: |has no column named )(?:\w+\.)?(\w+)")
_NAMES = {*metadata.tables, *(column.name for table in metadata.tables.values() for column in table.columns)}

# What a primary result code means to the caller. Any other is a bug of ours.
_MEANINGS: Mapping[int, tuple[type[Error], str]] = {
    sqlite3.SQLITE_FULL: (OutOfSpace, _FULL),
    sqlite3.SQLITE_IOERR: (OutOfSpace, _FULL),  # a full disk, as seen by the log and the shared memory
    sqlite3.SQLITE_BUSY: (Transient, _LOCKED),
    sqlite3.SQLITE_LOCKED: (Transient, _LOCKED),
    sqlite3.SQLITE_PROTOCOL: (Transient, _LOCKED),
    sqlite3.SQLITE_CANTOPEN: (Misconfigured, _DENIED),
    sqlite3.SQLITE_READONLY: (Misconfigured, _DENIED),
    sqlite3.SQLITE_PERM: (Misconfigured, _DENIED),
    sqlite3.SQLITE_AUTH: (Misconfigured, _DENIED),
    sqlite3.SQLITE_NOTADB: (Damaged, _BROKEN),
    sqlite3.SQLITE_CORRUPT: (Damaged, _BROKEN),
}


class CommonDialect(SQLiteDialect_pysqlite):
    """SQLAlchemy's dialect, equal for all ledgers of a process, which compile each statement once between them."""

    supports_statement_cache = True

    def __eq__(self, other: object) -> bool:
        """Compare the classes: the version of SQLite is the process's."""
        return type(other) is type(self)

    def __hash__(self) -> int:
        """Return the hash of the class."""
        return hash(type(self))


# Compiling the statements of a run takes longer than executing them.
registry.register("sqlite.common", __name__, CommonDialect.__name__)
_ADDRESS = "sqlite+common://"
_COMPILED: immutabledict[str, Any] = immutabledict(
    {"compiled_cache": LRUCache(500)}  # as many as SQLAlchemy keeps for one engine
)


class Sqlite:
    """`Dialect` of a SQLite file, or of `:memory:`."""

    pauses: Sequence[float] = ()

    def __init__(self, location: str, *, access: str = CREATING) -> None:
        """Take the path of a file, or `:memory:`; `access` are the parameters of SQLite's URI of the file."""
        self.location = location
        self._access = access
        self._statements: WeakKeyDictionary[Change, tuple[list[str], sa.Select[Any], sa.Update]] = (
            WeakKeyDictionary()
        )
        # SQLite has one writer: callers queue for it in order instead of polling for its lock in no order.
        self.writers = 1
        # More readers would only contend for the interpreter. A database in memory has one connection, which two
        # threads must not use at once.
        self.readers = 0 if location == MEMORY else 3

    def open_engine(self) -> sa.Engine:
        """Create an engine with one connection per thread."""
        if self.location == MEMORY:
            engine = sa.create_engine(
                _ADDRESS,
                creator=lambda: _connect(MEMORY, CREATING),
                poolclass=StaticPool,
                execution_options=_COMPILED,
            )
        else:
            engine = sa.create_engine(
                _ADDRESS,
                creator=lambda: _connect(self.location, self._access),
                poolclass=QueuePool,
                pool_size=self.writers + self.readers,
                max_overflow=0,
                execution_options=_COMPILED,
            )
        sa.event.listen(engine, "begin", _begin)
        return engine

    def insert(self, table: sa.Table) -> Insert:
        """Start an insert that supports conflict clauses."""
        return insert(table)

    def execute_many(
        self,
        connection: sa.Connection,
        statement: sa.Insert | sa.Update | sa.Delete,
        rows: Sequence[Mapping[str, Any]],
    ) -> int:
        """Execute a statement for each row of parameters; return how many rows changed.

        Each row names all parameters but the statement's constants. They go straight to the driver: SQLAlchemy's
        handling of them takes as long as SQLite itself.
        """
        compiled = statement.compile(dialect=connection.dialect)
        order = compiled.positiontup or []
        constants = {name: value for name, value in compiled.params.items() if name not in rows[0]}
        if _is_large(statement, rows):
            columns = {name: [row[name] for row in rows] for name in order if name not in constants}
            others = [constants[name] for name in order[len(columns) :]]
            if (together := _together(str(compiled), columns, others)) is not None:
                return connection.exec_driver_sql(*together).rowcount
        in_order = itemgetter(*order)
        return connection.exec_driver_sql(
            str(compiled), [in_order({**constants, **row}) for row in rows]
        ).rowcount

    def change(
        self, connection: sa.Connection, kind: type[Row], change: Change, given: Mapping[str, Any]
    ) -> list[Row]:
        """Read the rows as they will be, then update them: nobody else can write in between.

        Each column is read as one JSON text. Reading row by row, the driver releases the interpreter for each row,
        which takes several times as long as SQLite itself if another thread is busy.
        """
        if change not in self._statements:
            self._statements[change] = _statements(change)
        names, read, write = self._statements[change]
        rowids, *columns = connection.execute(read, given).one()
        values: dict[str, Iterable[Any]] = dict(zip(names, map(orjson.loads, columns), strict=True))
        for name, column in values.items():
            if isinstance(change.table.c[name].type, sa.Boolean):
                values[name] = map(bool, column)
        if connection.execute(write, {**given, "of_rows": rowids}).rowcount == 0:
            return []
        values |= {name: repeat(given[f"to_{name}"]) for name in change.constants}
        # Same as `kind._make`, which is written in Python and slower.
        rows = zip(*(values[name] for name in kind._fields), strict=False)
        return list(map(tuple.__new__, repeat(kind), rows))

    def scrub(self) -> str:
        """Rewrite the file and empty its log: pages that removed rows were on still hold them."""
        if self.location == MEMORY:
            return ""
        try:
            with contextlib.closing(_connect(self.location, self._access)) as connection:
                connection.execute("VACUUM")
                busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        except sqlite3.Error as error:
            raise self.translate(error) or error from error
        return f"another process reads {self.location}, so its log still holds removed rows" if busy else ""

    def lock(self, connection: sa.Connection, what: Lock, *, shared: bool = False) -> None:
        """Do nothing: SQLite has one writer at a time."""

    def is_retryable(self, error: Exception) -> bool:  # noqa: ARG002 - as the protocol has it
        """Return False: SQLite has already waited for other writers."""
        return False

    def transaction_id(self, connection: sa.Connection) -> str | None:  # noqa: ARG002
        """Return None: a COMMIT in this process always gets an answer."""
        return None

    def was_committed(self, transaction_id: str) -> bool:  # noqa: ARG002
        """Return False; never called, see `transaction_id`."""
        return False

    def translate(self, error: Exception) -> Error | None:
        """Translate a driver's error; None means a bug of ours."""
        cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        code = (
            getattr(cause, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF
        )  # the high bits only tell variants apart
        if isinstance(cause, LookupError) and "enum" in str(
            cause
        ):  # SQLAlchemy's, about a status that there is not
            return Damaged(f"{_BROKEN.format(location=self.location)} ({cause})")
        missing = _MISSING.search(str(cause)) if code == sqlite3.SQLITE_ERROR else None
        if missing and missing[1] in _NAMES:  # its schema is damaged
            return Damaged(f"{_BROKEN.format(location=self.location)} ({cause})")
        if NOT_UTF8 in str(cause):  # the driver's own error, which has no code
            return Damaged(f"{_NOT_UTF8.format(location=self.location)} ({cause})")
        # The log could not be created, or the file was opened without it for that reason.
        if code in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY} and _is_full(self.location):
            return OutOfSpace(f"{_FULL.format(location=self.location)} ({cause})")
        if code not in _MEANINGS:
            return None
        kind, text = _MEANINGS[code]
        return kind(f"{text.format(location=self.location)} ({cause})")


def _is_large(statement: sa.Insert | sa.Update | sa.Delete, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether rows are inserted faster by `_together`, which rounds numbers with a fraction."""
    if not isinstance(statement, sa.Insert) or len(rows) < _TOGETHER:
        return False
    return not any(isinstance(column.type, sa.Float) for column in statement.table.c)


def _together(
    insert: str, columns: Mapping[str, Sequence[Any]], others: Sequence[Any]
) -> tuple[str, tuple[Any, ...]] | None:
    """Turn an insert of one row into one of all rows, with its parameters; None if it cannot be.

    The rows are read from one JSON text, and columns with one value are parameters, as are `others` of the rest of the
    statement. SQLite stores them without the interpreter then; row by row, the driver releases and takes it for each.
    """
    before, values, after = insert.partition(f" VALUES ({', '.join('?' * len(columns))})")
    differing = {name: column for name, column in columns.items() if column.count(column[0]) != len(column)}
    try:
        rows = orjson.dumps(list(zip(*differing.values(), strict=True))).decode()
    except TypeError:  # half of a character
        return None
    if not values or not differing or "\\u0000" in rows:  # a NUL would end a text
        return None
    places = {name: place for place, name in enumerate(differing)}
    shown = ", ".join(
        f"json_extract(value, '$[{places[name]}]')" if name in places else "?" for name in columns
    )
    fixed = [column[0] for name, column in columns.items() if name not in places]
    # Without a condition, SQLite would take ON CONFLICT for one of a join.
    return f"{before} SELECT {shown} FROM json_each(?) WHERE true{after}", (*fixed, rows, *others)  # noqa: S608 - our own


def _is_full(location: str) -> bool:
    """Return whether there is no room where a database is."""
    try:
        return shutil.disk_usage(Path(location).parent).free == 0
    except OSError:
        return False


def _statements(change: Change) -> tuple[list[str], sa.Select[Any], sa.Update]:
    """Build the statements that read the rows of a change with its expressions applied, and that update them."""
    columns = change.table.c
    selected = {
        each.name: change.expressions.get(each.name, each)
        for each in columns
        if each.name not in change.constants
    }
    rowid: sa.ColumnElement[int] = sa.literal_column("rowid")
    inner = change.chosen.with_only_columns(
        rowid, *(each.label(name) for name, each in selected.items())
    ).subquery()
    is_selected = sa.text("rowid IN (SELECT value FROM json_each(:of_rows))")
    write = sa.update(change.table).where(is_selected).values(dict(change.values))
    return list(selected), sa.select(*map(sa.func.json_group_array, inner.c)), write


def _connect(location: str, access: str) -> sqlite3.Connection:
    name = MEMORY if location == MEMORY else f"{Path(location).absolute().as_uri()}?{access}"
    # The driver's own transactions (isolation_level) begin too late and end at DDL: `_begin` begins them instead.
    connection = sqlite3.connect(
        name, uri=location != MEMORY, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    if access.startswith(READ_ONLY):
        return connection
    try:
        use_write_ahead_log(connection, patience=_BUSY_SECONDS, log_bytes=_WAL_KEPT)
        for setting in (
            "synchronous=NORMAL",  # with WAL, only a crash of the machine can lose the last commits
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
    # A deferred transaction that starts to write after another one has written fails at once instead of waiting.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get(WRITING) else "BEGIN")
