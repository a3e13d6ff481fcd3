"""What an API answered, kept beside the project, so that a fetch from the beginning need not call it again."""

from __future__ import annotations

import sqlite3
import zlib
from contextlib import closing
from typing import TYPE_CHECKING, Any

import orjson

from flowbed.records import Problem
from flowbed.storage.atomic import make_private_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Where the files are, below the project.
RAW = ".flowbed/sources"

SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (document TEXT PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS position (options TEXT NOT NULL, cursor TEXT NOT NULL);
"""
# Seconds to wait for another process that writes.
PATIENCE = 30.0


class RawAnswers:
    """The answers of one source in a SQLite file, by document, and the position up to which they are complete.

    The file only saves calls: it may be deleted at any time. Nothing is written before `keep`.

    Raises:
        sqlite3.Error, OSError: the file cannot be read or written.
    """

    def __init__(self, file: Path) -> None:
        """Open or create the file, which only its owner may read."""
        make_private_file(file)
        self._database = sqlite3.connect(file, timeout=PATIENCE)
        # Only a crash of the machine can lose the last answers, and it loses them whole.
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._database.executescript(SCHEMA)

    def close(self) -> None:
        """Close the file; what was not kept is lost."""
        self._database.close()

    def put(self, document: str, answer: Any) -> None:  # any JSON value
        """Replace the answer for a document."""
        body = zlib.compress(orjson.dumps(answer), level=1)
        self._database.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (document, body))

    def remove(self, document: str) -> None:
        """Delete the answer for a document."""
        self._database.execute("DELETE FROM answers WHERE document = ?", (document,))

    def keep(self, options: str, cursor: str) -> None:
        """Write everything since the last call, and that it is complete up to `cursor` under these options."""
        with self._database:
            self._database.execute("DELETE FROM position")
            self._database.execute("INSERT INTO position VALUES (?, ?)", (options, cursor))

    def position(self, options: str) -> str:
        """Return up to where the answers are complete under these options, or an empty string."""
        with closing(
            self._database.execute("SELECT cursor FROM position WHERE options = ?", (options,))
        ) as found:
            row = found.fetchone()
        return str(row[0]) if row else ""

    def documents(self) -> set[str]:
        """Return the documents that there are answers for."""
        return {str(row[0]) for row in self._database.execute("SELECT document FROM answers")}

    def answer(self, document: str) -> Any:  # any JSON value
        """Return the answer for a document, None if there is none."""
        row = self._database.execute("SELECT body FROM answers WHERE document = ?", (document,)).fetchone()
        return orjson.loads(zlib.decompress(row[0])) if row else None

    def answers(self) -> Iterator[tuple[str, Any]]:
        """Yield every document and its answer, in order of the documents."""
        for document, body in self._database.execute("SELECT document, body FROM answers ORDER BY document"):
            yield document, orjson.loads(zlib.decompress(body))


def opened(file: Path | None, vendor: str) -> tuple[RawAnswers | None, Problem | None]:
    """Open a file of raw answers; without it a fetch from the beginning takes longer, and the problem says why."""
    if file is None:
        return None, None
    try:
        return RawAnswers(file), None
    except (sqlite3.Error, OSError) as error:
        return None, unkept(file, vendor, error)


def unkept(file: Path, vendor: str, error: Exception) -> Problem:
    """Return the problem of a file that cannot be written."""
    reason = f"answers of {vendor} cannot be kept for later ({error}): delete the file, or make its folder writable"
    return Problem(subject=str(file), reason=reason, skipped=True)
