"""The dialect of Postgres: how to open it, what its errors mean, and its own SQL."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import orjson
import psycopg
import sqlalchemy as sa
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.pool import QueuePool
from sqlalchemy.sql.visitors import replacement_traverse

from flowbed.errors import Error, Misconfigured, OutOfSpace, Rejected, Transient
from flowbed.ledger.sql.database import WRITING, records

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.sql.elements import ClauseElement

    from flowbed.ledger.sql.database import Change, Lock, Row

# Defaults for libpq. Without keepalives, a client waits for a lost server for ever.
_CONNECTION = {
    "application_name": "flowbed",
    "connect_timeout": 10,
    "keepalives_idle": 20,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 40_000,
    "client_encoding": "UTF8",
}
# Set per transaction, not per session, since a pooler may share sessions. No statement of ours takes a tenth of the
# first limit. The last one frees the locks of a process that stops inside a transaction, such as a frozen Lambda.
_LIMITS = (
    "SET LOCAL statement_timeout = '120s'; SET LOCAL lock_timeout = '30s'; "
    "SET LOCAL idle_in_transaction_session_timeout = '20s'"
)
_READ = f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {_LIMITS}"
_WRITE = f"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; {_LIMITS}"
_GIVEN = "given"  # the parameter with the rows of `execute_many`
_XID = "xid"  # where a connection keeps the id of its transaction

# The first of the two numbers of our advisory locks: "flowbed" on a telephone's keypad.
_LOCK_NAMESPACE = 3_569_233

# 12.8 s in all: enough for a restart of the server, or for a conflicting transaction to end.
_PAUSES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
# How long to ask for a transaction's outcome: until the server noticed that its client is gone, and logged the outcome.
_OUTCOME_PATIENCE, _OUTCOME_PAUSE = 45.0, 0.2  # s

_GONE = (
    "the ledger {location} cannot be reached: check that its server runs, that this machine can reach it, and that "
    "`ledger` has the right host and port; nothing is lost, run again"
)
_BUSY = "the ledger {location} is too busy: other processes hold its locks, or its server is overloaded; run again"
_FULL = "no room to write the ledger {location}: nothing is lost; free disk space on its server and run again"
_REFUSED = "the ledger {location} refused the connection: set `ledger` to a database, user and password that it accepts"
_NOT_ALLOWED = (
    "this user may not write to the ledger {location}, or it is a read-only replica: set `ledger` to the primary "
    "server, and to a user that may create and write tables in its schema"
)
_OLD = "the server of the ledger {location} is too old: Flowbed needs Postgres 13 or later"
_BROKEN = (
    "the ledger {location} is damaged: restore it from a backup, or have its administrator check the server"
)
_UNSTORABLE = "the ledger {location} cannot store a text it was given"

# What a SQLSTATE means to the caller; the longest matching prefix counts. Any other is a bug of ours.
_MEANINGS: Mapping[str, tuple[type[Error], str]] = {
    "08": (Transient, _GONE),
    "57P": (Transient, _GONE),
    "25P03": (Transient, _GONE),
    "25P04": (Transient, _GONE),
    "40": (Transient, _BUSY),
    "55P03": (Transient, _BUSY),
    "57014": (Transient, _BUSY),
    "53": (Transient, _BUSY),
    "53100": (OutOfSpace, _FULL),
    "28": (Misconfigured, _REFUSED),
    "3D000": (Misconfigured, _REFUSED),
    "3F000": (Misconfigured, _NOT_ALLOWED),
    "42501": (Misconfigured, _NOT_ALLOWED),
    "25006": (Misconfigured, _NOT_ALLOWED),
    "42883": (Misconfigured, _OLD),
    "XX001": (Misconfigured, _BROKEN),
    "XX002": (Misconfigured, _BROKEN),
    "58": (Misconfigured, _BROKEN),
    "22021": (Rejected, _UNSTORABLE),
    "22P05": (Rejected, _UNSTORABLE),
    "54000": (Rejected, _UNSTORABLE),
}
# Refused connections have no SQLSTATE: libpq only passes on the server's text.
_REFUSALS = (
    "authentication failed",
    "no password supplied",
    "does not exist",
    "no pg_hba.conf entry",
    "permission denied",
    "certificate",
    "is not permitted to log in",
)
_TYPES: Mapping[type, type[sa.types.TypeEngine[Any]]] = {
    bool: sa.Boolean,
    int: sa.BigInteger,
    float: sa.Float,
}

_CONFLICTS = ("40001", "40P01")  # serialization failure and deadlock


class Postgres:
    """`Dialect` of a Postgres server, 13 or later."""

    pauses: Sequence[float] = _PAUSES

    def __init__(self, url: str, *, connections: int = 5) -> None:
        """Take a `postgresql://` URL with any libpq options, and how many connections there may be, at least 3.

        Raises:
            Misconfigured: the URL is invalid.
        """
        try:
            self._connection: dict[str, Any] = {**_CONNECTION, **conninfo_to_dict(url)}
        except psycopg.ProgrammingError as error:
            raise Misconfigured(
                "`ledger` is not a valid Postgres URL; one looks like postgresql://user:password@host:5432/database"
            ) from error
        self.location = _redacted(self._connection)
        self._reached = False
        # A heartbeat must not wait for a large write.
        self.writers = max(2, connections * 2 // 5)
        self.readers = connections - self.writers

    def open_engine(self) -> sa.Engine:
        """Create an engine with one connection per thread, opened on first use."""
        engine = sa.create_engine(
            "postgresql+psycopg://",
            creator=self._connect,
            poolclass=QueuePool,
            pool_size=self.writers + self.readers,
            max_overflow=0,
            use_native_hstore=False,  # saves a query per connection
        )
        sa.event.listen(engine, "begin", _begin)
        return engine

    def insert(self, table: sa.Table) -> Insert:
        """Start an insert that supports conflict clauses."""
        return insert(table)

    def scrub(self) -> str:
        """Leave it to the server's administrator: rewriting a table locks out everyone meanwhile."""
        return (
            f"Postgres ({self.location}) keeps removed rows in its files until `VACUUM FULL chunks, documents,"
            " spending, dead_letters, cursors`, and in its write-ahead log, replicas and backups"
        )

    def lock(self, connection: sa.Connection, what: Lock, *, shared: bool = False) -> None:
        """Wait for an advisory lock, until the transaction ends; shared locks exclude only exclusive ones."""
        kind = "pg_advisory_xact_lock_shared" if shared else "pg_advisory_xact_lock"
        connection.exec_driver_sql(f"SELECT {kind}({_LOCK_NAMESPACE}, {what.value})").close()

    def execute_many(
        self,
        connection: sa.Connection,
        statement: sa.Insert | sa.Update | sa.Delete,
        rows: Sequence[Mapping[str, Any]],
    ) -> int:
        """Execute a statement once for all rows of parameters; return how many rows changed.

        Each row names all parameters but the statement's constants. Rows are sent as JSON, which is several times as
        fast as the driver's arrays.
        """
        names = tuple(rows[0])
        kinds = tuple(type(value) for value in rows[0].values())
        sql, constants = _set_based(statement, names, kinds, connection.dialect)
        given = orjson.dumps(rows).decode()
        return connection.exec_driver_sql(sql, {**constants, _GIVEN: given}).rowcount

    def change(
        self, connection: sa.Connection, kind: type[Row], change: Change, given: Mapping[str, Any]
    ) -> list[Row]:
        """Update and return the rows in one statement, which skips locked rows."""
        key = tuple(change.table.primary_key)
        # A CTE, since the server might run a subquery several times, and take up to its limit each time.
        taken = change.chosen.with_only_columns(*key).with_for_update(skip_locked=True).cte("chosen")
        statement = (
            sa.update(change.table)
            .where(sa.tuple_(*key).in_(sa.select(*taken.c)))
            .values(dict(change.values))
            .returning(*change.table.c)
        )
        return records(kind, connection.execute(statement, given))

    def is_retryable(self, error: Exception) -> bool:
        """Return whether a failed transaction left no trace, and may succeed if it is run again."""
        if isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated:
            return True
        state = _state(error)
        if state is None and isinstance(_cause(error), psycopg.OperationalError):
            # Wait for a server that was reachable before, but not for an address that never worked.
            return self._reached and not _refused(error)
        return state in _CONFLICTS or state == "57P03"

    def transaction_id(self, connection: sa.Connection) -> str | None:
        """Return the id of the current transaction, to ask for its outcome if COMMIT gets no answer."""
        transaction_id: str | None = connection.info.get(_XID)
        return transaction_id

    def was_committed(self, transaction_id: str) -> bool:
        """Return whether a transaction was committed, according to the server's transaction log.

        Raises:
            Transient: the server did not answer in time, or no longer knows.
        """
        deadline = time.monotonic() + _OUTCOME_PATIENCE
        answer = "no answer"
        while time.monotonic() < deadline:
            try:
                with self._connect() as connection:
                    found = connection.execute(
                        "SELECT pg_xact_status(%s::xid8)", (transaction_id,)
                    ).fetchone()
            except psycopg.OperationalError as error:
                answer = str(error).strip()
            else:
                answer = str(found[0] if found else None)
                if answer in {"committed", "aborted"}:
                    return answer == "committed"
            time.sleep(_OUTCOME_PAUSE)
        raise Transient(
            f"the connection to the ledger {self.location} was lost during a COMMIT, and its outcome could not be found"
            f" out ({answer}): run again, which continues from what the ledger says then"
        )

    def translate(self, error: Exception) -> Error | None:
        """Translate a driver's error; None means a bug of ours."""
        state, cause = _state(error), _cause(error)
        if isinstance(cause, psycopg.DataError) and state is None:
            state = "22021"  # a NUL, which the driver rejects before the server sees it
        if state is None and isinstance(cause, psycopg.OperationalError):
            state = "28000" if _refused(error) else "08000"
        for length in (5, 3, 2):
            if state is not None and state[:length] in _MEANINGS:
                kind, text = _MEANINGS[state[:length]]
                return kind(f"{text.format(location=self.location)} ({str(cause).strip()})")
        return None

    def _connect(self) -> psycopg.Connection[Any]:
        # `_begin` starts transactions, with all their settings in one message. Statements are not prepared: they are
        # few and large, and a pooler may send the next one to another session.
        connection = psycopg.connect(**self._connection, autocommit=True, prepare_threshold=None)
        self._reached = True
        return connection


@lru_cache(maxsize=64)
def _set_based(
    statement: sa.Insert | sa.Update | sa.Delete,
    names: tuple[str, ...],
    kinds: tuple[type, ...],
    dialect: sa.Dialect,
) -> tuple[str, Mapping[str, Any]]:
    """Rewrite a statement for one row of parameters into one for a table of rows; return its constants too."""
    types = [_TYPES.get(kind, sa.String) for kind in kinds]
    columns = (sa.column(name, type_) for name, type_ in zip(names, types, strict=True))
    rows = sa.func.json_to_recordset(sa.cast(sa.bindparam(_GIVEN), sa.JSON))
    given = rows.table_valued(*columns).render_derived(with_types=True)

    def replaced(element: ClauseElement, **_: Any) -> ClauseElement | None:  # SQLAlchemy's signature
        return (
            given.c[element.key] if isinstance(element, sa.BindParameter) and element.key in names else None
        )

    several: Any
    if isinstance(statement, sa.Insert):
        several = statement.from_select(list(names), sa.select(*given.c))
    else:
        several = replacement_traverse(statement, {}, replaced)
    compiled = several.compile(dialect=dialect)
    return str(compiled), compiled.params


def _begin(connection: sa.Connection) -> None:
    if connection.get_execution_options().get(WRITING):
        connection.exec_driver_sql(_WRITE).close()
        connection.info[_XID] = connection.exec_driver_sql("SELECT pg_current_xact_id()::text").scalar_one()
    else:
        connection.exec_driver_sql(_READ).close()


def _redacted(connection: Mapping[str, Any]) -> str:
    """Format the address for messages, without the password."""
    user = f"{connection['user']}@" if connection.get("user") else ""
    host = connection.get("host") or connection.get("hostaddr") or ""
    port = f":{connection['port']}" if connection.get("port") else ""
    return f"postgresql://{user}{host}{port}/{connection.get('dbname', '')}"


def _cause(error: BaseException) -> BaseException | None:
    return error.orig if isinstance(error, sa.exc.DBAPIError) else error


def _state(error: BaseException) -> str | None:
    return getattr(_cause(error), "sqlstate", None)


def _refused(error: BaseException) -> bool:
    text = str(_cause(error))
    return any(words in text for words in _REFUSALS)
