"""SQLite files that several processes open at once."""

from __future__ import annotations

import sqlite3
import time

_PAUSE = 0.02  # s


def use_write_ahead_log(connection: sqlite3.Connection, *, patience: float, log_bytes: int) -> None:
    """Turn on the write-ahead log, so that readers and a writer do not block each other.

    `log_bytes` is the size to which the log shrinks after a burst of writes.

    Raises:
        sqlite3.OperationalError: the file stayed busy for `patience` seconds.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
        except sqlite3.OperationalError as error:
            # SQLite gives up at once, without waiting, if two connections switch a new file at the same time.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE)
        else:
            connection.execute(f"PRAGMA journal_size_limit={log_bytes}").close()
            return
