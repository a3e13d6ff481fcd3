"""The database of DBOS: calls that wait for it off the event loop, and what is said while it is away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import TYPE_CHECKING, TypeVar, cast

import dbos

from flowbed.errors import Error, Transient
from flowbed.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Callable

    Trouble = Callable[[object], None]

Value = TypeVar("Value")


async def call(work: Callable[[], Value]) -> Value:
    """Call DBOS in a thread; while its database cannot be reached, most of its calls wait for it.

    Raises:
        Transient: the database cannot be reached.
    """
    try:
        return await asyncio.to_thread(work)
    except Error:
        raise
    except (OSError, RuntimeError, dbos.error.DBOSException) as error:
        raise Transient(f"the tasks of the workers cannot be read or written: {error}") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in {"sqlalchemy", "psycopg", "sqlite3"}:
            raise
        raise Transient(f"the database of the workers' tasks cannot be reached: {error}") from error


def call_aside(work: Callable[[], Value]) -> asyncio.Future[Value]:
    """Call `work` in a thread that the end of the process does not wait for."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Value] = loop.create_future()

    def settle(value: Value | None, error: BaseException | None) -> None:
        if not done.done():
            done.set_exception(error) if error is not None else done.set_result(cast("Value", value))

    def run() -> None:
        value, error = None, None
        try:
            value = work()
        except BaseException as raised:  # noqa: BLE001 - it is raised in the loop
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=run, name="engine-close", daemon=True).start()
    return done


class Forward(logging.Handler):
    """Passes on what DBOS logs: trouble with its database once, as the trouble of the worker."""

    def __init__(self, trouble: Trouble) -> None:
        """Pass trouble on to `trouble`."""
        super().__init__(logging.WARNING)
        self._trouble = trouble

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record, or report the database."""
        message = record.getMessage().partition("\n")[0]
        if any(word in message for word in ("connection", "database", "Exception", "OperationalError")):
            self._trouble(message)
        else:
            log.warning("tasks: %s", message)


def log_trouble(reason: object) -> None:
    """Log that the database is away."""
    log.warning("tasks: %s", reason)
