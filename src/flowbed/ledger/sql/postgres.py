"""Postgres as the place of a ledger: how it is opened, what its errors mean, and what only its dialect can say."""

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

# What libpq is told unless the address says otherwise. Without keepalives, one waits for a lost server for ever.
_CONNECTION = {
    "application_name": "flowbed",
    "connect_timeout": 10,
    "keepalives_idle": 20,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 40_000,
    "client_encoding": "UTF8",
}
# What the server is told for each transaction, and not for the session: a pooler between us may share sessions out.
# No statement of ours takes a tenth of the first. A process that stops in a transaction, as a frozen Lambda does, keeps
# its locks no longer than the last says.
_LIMITS = (
    "SET LOCAL statement_timeout = '120s'; SET LOCAL lock_timeout = '30s'; "
    "SET LOCAL idle_in_transaction_session_timeout = '20s'"
)
_READ = f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {_LIMITS}"
_WRITE = f"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; {_LIMITS}"
_GIVEN = "given"  # the parameter that holds the rows of `execute_many`
_XID = "xid"  # where a connection remembers the transaction under way

# Of two advisory locks with our first number, ours are these; "flowbed" in letters of a telephone's keys.
_LOCKS_OF_OURS = 3_569_233

# 12.8 s in all: a server that was restarted is back by then, and whoever was in the way is through.
_PAUSES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
# Until the server has noticed that its client is gone, and has said so in its log of transactions.
_ASKED_FOR, _ASKED_EVERY = 45.0, 0.2  # s

_GONE = (
    "the ledger {location} cannot be reached: see that its server runs and can be reached from here, and that `ledger` "
    "names the right host and port; nothing is lost, run again"
)
_BUSY = (
    "the ledger {location} is too busy: others hold what this needs, or its server is overloaded; run again"
)
_FULL = "no room to write the ledger {location}: nothing is lost; free disk space on its server and run again"
_REFUSED = (
    "the ledger {location} does not let this in: name a database, user and password in `ledger` that it takes"
)
_NOT_ALLOWED = (
    "the ledger {location} may not be written by this user, or is a read-only copy: set `ledger` to the primary "
    "server, and a user that may make and write tables in its schema"
)
_OLD = "the ledger {location} is on too old a server: Flowbed needs Postgres 13 or later"
_BROKEN = "the ledger {location} is damaged: restore it from a backup, or have its server looked after"
_UNFIT = "the ledger {location} cannot hold a text that it was given"

# What SQLSTATEs mean to the caller, the longest beginning first. One that is missing can only be a mistake of ours.
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
    "22021": (Rejected, _UNFIT),
    "22P05": (Rejected, _UNFIT),
    "54000": (Rejected, _UNFIT),
}
# A refusal to connect comes without a SQLSTATE: libpq passes on only what the server says.
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

_AGAIN = ("40001", "40P01")  # of transactions in each other's way this one had to yield


class Postgres:
    """`Dialect` of a Postgres server, 13 or later."""

    pauses: Sequence[float] = _PAUSES
    # A heartbeat need not wait for a big write; more connections would cost the server memory, and gain little.
    writers, readers = 2, 3

    def __init__(self, url: str) -> None:
        """Take a `postgresql://` address with all that libpq understands in it.

        Raises:
            Misconfigured: it is no such address.
        """
        try:
            self._connection: dict[str, Any] = {**_CONNECTION, **conninfo_to_dict(url)}
        except psycopg.ProgrammingError as error:
            raise Misconfigured(
                "`ledger` is no address of a Postgres server; it looks like postgresql://user:password@host:5432/database"
            ) from error
        self.location = _shown(self._connection)
        self._reached = False

    def open_engine(self) -> sa.Engine:
        """Make an engine with a connection for each thread, opened when first needed."""
        engine = sa.create_engine(
            "postgresql+psycopg://",
            creator=self._connect,
            poolclass=QueuePool,
            pool_size=self.writers + self.readers,
            max_overflow=0,
            use_native_hstore=False,  # spares a question at each connection
        )
        sa.event.listen(engine, "begin", _begin)
        return engine

    def insert(self, table: sa.Table) -> Insert:
        """Begin an insert that can say what happens on a conflict."""
        return insert(table)

    def lock(self, connection: sa.Connection, what: Lock, *, shared: bool = False) -> None:
        """Let the transactions that ask for the same lock come one by one; those that share it together."""
        kind = "pg_advisory_xact_lock_shared" if shared else "pg_advisory_xact_lock"
        connection.exec_driver_sql(f"SELECT {kind}({_LOCKS_OF_OURS}, {what.value})").close()

    def execute_many(
        self,
        connection: sa.Connection,
        statement: sa.Insert | sa.Update | sa.Delete,
        rows: Sequence[Mapping[str, Any]],
    ) -> int:
        """Execute a statement for all rows of parameters, which name all but its constants, in one go.

        The rows are sent as JSON, which is written and read several times as fast as the driver writes arrays.
        """
        names = tuple(rows[0])
        kinds = tuple(type(value) for value in rows[0].values())
        sql, constants = _set_based(statement, names, kinds, connection.dialect)
        given = orjson.dumps(rows).decode()
        return connection.exec_driver_sql(sql, {**constants, _GIVEN: given}).rowcount

    def change(
        self, connection: sa.Connection, kind: type[Row], change: Change, given: Mapping[str, Any]
    ) -> list[Row]:
        """Write and read in one statement, which passes over the rows that others hold."""
        key = tuple(change.table.primary_key)
        # As a subquery the server might run it several times, and take up to its limit each time.
        taken = change.chosen.with_only_columns(*key).with_for_update(skip_locked=True).cte("chosen")
        statement = (
            sa.update(change.table)
            .where(sa.tuple_(*key).in_(sa.select(*taken.c)))
            .values(dict(change.values))
            .returning(*change.table.c)
        )
        return records(kind, connection.execute(statement, given))

    def passes(self, error: Exception) -> bool:
        """Tell whether a transaction that failed with this left no trace, and may go through at the next try."""
        if isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated:
            return True
        state = _state(error)
        if state is None and isinstance(_cause(error), psycopg.OperationalError):
            # A server that was there a moment ago is waited for; an address that never worked is not.
            return self._reached and not _refused(error)
        return state in _AGAIN or state == "57P03"

    def mark(self, connection: sa.Connection) -> str | None:
        """Name the transaction under way, so that it can be asked for when its COMMIT gets no answer."""
        marked: str | None = connection.info.get(_XID)
        return marked

    def landed(self, mark: str) -> bool:
        """Find out whether a transaction was committed: the server keeps a log of them.

        Raises:
            Transient: the server could not be asked in time, or has forgotten.
        """
        deadline = time.monotonic() + _ASKED_FOR
        answer = "no answer"
        while time.monotonic() < deadline:
            try:
                with self._connect() as connection:
                    found = connection.execute("SELECT pg_xact_status(%s::xid8)", (mark,)).fetchone()
            except psycopg.OperationalError as error:
                answer = str(error).strip()
            else:
                answer = str(found[0] if found else None)
                if answer in {"committed", "aborted"}:
                    return answer == "committed"
            time.sleep(_ASKED_EVERY)
        raise Transient(
            f"the connection to the ledger {self.location} was lost within a COMMIT, and whether it went through could"
            f" not be found out ({answer}): run again, which goes by what the ledger says then"
        )

    def translated(self, error: Exception) -> Error | None:
        """Say what a driver's error means to the caller; None where it can only be a mistake of ours."""
        state, cause = _state(error), _cause(error)
        if isinstance(cause, psycopg.DataError) and state is None:
            state = "22021"  # a NUL, which the driver finds before the server could
        if state is None and isinstance(cause, psycopg.OperationalError):
            state = "28000" if _refused(error) else "08000"
        for length in (5, 3, 2):
            if state is not None and state[:length] in _MEANINGS:
                kind, text = _MEANINGS[state[:length]]
                return kind(f"{text.format(location=self.location)} ({str(cause).strip()})")
        return None

    def _connect(self) -> psycopg.Connection[Any]:
        # Transactions are begun by `_begin`, with all that belongs to them in one message. Statements are not prepared:
        # they are few and big, and a pooler may send the next one to another session.
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
    """Rewrite a statement about one row of parameters as one about a table of them; return its constants too."""
    types = [_TYPES.get(kind, sa.String) for kind in kinds]
    columns = (sa.column(name, type_) for name, type_ in zip(names, types, strict=True))
    rows = sa.func.json_to_recordset(sa.cast(sa.bindparam(_GIVEN), sa.JSON))
    given = rows.table_valued(*columns).render_derived(with_types=True)

    def replaced(element: ClauseElement, **_: Any) -> ClauseElement | None:  # as the traversal calls it
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


def _shown(connection: Mapping[str, Any]) -> str:
    """Write an address as messages may show it: without a password."""
    user = f"{connection['user']}@" if connection.get("user") else ""
    host = connection.get("host") or connection.get("hostaddr") or ""
    port = f":{connection['port']}" if connection.get("port") else ""
    return f"postgresql://{user}{host}{port}/{connection.get('dbname', '')}"


def _cause(error: BaseException) -> BaseException | None:
    return error.orig if isinstance(error, sa.exc.DBAPIError) else error


def _state(error: BaseException) -> str | None:
    return getattr(_cause(error), "sqlstate", None)


def _refused(error: BaseException) -> bool:
    said = str(_cause(error))
    return any(words in said for words in _REFUSALS)
