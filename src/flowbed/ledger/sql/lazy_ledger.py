"""A ledger that stands as this Flowbed leaves one: known by its id, and opened when something is asked of it.

SQLAlchemy and the schema take a quarter of a second to load, and a search asks nothing of the ledger.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

REVISIONS = Path(__file__).parent / "migrations" / "versions"  # a file for each


class Standing:
    """`Ledger` in a SQLite file whose schema is the newest; its parts are there once one of them is asked for."""

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
        """Take what `stand` has found; nothing is opened yet."""
        self.location, self.id = location, id
        self._opened: Ledger | None = None

    def __getattr__(self, part: str) -> object:
        """Open the database for the first part that is asked for."""
        if part not in Standing.__annotations__ or self._opened is not None:
            raise AttributeError(part)
        from flowbed.ledger.sql.database import Database  # see above
        from flowbed.ledger.sql.ledger import SqlLedger
        from flowbed.ledger.sql.sqlite import Sqlite

        self._opened = SqlLedger(Database(Sqlite(self.location)), id=self.id)
        vars(self).update({name: getattr(self._opened, name) for name in Standing.__annotations__})
        return vars(self)[part]

    async def close(self) -> None:
        """Let go of the database, where it was opened."""
        if self._opened is not None:
            await self._opened.close()


def stand(url: str, *, folder: Path) -> Standing | None:
    """Find a ledger in SQLite whose schema is the newest; None where there is anything to do, or to say, about it."""
    path = url.removeprefix("sqlite:///")
    file = folder / path
    if "://" in path or not all(os.access(each, os.R_OK | os.W_OK) for each in (file, file.parent)):
        return None
    place = f"{file.absolute().as_uri()}?mode=rw"
    try:
        with contextlib.closing(sqlite3.connect(place, uri=True, isolation_level=None)) as connection:
            (revision,) = connection.execute("SELECT version_num FROM ledger_version").fetchone()
            (id_,) = connection.execute("SELECT value FROM facts WHERE name = 'id'").fetchone()
    except (sqlite3.Error, TypeError):  # no ledger, or half of one: opening it says what it is
        return None
    newest = max(path.stem for path in REVISIONS.glob("r*.py")).removeprefix("r")
    return Standing(str(file), id=str(id_)) if revision == newest else None
