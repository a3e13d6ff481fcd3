"""What parsers found in files, kept beside the project, so that no file is parsed twice with the same content."""

from __future__ import annotations

import sqlite3
import zlib
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowbed.storage.atomic import make_private_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet
    from pathlib import Path

# Increase it whenever parsers would find something else in the same file.
REVISION = 2

SCHEMA = """
CREATE TABLE IF NOT EXISTS extracts (
    document TEXT PRIMARY KEY, stamp TEXT NOT NULL, content TEXT NOT NULL, refused INTEGER NOT NULL, body BLOB NOT NULL
)
"""
# Seconds to wait for another process that writes.
PATIENCE = 30.0


@dataclass(frozen=True, kw_only=True)
class Kept:
    """An extract as JSON, or why there is none."""

    text: str
    refused: bool


class KeptExtracts:
    """The extracts of a source in a SQLite file, by document.

    Each has the stamp and the hash of the content that it was made of. The file only saves work: it may be deleted at
    any time, and where it cannot be used, files are parsed again.
    """

    def __init__(self, file: Path) -> None:
        """Open nothing yet: only projects with documents have such a file."""
        self._file = file
        self.failure = ""

    def get(self, document: str, *, stamp: str, content: Callable[[], str]) -> Kept | None:
        """Return what was found in a document with this stamp, or else with this content, whose hash takes longer."""
        if not self._file.exists():
            return None
        try:
            with closing(self._open()) as database, database:
                row = database.execute(
                    "SELECT stamp, content, refused, body FROM extracts WHERE document = ?", (document,)
                ).fetchone()
                if row is None or (row[0] != stamp and row[1] != content()):
                    return None
                if row[0] != stamp:
                    database.execute("UPDATE extracts SET stamp = ? WHERE document = ?", (stamp, document))
            return Kept(refused=bool(row[2]), text=zlib.decompress(row[3]).decode())
        except (sqlite3.Error, zlib.error, UnicodeDecodeError) as error:
            self._failed(error)
            return None

    def put(self, document: str, kept: Kept, *, stamp: str, content: str) -> None:
        """Replace what was found in a document."""
        body = zlib.compress(kept.text.encode(), level=1)
        try:
            make_private_file(self._file)
            with closing(self._open()) as database, database:
                database.execute(
                    "INSERT OR REPLACE INTO extracts VALUES (?, ?, ?, ?, ?)",
                    (document, stamp, content, kept.refused, body),
                )
        except (sqlite3.Error, OSError) as error:
            self._failed(error)

    def keep_only(self, documents: AbstractSet[str]) -> None:
        """Delete what was found in all other documents."""
        if not self._file.exists():
            return
        try:
            with closing(self._open()) as database, database:
                held = {str(row[0]) for row in database.execute("SELECT document FROM extracts")}
                database.executemany(
                    "DELETE FROM extracts WHERE document = ?", [(each,) for each in held - documents]
                )
        except (sqlite3.Error, OSError) as error:
            self._failed(error)

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._file, timeout=PATIENCE)
        database.execute(SCHEMA)
        return database

    def _failed(self, error: Exception) -> None:
        self.failure = f"what was found in files cannot be kept for later ({error}): delete {self._file}"
