"""Transactions on the ledger's database, run in threads so that the event loop never blocks on a disk or network."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from types import MappingProxyType
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
    from flowbed.ledger.sql.overview import Query

    Insert = sqlite.Insert | postgresql.Insert

PAGE = 1_000  # rows per page of a listing: a megabyte at most
WRITING = "flowbed_writing"  # execution option of a connection whose transaction will write

NO_PARAMETERS: Mapping[str, Any] = MappingProxyType({})

Value = TypeVar("Value")
Row = TypeVar("Row", bound=NamedTuple)


class Lock(IntEnum):
    """What transactions of several processes must not do concurrently, even where the database would let them."""

    SCHEMA = 1
    # A commit and a rollback each read what the other changes: run concurrently, neither would see the other's changes.
    RUNS = 2
    # A claim of a job decides by what each owner has had, and changes that.
    INDEX_JOBS = 3


@dataclass(frozen=True, eq=False)
class Change:
    """An update of selected rows: columns get parameters, named `to_` + column, or expressions.

    Create one per kind of selection and reuse it: building such a statement takes as long as executing it.
    """

    table: sa.Table
    chosen: sa.Select[Any]
    constants: tuple[str, ...]
    expressions: Mapping[str, sa.ColumnElement[Any]] = field(default_factory=dict)

    @cached_property
    def values(self) -> Mapping[str, sa.ColumnElement[Any]]:
        """Return what the UPDATE sets."""
        columns = self.table.c
        given = {name: sa.bindparam(f"to_{name}", type_=columns[name].type) for name in self.constants}
        return {**given, **self.expressions}


class Dialect(Protocol):
    """What differs between kinds of databases. `location` names the database in messages, without a password.

    `writers` and `readers` are how many transactions of each kind one process runs at a time; with no readers, the
    writers read. `pauses` (seconds) are the waits between attempts of a transaction that failed and left no trace.
    """

    location: str
    writers: int
    readers: int
    pauses: Sequence[float]

    def open_engine(self) -> sa.Engine:
        """Create an engine; it connects with the first transaction."""
        ...

    def insert(self, table: sa.Table) -> Insert:
        """Start an insert that supports conflict clauses."""
        ...

    def execute_many(
        self,
        connection: sa.Connection,
        statement: sa.Insert | sa.Update | sa.Delete,
        rows: Sequence[Mapping[str, Any]],
    ) -> int:
        """Execute a statement for each row of parameters; return how many rows changed.

        Each row names all parameters but the statement's constants. No two rows may affect the same row of the table.
        """
        ...

    def change(
        self, connection: sa.Connection, kind: type[Row], change: Change, given: Mapping[str, Any]
    ) -> list[Row]:
        """Execute a change with the parameters `given`, and return each changed row as a `kind`.

        `kind` is a named tuple of all columns. Rows that another transaction has locked are skipped.
        """
        ...

    def scrub(self) -> str:
        """Overwrite what removed rows have left on the disk; return why that is not possible, or "". Blocks."""
        ...

    def lock(self, connection: sa.Connection, what: Lock, *, shared: bool = False) -> None:
        """Wait for a lock, until the transaction ends; shared locks exclude only exclusive ones."""
        ...

    def is_retryable(self, error: Exception) -> bool:
        """Return whether a failed transaction left no trace, and may succeed if it is run again."""
        ...

    def transaction_id(self, connection: sa.Connection) -> str | None:
        """Return the id of the current transaction, if its COMMIT may stay unanswered."""
        ...

    def was_committed(self, transaction_id: str) -> bool:
        """Find out whether a transaction whose COMMIT got no answer was committed.

        Raises:
            Transient: it cannot be determined.
        """
        ...

    def translate(self, error: Exception) -> Error | None:
        """Translate a driver's error; None means a bug of ours."""
        ...


class Database:
    """One database, with threads that write and threads that read.

    If a caller is cancelled, its thread still completes the transaction: committed or rolled back.
    """

    def __init__(self, dialect: Dialect) -> None:
        """Create the engine and threads; the database is opened with the first transaction."""
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
        """Run `work` on one snapshot of the database."""
        return await asyncio.get_running_loop().run_in_executor(
            self._readers, self._transact, self._engine, work
        )

    async def fetch(self, kind: type[Value], query: sa.Select[Any]) -> list[Value]:
        """Return a record for each row of `query`."""
        return await self.read(lambda connection: records(kind, connection.execute(query)))

    async def fetch_one(self, kind: type[Value], query: sa.Select[Any]) -> Value | None:
        """Return a record of the first row of `query`, or None."""
        return next(iter(await self.fetch(kind, query)), None)

    async def fetch_values(self, query: sa.Select[Any]) -> list[Any]:
        """Return the first column of `query`."""
        return await self.read(lambda connection: list(connection.execute(query).scalars()))

    async def pages(
        self, kind: type[Value], query: sa.Select[Any], *by: sa.ColumnElement[Any], size: int | None = None
    ) -> AsyncIterator[list[Value]]:
        """Iterate over `query` in pages of `size` records (PAGE), in order of the columns `by`, together unique.

        Each page is its own transaction: changes made in between may be missed.
        """
        most = size or PAGE
        ordered = query.order_by(*by).limit(most)
        names = [str(column.key) for column in by]
        following = ordered
        while page := await self.fetch(kind, following):
            yield page
            if len(page) < most:
                return
            last = sa.tuple_(*(getattr(page[-1], name) for name in names))
            following = ordered.where(sa.tuple_(*by) > last)

    async def write(self, work: Callable[[sa.Connection], Value]) -> Value:
        """Run `work` in one transaction; an exception rolls it back.

        A later statement may see what others commit meanwhile, when an earlier one did not. So a write that depends on
        what it read takes a lock, or repeats the condition in the statement that writes. `work` may run more than once,
        after a deadlock or a lost connection; only one run counts.
        """
        return await asyncio.get_running_loop().run_in_executor(
            self._writers, self._transact, self._writing_engine, work
        )

    async def execute(self, statement: sa.Insert | sa.Update | sa.Delete) -> int:
        """Execute a statement in its own transaction, and return how many rows it changed."""
        return await self.write(lambda connection: connection.execute(statement).rowcount)

    async def execute_each(
        self, statement: sa.Insert | sa.Update | sa.Delete, rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Execute a statement for each row of parameters in one transaction; no two may affect the same row."""
        if rows:
            await self.write(lambda connection: self.execute_many(connection, statement, rows))

    def insert_new(self, table: sa.Table) -> Insert:
        """Build an insert that keeps an existing row of the same primary key."""
        return self._dialect.insert(table).on_conflict_do_nothing(index_elements=list(table.primary_key))

    def insert_any_new(self, table: sa.Table) -> Insert:
        """Build an insert that keeps an existing row of the same primary key, or of another unique key."""
        return self._dialect.insert(table).on_conflict_do_nothing()

    def upsert(
        self, table: sa.Table, *, only: sa.ColumnElement[bool] | None = None, **amended: sa.ColumnElement[Any]
    ) -> Insert:
        """Build an insert that replaces a row of the same primary key, where `only` holds for it.

        `amended` columns get their own expression.
        """
        replaced = {column.name: proposed(column) for column in table.c if not column.primary_key}
        return self._dialect.insert(table).on_conflict_do_update(
            index_elements=list(table.primary_key), set_={**replaced, **amended}, where=only
        )

    def execute_many(
        self,
        connection: sa.Connection,
        statement: sa.Insert | sa.Update | sa.Delete,
        rows: Sequence[Mapping[str, Any]],
    ) -> int:
        """Execute a statement for each row of parameters, no two for the same row; return how many rows changed."""
        return self._dialect.execute_many(connection, statement, rows) if rows else 0

    async def change(self, kind: type[Row], change: Change, given: Mapping[str, Any]) -> list[Row]:
        """Execute a change with the parameters `given`; return each changed row as a `kind`.

        Rows that another transaction has locked are skipped.
        """
        return await self.write(lambda connection: self._dialect.change(connection, kind, change, given))

    def lock(self, connection: sa.Connection, what: Lock, *, shared: bool = False) -> None:
        """Wait for a lock, held until this transaction ends; shared locks exclude only exclusive ones."""
        self._dialect.lock(connection, what, shared=shared)

    async def scrub(self) -> str:
        """Overwrite what removed rows have left on the disk; return why that is not possible, or ""."""
        return await asyncio.to_thread(self._dialect.scrub)

    async def close(self) -> None:
        """Close the database, after all transactions that are running or queued."""
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
                if self._dialect.is_retryable(error) and (pause := next(pauses, None)) is not None:
                    time.sleep(pause)
                    continue
                meaning = self._dialect.translate(error)
                if meaning is None:
                    raise
                raise meaning from error

    def _attempt(self, engine: sa.Engine, work: Callable[[sa.Connection], Value]) -> Value:
        with engine.connect() as connection, connection.begin() as transaction:
            value = work(connection)
            id_ = self._dialect.transaction_id(connection)
            try:
                transaction.commit()
            except sa.exc.DBAPIError as error:
                # If the connection broke during the COMMIT, the transaction may or may not be committed.
                if id_ is None or not error.connection_invalidated or not self._dialect.was_committed(id_):
                    raise
            return value


def querying(connection: sa.Connection) -> Query:
    """Return a function that executes plain SQL on a connection."""

    def query(statement: str, parameters: Mapping[str, Any] = NO_PARAMETERS, /) -> Sequence[Any]:
        return connection.execute(sa.text(statement), dict(parameters)).all()

    return query


def proposed(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """Refer to the value an `upsert` tries to insert, for use in `amended`."""
    return sa.literal_column(f"excluded.{column.name}", column.type)


class _Texts(FunctionElement[str]):
    """The texts of a JSON array, one per row."""

    inherit_cache = True


@compiles(_Texts, "sqlite")
def _each(texts: _Texts, compiler: SQLCompiler, **how: Any) -> str:  # SQLAlchemy's signature
    return f"json_each({compiler.process(texts.clauses, **how)})"


@compiles(_Texts, "postgresql")
def _elements(texts: _Texts, compiler: SQLCompiler, **how: Any) -> str:  # SQLAlchemy's signature
    return f"json_array_elements_text(CAST({compiler.process(texts.clauses, **how)} AS JSON))"


def listed(values: Collection[str]) -> sa.Select[tuple[str]]:
    """Select any number of values, for use in IN (...); values that no ledger can store are left out.

    One JSON array is read two to three times as fast as one parameter per value, and has no size limit.
    """
    whole = not is_unstorable("".join(values))
    fit = orjson.dumps(
        list(values) if whole else [value for value in values if not is_unstorable(value)]
    ).decode()
    texts = _Texts(sa.bindparam("texts", fit, sa.Text, unique=True)).table_valued(sa.column("value", sa.Text))
    return sa.select(texts.c.value)


def records(kind: type[Value], result: sa.CursorResult[Any]) -> list[Value]:
    """Convert rows to records; the columns have the names of all its fields."""
    names = tuple(result.keys())
    if issubclass(kind, tuple):
        if names == getattr(kind, "_fields", None):
            return list(map(kind._make, result))  # type: ignore[attr-defined]  # a named tuple
        return [kind(**dict(zip(names, row, strict=True))) for row in result.all()]
    found = []
    for row in result.all():
        # A frozen dataclass sets its fields one by one, which takes twice as long as the rest of reading a row.
        record = object.__new__(kind)
        record.__dict__.update(zip(names, row, strict=True))
        found.append(record)
    return found
