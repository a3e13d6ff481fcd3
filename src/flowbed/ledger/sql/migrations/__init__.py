"""Migrations of the ledger's schema: one file in `versions` per revision, applied when a ledger is opened."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite.base import SQLiteDialect

from flowbed.errors import Damaged, Misconfigured, Newer
from flowbed.ledger.sql import HEAD, VERSION_TABLE
from flowbed.ledger.sql.schema import facts, metadata

if TYPE_CHECKING:
    from collections.abc import Sequence

_ID = "id"
SCRIPTS = Path(__file__).parent


def current(connection: sa.Connection) -> str | None:
    """Return the ledger's id if its schema is the newest, else None: call `upgrade`."""
    return _id(connection) if _revision(connection) == HEAD else None


def upgrade(connection: sa.Connection, location: str, new_id: str) -> str:
    """Upgrade the schema to the newest revision within the current transaction, and return the ledger's id.

    Raises:
        Misconfigured: the database belongs to another program.
        Newer: it belongs to a newer Flowbed.
    """
    revision = _revision(connection)  # read again: the schema lock is ours only now
    if revision == HEAD:
        return _id(connection)
    if revision is None and sa.inspect(connection).get_table_names():
        raise Misconfigured(f"{location} is a database of another program: set `ledger` to another path")
    if revision is None and connection.dialect.name == "sqlite":
        _create(connection)
    else:
        migrate(connection, location, revision)
    if revision is None:
        connection.execute(sa.insert(facts).values(name=_ID, value=new_id))
    return _id(connection)


def _create(connection: sa.Connection) -> None:
    """Create the newest schema at once: Alembic takes half a second to load. A test compares it to the migrations.

    Only on SQLite: the conditions of Postgres's indexes are only in the migrations.
    """
    for statement in schema_statements():
        connection.exec_driver_sql(statement)


@cache
def schema_statements() -> Sequence[str]:
    """Return the statements that create the newest schema in SQLite; compiling them takes 20 ms."""
    statements: list[str] = []
    engine = sa.create_mock_engine(
        "sqlite://", lambda ddl, *_: statements.append(str(ddl.compile(dialect=SQLiteDialect())))
    )
    metadata.create_all(engine, checkfirst=False)
    versions = sa.Table(
        VERSION_TABLE,
        sa.MetaData(),
        sa.Column("version_num", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("version_num", name=f"{VERSION_TABLE}_pkc"),  # Alembic's name
    )
    versions.create(engine, checkfirst=False)
    return (*statements, f"INSERT INTO {VERSION_TABLE} VALUES ('{HEAD}')")  # noqa: S608 - both are constants


def migrate(connection: sa.Connection, location: str, revision: str | None) -> None:
    """Apply every migration after `revision` (None: all of them) within the current transaction.

    Raises:
        Newer: the revision is one of a newer Flowbed.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if revision is not None and revision not in known:
        raise Newer(
            f"the ledger {location} has schema {revision}, made by a newer Flowbed; this one knows up to {HEAD}: "
            "upgrade Flowbed, or set `ledger` to another path"
        )
    config.attributes["connection"] = connection
    command.upgrade(config, HEAD)


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    table = sa.table(VERSION_TABLE, sa.column("version_num", sa.String))
    return connection.execute(sa.select(table.c.version_num)).scalar_one_or_none()


def _id(connection: sa.Connection) -> str:
    found = connection.execute(sa.select(facts.c.value).where(facts.c.name == _ID)).scalar_one_or_none()
    if found is None:
        raise Damaged(
            "the ledger has lost its id: restore it from a backup, or run `flowbed verify --repair`, which gives it a"
            " new one"
        )
    return str(found)
