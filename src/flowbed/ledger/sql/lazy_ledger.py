"""A ledger known by its id alone, whose database is opened on first use.

Importing SQLAlchemy and the schema takes a quarter of a second, and a search never reads the ledger.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from typing import TYPE_CHECKING

from flowbed.ledger.sql import HEAD, VERSION_TABLE

if TYPE_CHECKING:
    from pathlib import Path

    from flowbed.ledger import (
        Batches,
        Chunks,
        DeadLetters,
        Documents,
        Files,
        Jobs,
        Keys,
        Ledger,
        Quotas,
        Rollbacks,
        Runs,
        Spending,
        Submissions,
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

    def __init__(self, location: str, *, id: str) -> None:  # noqa: A002 - the protocol's word
        """Take what `find_ledger` has read; nothing is opened yet."""
        self.location, self.id = location, id
        self._ledger: Ledger | None = None

    def __getattr__(self, name: str) -> object:
        """Open the database when the first aggregate is used."""
        if name not in LazyLedger.__annotations__ or self._ledger is not None:
            raise AttributeError(name)
        from flowbed.ledger.sql.database import Database  # loads SQLAlchemy
        from flowbed.ledger.sql.ledger import SqlLedger
        from flowbed.ledger.sql.sqlite import Sqlite

        self._ledger = SqlLedger(Database(Sqlite(self.location)), id=self.id)
        vars(self).update({each: getattr(self._ledger, each) for each in LazyLedger.__annotations__})
        return vars(self)[name]

    async def close(self) -> None:
        """Close the database if it was opened."""
        if self._ledger is not None:
            await self._ledger.close()


def find_ledger(url: str, *, folder: Path) -> LazyLedger | None:
    """Return the ledger at `url` if it is in SQLite and its schema is the newest, else None: call `open_ledger`."""
    path = url.removeprefix("sqlite:///")
    file = folder / path
    if "://" in path or not all(os.access(each, os.R_OK | os.W_OK) for each in (file, file.parent)):
        return None
    uri = f"{file.absolute().as_uri()}?mode=rw"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
            (revision,) = connection.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()  # noqa: S608
            (id_,) = connection.execute("SELECT value FROM facts WHERE name = 'id'").fetchone()
    except (sqlite3.Error, TypeError):  # not a ledger, or an incomplete one: `open_ledger` says which
        return None
    return LazyLedger(str(file), id=str(id_)) if revision == HEAD else None
