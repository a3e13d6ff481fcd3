"""A ledger in SQL: all aggregates on one database."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured, OutOfSpace
from flowbed.ledger.protocols.ledger import Ledger
from flowbed.ledger.sql import migrations
from flowbed.ledger.sql.database import Database, Lock, querying
from flowbed.ledger.sql.overview import read_overview
from flowbed.ledger.sql.tables.batches import SqlBatches
from flowbed.ledger.sql.tables.chunks import SqlChunks
from flowbed.ledger.sql.tables.dead_letters import SqlDeadLetters
from flowbed.ledger.sql.tables.documents import SqlDocuments
from flowbed.ledger.sql.tables.erasing import SqlErasing
from flowbed.ledger.sql.tables.files import SqlFiles
from flowbed.ledger.sql.tables.index_jobs import SqlIndexJobs
from flowbed.ledger.sql.tables.jobs import SqlJobs
from flowbed.ledger.sql.tables.keys import SqlKeys
from flowbed.ledger.sql.tables.quotas import SqlQuotas
from flowbed.ledger.sql.tables.rollbacks import SqlRollbacks
from flowbed.ledger.sql.tables.runs import SqlRuns
from flowbed.ledger.sql.tables.spending import SqlSpending
from flowbed.ledger.sql.tables.submissions import SqlSubmissions
from flowbed.ledger.sql.tables.workers import SqlWorkers
from flowbed.ledger.sql.vector_stores.files import SqlVectorStoreFiles
from flowbed.ledger.sql.vector_stores.stores import SqlVectorStores

if TYPE_CHECKING:
    from pathlib import Path

    import sqlalchemy as sa

    from flowbed.ledger import Overview

# Spending, keys' hashes and the names of documents are for the owner of a project, whatever the umask.
OWNER_FOLDER, OWNER_FILE = 0o700, 0o600


class SqlLedger(Ledger):
    """`Ledger` in SQL."""

    def __init__(self, database: Database, *, id: str) -> None:  # noqa: A002 - the protocol's word
        """Create the aggregates on a database whose schema is current."""
        self.id = id
        self.location = database.location
        self.documents = SqlDocuments(database)
        self.chunks = SqlChunks(database)
        self.batches = SqlBatches(database)
        self.runs = SqlRuns(database)
        self.rollbacks = SqlRollbacks(database)
        self.dead_letters = SqlDeadLetters(database)
        self.submissions = SqlSubmissions(database)
        self.spending = SqlSpending(database)
        self.keys = SqlKeys(database)
        self.quotas = SqlQuotas(database)
        self.files = SqlFiles(database)
        self.jobs = SqlJobs(database)
        self.vector_stores = SqlVectorStores(database)
        self.vector_store_files = SqlVectorStoreFiles(database)
        self.workers = SqlWorkers(database)
        self.index_jobs = SqlIndexJobs(database)
        self.erasing = SqlErasing(database)
        self._database = database

    async def overview(self) -> Overview:
        """Read the state of the ledger in one snapshot."""
        return await self._database.read(lambda connection: read_overview(querying(connection)))

    async def close(self) -> None:
        """Close the database."""
        await self._database.close()


async def open_sqlite(path: str, *, folder: Path, new_id: str) -> SqlLedger:
    """Open the ledger in the SQLite file at `path`, below `folder` if it is relative, or in `:memory:`."""
    from flowbed.ledger.sql.sqlite import MEMORY, Sqlite  # loads only the driver in use

    location = path if path == MEMORY else await asyncio.to_thread(_place, folder / path)
    return await _open(Database(Sqlite(location)), new_id=new_id)


async def open_postgres(url: str, *, new_id: str, connections: int) -> SqlLedger:
    """Open the ledger in the Postgres database at `url`, with up to so many connections."""
    try:
        from flowbed.ledger.sql.postgres import Postgres  # loads only the driver in use
    except ImportError as error:
        raise Misconfigured(
            f"a ledger on Postgres needs the package psycopg ({error}): pip install 'flowbed[postgres]'"
        ) from error
    return await _open(Database(Postgres(url, connections=connections)), new_id=new_id)


async def _open(database: Database, *, new_id: str) -> SqlLedger:
    def upgrade(connection: sa.Connection) -> str:
        database.lock(connection, Lock.SCHEMA)
        return migrations.upgrade(connection, database.location, new_id)

    try:
        id_ = await database.read(migrations.current)
        if id_ is None:
            id_ = await database.write(upgrade)
    except BaseException:
        await database.close()
        raise
    return SqlLedger(database, id=id_)


def _place(file: Path) -> str:
    try:
        file.parent.mkdir(OWNER_FOLDER, parents=True, exist_ok=True)
        if not file.exists():  # SQLite gives its log the mode of the file
            os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, OWNER_FILE))
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise OutOfSpace(
                f"no room to make the folder {file.parent} for the ledger: free disk space"
            ) from error
        raise Misconfigured(
            f"cannot make the folder {file.parent} for the ledger ({error.strerror}): "
            "make it writable, or set `ledger` to another path"
        ) from error
    return str(file)
