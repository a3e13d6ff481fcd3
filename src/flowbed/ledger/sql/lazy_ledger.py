"""A ledger known by its id alone, whose database is opened on first use.

Importing SQLAlchemy and the schema takes a quarter of a second. A search never reads the ledger, and a run
without changes reads little, which is answered here with SQLite's own driver.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar, cast

import orjson

from flowbed.ledger.sql import HEAD, VERSION_TABLE
from flowbed.ledger.sql.overview import read_overview, read_progress
from flowbed.ledger.text import is_unstorable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

    from flowbed.ledger import (
        Batches,
        Chunks,
        DeadLetters,
        Documents,
        Erasing,
        Files,
        Jobs,
        Keys,
        Ledger,
        Overview,
        Progress,
        Quotas,
        Rollbacks,
        Runs,
        Spending,
        Submissions,
    )
    from flowbed.ledger.index_jobs import IndexJobs
    from flowbed.ledger.sql.overview import Query
    from flowbed.ledger.vector_stores import VectorStoreFiles, VectorStores
    from flowbed.ledger.workers import Workers

Value = TypeVar("Value")

NONE: Mapping[str, Any] = MappingProxyType({})
WRITABLE = "mode=rw"
LOG_INDEX_BYTES = 32_768  # of the smallest, as SQLite's file format says
# What SQLite reports if it cannot create its log.
NO_LOG = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY}
BUSY_SECONDS = 30.0  # the full ledger waits for writers as long
_ETAGS = (
    "SELECT id, etag FROM documents WHERE source = :source AND id IN (SELECT value FROM json_each(:names))"
)


class LazyLedger:
    """`Ledger` in a SQLite file whose schema is the newest; its database is opened on first use of an aggregate."""

    documents: Documents
    chunks: Chunks
    batches: Batches
    runs: Runs
    rollbacks: Rollbacks
    dead_letters: DeadLetters
    submissions: Submissions
    spending: Spending
    keys: Keys
    quotas: Quotas
    files: Files
    jobs: Jobs
    workers: Workers
    vector_stores: VectorStores
    vector_store_files: VectorStoreFiles
    index_jobs: IndexJobs
    erasing: Erasing

    def __init__(self, location: str, *, id: str, access: str = WRITABLE) -> None:  # noqa: A002 - the protocol's word
        """Take what `find_ledger` has read; nothing is opened yet."""
        self.location, self.id = location, id
        self._access = access
        self._ledger: Ledger | None = None
        self._reader: sqlite3.Connection | None = None
        self._reading = threading.Lock()
        self.documents = cast("Documents", _Documents(self))

    def __getattr__(self, name: str) -> object:
        """Open the database when the first aggregate is used."""
        if name not in LazyLedger.__annotations__ or name in vars(self):
            raise AttributeError(name)
        opened = self.opened()
        vars(self).update({each: getattr(opened, each) for each in LazyLedger.__annotations__})
        return vars(self)[name]

    def opened(self) -> Ledger:
        """Return the full ledger, which loads SQLAlchemy."""
        if self._ledger is None:
            from flowbed.ledger.sql.database import Database
            from flowbed.ledger.sql.ledger import SqlLedger
            from flowbed.ledger.sql.sqlite import Sqlite

            self._ledger = SqlLedger(Database(Sqlite(self.location, access=self._access)), id=self.id)
        return self._ledger

    async def overview(self) -> Overview:
        """Read the state of the ledger in one snapshot."""
        return await self.read(read_overview, lambda ledger: ledger.overview())

    async def read(
        self, work: Callable[[Query], Value], otherwise: Callable[[Ledger], Awaitable[Value]]
    ) -> Value:
        """Run `work` in a transaction of SQLite's own driver, or `otherwise` on the full ledger if it is open."""
        if self._ledger is None:
            try:
                return await asyncio.to_thread(self._transact, work)
            except sqlite3.ProgrammingError:  # a bug of ours
                raise
            except sqlite3.Error:
                pass  # the full ledger meets the same error and translates it
        return await otherwise(self.opened())

    def _transact(self, work: Callable[[Query], Value]) -> Value:
        with self._reading:
            if self._reader is None:
                uri = f"{Path(self.location).absolute().as_uri()}?{self._access}"
                self._reader = sqlite3.connect(
                    uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
                )
            reader = self._reader
            reader.execute("BEGIN")
            try:
                return work(
                    lambda statement, parameters=NONE, /: reader.execute(
                        statement, dict(parameters)
                    ).fetchall()
                )
            finally:
                reader.execute("COMMIT")

    def _close_reader(self) -> None:
        with self._reading:  # a read whose caller was cancelled goes on in its thread
            if self._reader is not None:
                self._reader.close()

    async def close(self) -> None:
        """Close the database if it was opened."""
        await asyncio.to_thread(self._close_reader)
        if self._ledger is not None:
            await self._ledger.close()


class _Documents:
    """`Documents` that answers the reads of a fetch without changes, without opening the ledger."""

    def __init__(self, ledger: LazyLedger) -> None:
        self._lazy = ledger

    def __getattr__(self, name: str) -> object:
        return getattr(self._lazy.opened().documents, name)

    async def progress(self, sources: Collection[str]) -> Mapping[str, Progress]:
        """Return how far each source was fetched."""
        return await self._lazy.read(
            lambda query: read_progress(query, sources), lambda ledger: ledger.documents.progress(sources)
        )

    async def etags(self, source: str, documents: Collection[str]) -> Mapping[str, str]:
        """Return etags by document id."""
        names = orjson.dumps([name for name in documents if not is_unstorable(name)]).decode()
        named = {"source": source, "names": names}
        return await self._lazy.read(
            lambda query: dict(query(_ETAGS, named)),
            lambda ledger: ledger.documents.etags(source, documents),
        )


def find_ledger(url: str, *, folder: Path) -> LazyLedger | None:
    """Return the ledger at `url` if it is in SQLite and its schema is the newest, else None: call `open_ledger`."""
    path = url.removeprefix("sqlite:///")
    file = folder / path
    if "://" in path or not os.access(file, os.R_OK):
        return None
    for access in accesses(file):
        try:
            with contextlib.closing(
                sqlite3.connect(f"{file.absolute().as_uri()}?{access}", uri=True, isolation_level=None)
            ) as connection:
                (revision,) = connection.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()  # noqa: S608
                (id_,) = connection.execute("SELECT value FROM facts WHERE name = 'id'").fetchone()
        except (sqlite3.Error, TypeError) as error:
            if (getattr(error, "sqlite_errorcode", 0) & 0xFF) in NO_LOG:
                continue
            return None  # not a ledger, or an incomplete one: `open_ledger` says which
        return LazyLedger(str(file), id=str(id_), access=access) if revision == HEAD else None
    return None


def accesses(file: Path) -> tuple[str, ...]:
    """Return the ways to open a file, as parameters of SQLite's URI, in the order to try.

    Where nothing can be written, or the disk is full, a reader cannot create the index of the log either. SQLite then
    reads a file without its log, which is safe while nobody has it open: the index would have its full size.
    """
    writable = all(os.access(each, os.W_OK) for each in (file, file.parent))
    index = file.with_name(f"{file.name}-shm")
    try:
        in_use = index.stat().st_size >= LOG_INDEX_BYTES  # a failed attempt leaves a few bytes
    except OSError:  # there is none, or its last user has just removed it
        in_use = False
    return (WRITABLE if writable else "mode=ro", *(() if in_use else ("mode=ro&immutable=1",)))
