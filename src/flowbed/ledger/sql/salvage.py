"""A damaged ledger in a SQLite file: finds the damage, and saves what can still be read."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections import deque
from typing import TYPE_CHECKING, Any

from flowbed.errors import Damaged, Misconfigured
from flowbed.ledger.sql import HEAD, VERSION_TABLE
from flowbed.records import Status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# All files of one database: the log belongs to its file, and neither is whole without the other.
SUFFIXES = ("", "-wal", "-shm", "-journal")
# A check of a ledger of a million chunks (half a gigabyte) takes about 10 s; a larger one is only checked by a repair.
CHECKED_BYTES = 2**29
HEADER = b"SQLite format 3\0"
# Rows that a run writes again: one with a wrong value is left out. In other tables the wrong characters are replaced.
DERIVED = ("documents", "chunks")
NOT_UTF8 = "Could not decode to UTF-8"
STATUSES = frozenset(each.value.encode() for each in Status)
_BUSY_SECONDS = 30.0


def damage_of(file: Path, *, most_bytes: int = CHECKED_BYTES) -> str:
    """Return what is damaged in a ledger's file; an empty text for a healthy, missing, busy or too large one."""
    try:
        if not file.is_file() or file.stat().st_size > most_bytes:
            return ""
        with contextlib.closing(_connect(file)) as database:
            return _damage_in(database)
    except sqlite3.Error as error:
        return str(error) if _proves_damage(error) else ""
    except UnicodeDecodeError:  # values that are not UTF-8 raise errors of SQLite
        return "the name of a column is not UTF-8"
    except OSError:
        return ""


def _damage_in(database: sqlite3.Connection) -> str:
    (answer,) = database.execute("PRAGMA integrity_check(1)").fetchone()
    if answer != "ok":
        return " ".join(str(answer).split())
    for table in _tables(database):
        # The driver decodes every text, and fails at one that is not UTF-8.
        deque(database.execute(f"SELECT * FROM {table}"), maxlen=0)  # noqa: S608 - a name of the schema
    if '"chunks"' in _tables(database):
        for (status,) in database.execute("SELECT DISTINCT status FROM chunks"):
            if str(status).encode() not in STATUSES:
                return f"a chunk has status {status!r}"
    return _damage_in_schema(database)


def _damage_in_schema(database: sqlite3.Connection) -> str:
    """Return which table has other columns than its revision says: a bit of the schema's text was flipped."""
    if _revision(database) != HEAD:
        return ""
    from flowbed.ledger.sql.migrations import schema_statements  # loads SQLAlchemy

    with contextlib.closing(sqlite3.connect(":memory:")) as whole:
        for statement in schema_statements():
            whole.execute(statement)
        for table in _tables(whole):
            missing = set(_columns(whole, table)) - set(_columns(database, table))
            if missing:
                return f"table {table} has no column {min(missing)}"
    return ""


def _columns(database: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in database.execute(f"PRAGMA table_info({table})")]


def _proves_damage(error: sqlite3.Error) -> bool:
    """Return whether SQLite has found wrong bytes; a file that is busy, locked or denied is not damaged."""
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    return code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB} or NOT_UTF8 in str(error)


def salvage(file: Path, *, own: bool, new_id: str) -> str:
    """Replace a damaged ledger by one with all rows that can be read; return what was done, or an empty text.

    The damaged files stay, together, in a folder beside it. `own` says that the file is in a folder of Flowbed's, so
    that even one that is no database may be moved.

    Raises:
        Damaged: it is no database, and not `own`.
        Misconfigured: its folder cannot be written.
    """
    damage = damage_of(file, most_bytes=2**63)
    if not damage:
        return ""
    try:
        with file.open("rb") as opened:
            is_database = opened.read(len(HEADER)) == HEADER
        if not is_database and not own:
            raise Damaged(
                f"{file} is not a ledger and is left alone: set `ledger` to another path, or move the file away"
            )
        saved = _copy(file, new_id)
        aside = _move(file)
    except OSError as error:
        raise Misconfigured(
            f"the damaged ledger {file} cannot be replaced ({error.strerror}): make its folder writable"
        ) from error
    return (
        f"the ledger was damaged ({damage}): {saved:,} rows of it could be read and are in a new one; its files are in"
        f" {aside}"
    )


def _connect(file: Path, mode: str = "ro") -> sqlite3.Connection:
    # Read-only, a connection leaves the log as it is, damaged or not.
    uri = f"{file.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)


def _tables(database: sqlite3.Connection) -> list[str]:
    """Return the names of all tables, quoted."""
    names = database.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    )
    return ['"' + name.replace('"', '""') + '"' for (name,) in names.fetchall()]


def _copy(file: Path, new_id: str) -> int:
    """Copy the readable rows of a damaged ledger into a new file beside it; return how many."""
    from flowbed.ledger.sql.migrations import schema_statements  # loads SQLAlchemy

    draft = _draft(file)
    for suffix in SUFFIXES:
        draft.with_name(draft.name + suffix).unlink(missing_ok=True)
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    saved = 0
    with contextlib.closing(_connect(draft, "rw")) as new, contextlib.closing(_connect(file)) as old:
        old.text_factory = bytes
        new.execute("BEGIN")
        for statement in schema_statements():
            new.execute(statement)
        if _revision(old) == HEAD:  # an older one has other columns
            for table in _tables(new):
                saved += _copy_table(table, old, new) if table != f'"{VERSION_TABLE}"' else 0
        # Chunks of unchanged documents may be among what was lost: let the next run read every document again.
        new.execute("UPDATE documents SET etag = '', hash = ''")
        new.execute("UPDATE cursors SET value = '', token = token + 1")
        new.execute("INSERT OR IGNORE INTO facts (name, value) VALUES ('id', ?)", (new_id,))
        new.execute("COMMIT")
    return saved


def _draft(file: Path) -> Path:
    return file.with_name(f"{file.name}.salvaged")


def _revision(old: sqlite3.Connection) -> str:
    found = next(_readable(old, f"SELECT version_num FROM {VERSION_TABLE}"), (b"",))  # noqa: S608
    version = found[0]  # bytes while a damaged ledger is copied
    return version.decode(errors="replace") if isinstance(version, bytes) else str(version)


def _copy_table(table: str, old: sqlite3.Connection, new: sqlite3.Connection) -> int:
    described = new.execute(f"PRAGMA table_info({table})").fetchall()
    columns = [row[1] for row in described]
    key = ", ".join(
        f"c{place} {{way}}" for _, place in sorted((row[5], row[0]) for row in described if row[5])
    )
    insert = f"INSERT OR IGNORE INTO {table} VALUES ({', '.join('?' * len(columns))})"  # noqa: S608
    # By their places, since the name of one may be damaged, and under other names, since it may not be UTF-8.
    wanted = "*" if len(_columns(old, table)) == len(columns) else ", ".join(columns)
    names = ", ".join(f"c{place}" for place in range(len(columns)))
    found = f"WITH found({names}) AS (SELECT {wanted} FROM {table}) SELECT * FROM found"  # noqa: S608
    before = new.total_changes
    # From the front, and from the end where a page in between cannot be read.
    orders = ("", *(f"ORDER BY {key.format(way=way)}" for way in ("ASC", "DESC")))
    for order in orders:
        for row in _readable(old, f"{found} {order}"):
            if (values := _usable(table.strip('"'), dict(zip(columns, row, strict=True)))) is not None:
                with contextlib.suppress(sqlite3.IntegrityError):  # a value that its column does not take
                    new.execute(insert, values)
    return new.total_changes - before


def _usable(table: str, row: dict[str, Any]) -> list[Any] | None:
    """Return the values of a row with their texts decoded; None for one that a run should write again."""
    if table == "chunks" and row["status"] not in STATUSES:
        return None
    try:
        return [value.decode() if isinstance(value, bytes) else value for value in row.values()]
    except UnicodeDecodeError:
        if table in DERIVED:
            return None
    return [value.decode(errors="replace") if isinstance(value, bytes) else value for value in row.values()]


def _readable(old: sqlite3.Connection, query: str) -> Iterator[tuple[Any, ...]]:
    """Yield rows until one cannot be read."""
    with contextlib.suppress(sqlite3.Error):
        yield from old.execute(query)


def _move(file: Path) -> Path:
    """Move all files of a database into a new folder beside it, and its draft into its place."""
    aside, number = file.with_name(f"{file.name}.damaged"), 1
    while aside.exists():
        number += 1
        aside = file.with_name(f"{file.name}.damaged-{number}")
    aside.mkdir(mode=0o700)
    # The log first: SQLite would replay it into the new file.
    for suffix in reversed(SUFFIXES):
        each = file.with_name(file.name + suffix)
        if each.exists():
            each.rename(aside / each.name)
    _draft(file).rename(file)
    return aside
