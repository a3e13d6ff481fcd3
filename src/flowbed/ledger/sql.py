"""A ledger in SQL: all aggregates on one database."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured, OutOfSpace
from flowbed.ledger import migrations
from flowbed.ledger.batches import SqlBatches
from flowbed.ledger.chunks import SqlChunks
from flowbed.ledger.database import Database
from flowbed.ledger.dead_letters import SqlDeadLetters
from flowbed.ledger.documents import SqlDocuments
from flowbed.ledger.runs import SqlRuns
from flowbed.ledger.sqlite import MEMORY

if TYPE_CHECKING:
    from pathlib import Path

    from flowbed.ledger import Batches, Chunks, DeadLetters, Documents, Runs


class SqlLedger:
    """`Ledger` in SQL."""

    def __init__(self, database: Database, *, id: str) -> None:  # noqa: A002 - the protocol's word
        """Join the aggregates on a database whose schema is up to date."""
        self.id = id
        self.documents: Documents = SqlDocuments(database)
        self.chunks: Chunks = SqlChunks(database)
        self.batches: Batches = SqlBatches(database)
        self.runs: Runs = SqlRuns(database)
        self.dead_letters: DeadLetters = SqlDeadLetters(database)
        self._database = database

    async def close(self) -> None:
        """Let go of the database."""
        await self._database.close()


async def open_sql(path: str, *, folder: Path, new_id: str) -> SqlLedger:
    """Open the ledger in the SQLite file at `path`, below `folder` where it is relative, or in `:memory:`."""
    location = path if path == MEMORY else await asyncio.to_thread(_place, folder / path)
    database = Database(location)
    try:
        id_ = await database.read(migrations.current)
        if id_ is None:
            id_ = await database.write(lambda connection: migrations.upgrade(connection, location, new_id))
    except BaseException:
        await database.close()
        raise
    return SqlLedger(database, id=id_)


def _place(file: Path) -> str:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
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
