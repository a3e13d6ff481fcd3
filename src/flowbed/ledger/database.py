"""Transactions on the ledger's database, run in threads so that the event loop never waits for a disk."""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa

from flowbed.ledger import sqlite

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

PAGE = 1_000  # rows in a page of a listing: a megabyte at most
_PIECE = 1_000  # values in one IN (...): below every database's limit on parameters
_READERS = 3  # reads at once; more only queue for the interpreter

Value = TypeVar("Value")


class Database:
    """One database, with one thread that writes and a few that read.

    A caller that is cancelled leaves its transaction to its thread, which ends it whole: committed or undone.
    """

    def __init__(self, location: str) -> None:
        """Prepare to open what lies at `location`: nothing is touched before the first transaction."""
        self.location = location
        self._engine = sqlite.open_engine(location, connections=_READERS + 1)
        self._writing_engine = self._engine.execution_options(**{sqlite.WRITING: True})
        # One writer, since SQLite has one: callers queue here in order, rather than poll for its lock in none.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="ledger-write")
        # What lives in memory lives in one connection, which two threads must not use at once.
        alone = location == sqlite.MEMORY
        self._readers = (
            self._writer if alone else ThreadPoolExecutor(_READERS, thread_name_prefix="ledger-read")
        )

    async def read(self, work: Callable[[sa.Connection], Value]) -> Value:
        """Do `work` on one snapshot of the database."""
        return await asyncio.get_running_loop().run_in_executor(
            self._readers, self._transact, self._engine, work
        )

    async def fetch(self, kind: Callable[..., Value], query: sa.Select[Any]) -> list[Value]:
        """Read a record for each row of `query`."""
        return await self.read(lambda connection: records(kind, connection.execute(query)))

    async def write(self, work: Callable[[sa.Connection], Value]) -> Value:
        """Do `work` in one transaction that holds as a whole; an exception out of it undoes everything."""
        return await asyncio.get_running_loop().run_in_executor(
            self._writer, self._transact, self._writing_engine, work
        )

    async def close(self) -> None:
        """Let go of the database, once the transactions begun or waiting are through."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._readers.shutdown()
        self._writer.shutdown()
        self._engine.dispose()

    def _transact(self, engine: sa.Engine, work: Callable[[sa.Connection], Value]) -> Value:
        try:
            with engine.begin() as connection:
                return work(connection)
        except (sqlite3.Error, sa.exc.DBAPIError) as error:
            meaning = sqlite.translated(error, self.location)
            if meaning is None:
                raise
            raise meaning from error


def pieces(values: Collection[Value]) -> Iterator[Sequence[Value]]:
    """Cut values into runs that fit one IN (...)."""
    listed = list(values)
    return (listed[start : start + _PIECE] for start in range(0, len(listed), _PIECE))


def records(kind: Callable[..., Value], result: sa.CursorResult[Any]) -> list[Value]:
    """Make a record of each row of a result whose columns carry the names of its fields."""
    names = tuple(result.keys())
    return [kind(**dict(zip(names, row, strict=True))) for row in result]
