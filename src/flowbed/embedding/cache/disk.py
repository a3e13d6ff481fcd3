"""The disk tier of the vector cache: one SQLite file, shared by processes and bounded in size."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from flowbed.embedding.cache.encoding import sealed, unsealed
from flowbed.errors import Error, Misconfigured, OutOfSpace, Transient
from flowbed.ledger.sql.write_ahead_log import use_write_ahead_log
from flowbed.storage.atomic import make_private_file
from flowbed.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

T = TypeVar("T")

# A vector of 384 dimensions has 1,536 bytes; a page of 4,096 bytes would waste a quarter of itself.
PAGE_BYTES = 16_384

# Rows of one statement or transaction: few enough that another process waits for only milliseconds to write.
ROWS = 1000

# Seconds to wait for another process; its longest transaction takes well under one, unless the disk is very slow.
PATIENCE = 30.0

# Time of use is kept to the hour, so that reads update a row at most once an hour.
USE_SECONDS = 3600

# Bytes of the write-ahead log that stay on disk after a burst of writes.
LOG_BYTES = 16 * 2**20

# Fraction of rows dropped at once: dropping one at a time would slow down every insertion.
DROPPED_SHARE = 0.05

SCHEMA = """
CREATE TABLE IF NOT EXISTS vectors (
    id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, vector BLOB NOT NULL, used INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS vectors_by_use ON vectors (used);
"""

DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
DAMAGED_SUFFIX = ".damaged"
BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


class VectorFile:
    """Vectors by key in a file, least recently used out first.

    A damaged file is set aside and replaced by an empty one: what it held can be embedded again.
    """

    def __init__(self, path: Path, *, limit: int, clock: Callable[[], float]) -> None:
        """Name the file, which the first call opens; `limit` is its size in bytes, `clock` returns Unix seconds."""
        self._path = path
        self._limit = limit
        self._clock = clock
        self._connection: sqlite3.Connection | None = None
        # SQLite blocks, and a connection belongs to one thread.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="flowbed-vectors")

    async def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Look keys up; unknown keys and damaged vectors are missing from the result.

        Raises:
            Transient: another process kept the file locked for too long.
            OutOfSpace: the disk is full.
            Misconfigured: the file cannot be opened.
        """
        return await self._call(lambda connection: self._get(connection, keys))

    async def recent(self, most: int) -> dict[bytes, bytes]:
        """Return the vectors that were used last, up to `most`, by the hour; damaged ones are left out.

        Raises:
            Transient: another process kept the file locked for too long.
            OutOfSpace: the disk is full.
            Misconfigured: the file cannot be opened.
        """
        return await self._call(lambda connection: _recent(connection, most))

    async def put_many(self, vectors: Mapping[bytes, bytes]) -> None:
        """Store vectors, and drop the least recently used ones if the file exceeds its limit.

        Raises:
            Transient: another process kept the file locked for too long.
            OutOfSpace: the disk is full.
            Misconfigured: the file cannot be opened.
        """
        await self._call(lambda connection: self._put(connection, vectors))

    async def forget(self, keys: Sequence[bytes]) -> int:
        """Delete vectors, overwrite their bytes in the file, and return how many there were.

        Raises:
            Transient: another process kept the file locked for too long.
        """
        return await self._call(lambda connection: self._forget(connection, keys))

    async def close(self) -> None:
        """Close the file; a later call opens it again."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)

    async def _call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, work)

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in the file's thread; reopen a damaged file first, then replace it."""
        try:
            try:
                return work(self._open())
            except sqlite3.Error as error:
                if not _has_code(error, DAMAGED):
                    raise
            # Another process may have replaced the file while this one had the old one open.
            self._close()
            try:
                return work(self._open())
            except sqlite3.Error as error:
                if not _has_code(error, DAMAGED):
                    raise
                log.warning(
                    "vector cache %s is damaged (%s); it is set aside and replaced by an empty one",
                    self._path,
                    error,
                )
            self._set_aside()
            return work(self._open())
        except (sqlite3.Error, OSError) as error:
            # Do not reuse a connection whose transaction failed halfway.
            self._close()
            raise self._translate(error) from error

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            make_private_file(self._path)
            connection = sqlite3.connect(self._path, timeout=PATIENCE, isolation_level=None)
            try:
                connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
                use_write_ahead_log(connection, patience=PATIENCE, log_bytes=LOG_BYTES)
                # Losing the last transaction only means embedding again; the file cannot be damaged by it.
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.executescript(SCHEMA)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _set_aside(self) -> None:
        self._close()
        # The log first: an old log would be replayed into a new file.
        for suffix in ("-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        # One damaged file is enough for diagnosis; more could fill the disk.
        self._path.replace(self._path.with_name(self._path.name + DAMAGED_SUFFIX))

    def _get(self, connection: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        hour = int(self._clock() // USE_SECONDS)
        old: list[int] = []
        damaged = 0
        for part in _parts(keys):
            rows = connection.execute(
                f"SELECT id, key, vector, used FROM vectors WHERE key IN ({_placeholders(part)})",  # noqa: S608 - only placeholders
                part,
            )
            for identifier, key, vector, used in rows:
                if (value := unsealed(key, vector)) is None:
                    damaged += 1
                    continue
                found[key] = value
                if used < hour:
                    old.append(identifier)
        if damaged:
            log.warning("vector cache %s: %d vectors are damaged, and are not used", self._path, damaged)
        self._mark_used(connection, old, hour)
        return found

    def _mark_used(self, connection: sqlite3.Connection, old: Sequence[int], hour: int) -> None:
        """Record that rows were used in this hour."""
        try:
            for stale in _parts(old):
                connection.execute(
                    f"UPDATE vectors SET used = ? WHERE id IN ({_placeholders(stale)})",  # noqa: S608 - only placeholders
                    [hour, *stale],
                )
        except sqlite3.Error as error:
            if _has_code(error, DAMAGED):
                raise
            # Failing to record the use is no reason to withhold the vectors.
            log.debug("vector cache %s could not record the use of its vectors: %s", self._path, error)

    def _put(self, connection: sqlite3.Connection, vectors: Mapping[bytes, bytes]) -> None:
        hour = int(self._clock() // USE_SECONDS)
        for part in _parts(list(vectors.items())):
            connection.execute("BEGIN IMMEDIATE")
            try:
                # Before inserting, so that the new rows fill the freed pages.
                self._drop(connection, room=sum(len(vector) for _, vector in part))
                connection.executemany(
                    "INSERT INTO vectors (key, vector, used) VALUES (?, ?, ?) "
                    "ON CONFLICT (key) DO UPDATE SET vector = excluded.vector, used = excluded.used",
                    [(key, sealed(key, vector), hour) for key, vector in part],
                )
                connection.execute("COMMIT")
            except BaseException:
                # SQLite may have rolled back already, as it does when the disk is full.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _forget(self, connection: sqlite3.Connection, keys: Sequence[bytes]) -> int:
        connection.execute("PRAGMA secure_delete = ON")
        gone = 0
        for part in _parts(keys):
            gone += connection.execute(
                f"DELETE FROM vectors WHERE key IN ({_placeholders(part)})",  # noqa: S608 - only placeholders
                part,
            ).rowcount
        # The log holds the pages as they were before.
        if connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            raise Transient(f"another process reads {self._path}, so its log could not be emptied")
        return gone

    def _drop(self, connection: sqlite3.Connection, *, room: int) -> None:
        """Drop the least recently used rows until `room` more bytes fit the limit."""
        while (excess := self._used_bytes(connection) + room - self._limit) > 0:
            (rows,) = connection.execute("SELECT count(*) FROM vectors").fetchone()
            if not rows:
                return
            share = excess / self._used_bytes(connection) + DROPPED_SHARE
            connection.execute(
                "DELETE FROM vectors WHERE id IN (SELECT id FROM vectors ORDER BY used, id LIMIT ?)",
                [max(1, int(rows * share))],
            )

    def _used_bytes(self, connection: sqlite3.Connection) -> int:
        """Return the bytes of the pages in use; freed pages are reused before the file grows."""
        pages, free, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def _translate(self, error: sqlite3.Error | OSError) -> Error:
        if _has_code(error, (sqlite3.SQLITE_FULL,)):
            return OutOfSpace(f"no space left for the vector cache {self._path}; free some and run again")
        if _has_code(error, (*BUSY, sqlite3.SQLITE_IOERR)):
            return Transient(f"vector cache {self._path} could not be used ({error}); try again")
        return Misconfigured(
            f"vector cache {self._path} cannot be used ({error}); make its folder writable or choose another"
        )


def _recent(connection: sqlite3.Connection, most: int) -> dict[bytes, bytes]:
    rows = connection.execute("SELECT key, vector FROM vectors ORDER BY used DESC, id DESC LIMIT ?", (most,))
    return {key: value for key, vector in rows if (value := unsealed(key, vector)) is not None}


def damage_of(path: Path) -> str:
    """Return why the vectors in a file cannot be read; empty if they can, or if there is no file."""
    if not path.exists():
        return ""
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=PATIENCE)
        ) as file:
            # Reads the end of each tree; checking every page would take minutes.
            file.execute("SELECT max(id), max(used), max(key) FROM vectors").fetchone()
    except sqlite3.Error as error:
        return str(error) if _has_code(error, DAMAGED) else ""
    return ""


def drop_damaged(path: Path, *, dry_run: bool) -> list[int]:
    """Remove a damaged file, and one that was set aside; return their sizes in bytes."""
    aside = path.with_name(path.name + DAMAGED_SUFFIX)
    found = [each for each in (aside, path) if each.exists() and (each == aside or damage_of(each))]
    sizes = [each.stat().st_size for each in found]
    for each in () if dry_run else found:
        # The log first: an old log would be replayed into a new file.
        for suffix in ("-wal", "-shm", ""):
            each.with_name(each.name + suffix).unlink(missing_ok=True)
    return sizes


def _has_code(error: Exception, codes: Sequence[int]) -> bool:
    """Return whether SQLite reported one of these primary codes; extended codes only add detail."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF in codes


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), ROWS):
        yield items[start : start + ROWS]


def _placeholders(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))
