"""Transactions on the ledger's database, run in threads so that the event loop never waits for a disk or a network."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from flowbed.ledger.text import is_unstorable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence

    from sqlalchemy.dialects import postgresql, sqlite
    from sqlalchemy.sql.compiler import SQLCompiler

    from flowbed.errors import Error

    Insert = sqlite.Insert | postgresql.Insert

PAGE = 1_000  # rows in a page of a listing: a megabyte at most
WRITING = "flowbed_writing"  # the execution option of a connection whose transaction will write

Value = TypeVar("Value")
Row = TypeVar("Row", bound=NamedTuple)


class Lock(IntEnum):
    """What transactions of several processes come to one by one, where the database would let them overlap."""

    SCHEMA = 1
    # Each reads what the other changes: of a commit and a rollback at once, neither would see what the other does.
    RUNS = 2


@dataclass(frozen=True, eq=False)
class Change:
    """Rows that are chosen, and what becomes of their columns: parameters, named `to_` and the column, or expressions.

    To be made once for each way to choose: to write such a statement takes as long as to carry it out.
    """

    table: sa.Table
    chosen: sa.Select[Any]
    constants: tuple[str, ...]
    expressions: Mapping[str, sa.ColumnElement[Any]] = field(default_factory=dict)

    @cached_property
    def values(self) -> Mapping[str, sa.ColumnElement[Any]]:
        """What an UPDATE sets."""
        columns = self.table.c
        given = {name: sa.bindparam(f"to_{name}", type_=columns[name].type) for name in self.constants}
        return {**given, **self.expressions}


class Dialect(Protocol):
    """What one kind of database does in its own way; `location` is how messages name it, without a password.

    `writers` and `readers` are the transactions it takes at once from one process; with no readers, the writers read.
    `pauses` (seconds) come between the tries of a transaction that left no trace.
    """

    location: str
    writers: int
    readers: int
    pauses: Sequence[float]

    def open_engine(self) -> sa.Engine:
        """Make an engine; nothing is touched before the first transaction."""
        ...

    def insert(self, table: sa.Table) -> Insert:
        """Begin an insert that can say what happens on a conflict."""
        ...

    def execute_many(
        self,
        connection: sa.Connection,
        statement: sa.Insert | sa.Update | sa.Delete,
        rows: Sequence[Mapping[str, Any]],
    ) -> int:
        """Execute a statement for each row of parameters, which name all but its constants; count the rows changed.

        No two rows may be about the same row of the table.
        """
        ...

    def change(
        self, connection: sa.Connection, kind: type[Row], change: Change, given: Mapping[str, Any]
    ) -> list[Row]:
        """Carry out a change with the parameters `given`, and return each row, a `kind`, as it then is.

        `kind` is a named tuple of all columns. A row that another transaction holds is passed over.
        """
        ...

    def lock(self, connection: sa.Connection, what: Lock, *, shared: bool = False) -> None:
        """Wait until no other transaction holds the lock, or only such as share it."""
        ...

    def passes(self, error: Exception) -> bool:
        """Tell whether a transaction that failed with this left no trace, and may go through at the next try."""
        ...

    def mark(self, connection: sa.Connection) -> str | None:
        """Name the transaction under way, where its COMMIT may get no answer."""
        ...

    def landed(self, mark: str) -> bool:
        """Find out whether a transaction was committed whose COMMIT got no answer.

        Raises:
            Transient: it cannot be found out.
        """
        ...

    def translated(self, error: Exception) -> Error | None:
        """Say what a driver's error means to the caller; None where it can only be a mistake of ours."""
        ...


class Database:
    """One database, with threads that write and threads that read.

    A caller that is cancelled leaves its transaction to its thread, which ends it whole: committed or undone.
    """

    def __init__(self, dialect: Dialect) -> None:
        """Prepare to open: nothing is touched before the first transaction."""
        self.location = dialect.location
        self._dialect = dialect
        self._engine = dialect.open_engine()
        self._writing_engine = self._engine.execution_options(**{WRITING: True})
        self._writers = ThreadPoolExecutor(dialect.writers, thread_name_prefix="ledger-write")
        self._readers = (
            ThreadPoolExecutor(dialect.readers, thread_name_prefix="ledger-read")
            if dialect.readers
            else self._writers
        )

    async def read(self, work: Callable[[sa.Connection], Value]) -> Value:
        """Do `work` on one snapshot of the database."""
        return await asyncio.get_running_loop().run_in_executor(
            self._readers, self._transact, self._engine, work
        )

    async def fetch(self, kind: type[Value], query: sa.Select[Any]) -> list[Value]:
        """Read a record for each row of `query`."""
        return await self.read(lambda connection: records(kind, connection.execute(query)))

    async def fetch_one(self, kind: type[Value], query: sa.Select[Any]) -> Value | None:
        """Read the record of the first row of `query`, or None if there is none."""
        return next(iter(await self.fetch(kind, query)), None)

    async def fetch_values(self, query: sa.Select[Any]) -> list[Any]:
        """Read the first column of `query`."""
        return await self.read(lambda connection: list(connection.execute(query).scalars()))

    async def pages(
        self, kind: type[Value], query: sa.Select[Any], *by: sa.ColumnElement[Any], size: int = PAGE
    ) -> AsyncIterator[list[Value]]:
        """Read `query` in pages of `size` records, in order of the columns `by`, which together are unique.

        Each page is a transaction of its own: changes made between two of them may be missed.
        """
        ordered = query.order_by(*by).limit(size)
        names = [str(column.key) for column in by]
        following = ordered
        while page := await self.fetch(kind, following):
            yield page
            if len(page) < size:
                return
            last = sa.tuple_(*(getattr(page[-1], name) for name in names))
            following = ordered.where(sa.tuple_(*by) > last)

    async def write(self, work: Callable[[sa.Connection], Value]) -> Value:
        """Do `work` in one transaction that holds as a whole; an exception out of it undoes everything.

        What others commit meanwhile may be seen by a later statement and not by an earlier one: a write that decides
        by what it has read takes a lock, or says its condition in the statement that writes. `work` may be done more
        than once, where it had to yield to another or the connection was lost; one of these times counts.
        """
        return await asyncio.get_running_loop().run_in_executor(
            self._writers, self._transact, self._writing_engine, work
        )

    async def execute(self, statement: sa.Insert | sa.Update | sa.Delete) -> int:
        """Execute a statement in a transaction of its own, and return how many rows it changed."""
        return await self.write(lambda connection: connection.execute(statement).rowcount)

    async def execute_each(
        self, statement: sa.Insert | sa.Update | sa.Delete, rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Execute a statement in one transaction for each row of parameters, no two about the same row."""
        if rows:
            await self.write(lambda connection: self.execute_many(connection, statement, rows))

    def insert_new(self, table: sa.Table) -> Insert:
        """Write an insert that leaves the row of the same primary key as it is."""
        return self._dialect.insert(table).on_conflict_do_nothing(index_elements=list(table.primary_key))

    def insert_any_new(self, table: sa.Table) -> Insert:
        """Write an insert that leaves a row of the same primary key, or of another key that is unique, as it is."""
        return self._dialect.insert(table).on_conflict_do_nothing()

    def upsert(self, table: sa.Table, **amended: sa.ColumnElement[Any]) -> Insert:
        """Write an insert that replaces the row of the same primary key; `amended` columns get their own expression."""
        replaced = {column.name: proposed(column) for column in table.c if not column.primary_key}
        return self._dialect.insert(table).on_conflict_do_update(
            index_elements=list(table.primary_key), set_={**replaced, **amended}
        )

    def execute_many(
        self,
        connection: sa.Connection,
        statement: sa.Insert | sa.Update | sa.Delete,
        rows: Sequence[Mapping[str, Any]],
    ) -> int:
        """Execute a statement for each row of parameters, no two about the same row; count the rows changed."""
        return self._dialect.execute_many(connection, statement, rows) if rows else 0

    async def change(self, kind: type[Row], change: Change, given: Mapping[str, Any]) -> list[Row]:
        """Carry out a change with the parameters `given`; return each row, a `kind`, as it then is.

        A row that another transaction holds is passed over.
        """
        return await self.write(lambda connection: self._dialect.change(connection, kind, change, given))

    def lock(self, connection: sa.Connection, what: Lock, *, shared: bool = False) -> None:
        """Wait until no other transaction holds the lock, or only such as share it; held until this one ends."""
        self._dialect.lock(connection, what, shared=shared)

    async def close(self) -> None:
        """Let go of the database, once the transactions begun or waiting are through."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._readers.shutdown()
        self._writers.shutdown()
        self._engine.dispose()

    def _transact(self, engine: sa.Engine, work: Callable[[sa.Connection], Value]) -> Value:
        pauses = iter(self._dialect.pauses)
        while True:
            try:
                return self._attempt(engine, work)
            except Exception as error:
                if self._dialect.passes(error) and (pause := next(pauses, None)) is not None:
                    time.sleep(pause)
                    continue
                meaning = self._dialect.translated(error)
                if meaning is None:
                    raise
                raise meaning from error

    def _attempt(self, engine: sa.Engine, work: Callable[[sa.Connection], Value]) -> Value:
        with engine.connect() as connection, connection.begin() as transaction:
            value = work(connection)
            mark = self._dialect.mark(connection)
            try:
                transaction.commit()
            except sa.exc.DBAPIError as error:
                # Where the connection went with the answer, the transaction may be there or not.
                if mark is None or not error.connection_invalidated or not self._dialect.landed(mark):
                    raise
            return value


def proposed(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """Name, where an `upsert` is amended, the value that the insert brought."""
    return sa.literal_column(f"excluded.{column.name}", column.type)


class _Texts(FunctionElement[str]):
    """The texts of a JSON array, one a row."""

    inherit_cache = True


@compiles(_Texts, "sqlite")
def _each(texts: _Texts, compiler: SQLCompiler, **how: Any) -> str:  # as SQLAlchemy calls it
    return f"json_each({compiler.process(texts.clauses, **how)})"


@compiles(_Texts, "postgresql")
def _elements(texts: _Texts, compiler: SQLCompiler, **how: Any) -> str:  # as SQLAlchemy calls it
    return f"json_array_elements_text(CAST({compiler.process(texts.clauses, **how)} AS JSON))"


def listed(values: Collection[str]) -> sa.Select[tuple[str]]:
    """Select values, for an IN (...) of any length; those that no ledger can hold are left out.

    As one JSON array they are read two or three times as fast as in a parameter each, and know no limit.
    """
    fit = orjson.dumps([value for value in values if not is_unstorable(value)]).decode()
    texts = _Texts(sa.bindparam("texts", fit, sa.Text, unique=True)).table_valued(sa.column("value", sa.Text))
    return sa.select(texts.c.value)


def records(kind: type[Value], result: sa.CursorResult[Any]) -> list[Value]:
    """Make a record of each row of a result whose columns carry the names of all its fields."""
    names = tuple(result.keys())
    if issubclass(kind, tuple):
        if names == getattr(kind, "_fields", None):
            return list(map(kind._make, result))  # type: ignore[attr-defined]  # a named tuple
        return [kind(**dict(zip(names, row, strict=True))) for row in result.all()]
    found = []
    for row in result.all():
        # A frozen dataclass sets its fields one by one, which takes twice as long as all else that a row costs.
        record = object.__new__(kind)
        record.__dict__.update(zip(names, row, strict=True))
        found.append(record)
    return found
