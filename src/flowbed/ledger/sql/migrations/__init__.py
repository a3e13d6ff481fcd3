"""Migrations of the ledger's schema: one file in `versions` per revision, applied when a ledger is opened."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from flowbed.errors import Misconfigured
from flowbed.ledger.sql import HEAD, VERSION_TABLE
from flowbed.ledger.sql.schema import facts

_ID = "id"
SCRIPTS = Path(__file__).parent


def current(connection: sa.Connection) -> str | None:
    """Return the ledger's id if its schema is the newest, else None: call `upgrade`."""
    return _id(connection) if _revision(connection) == HEAD else None


def upgrade(connection: sa.Connection, location: str, new_id: str) -> str:
    """Upgrade the schema to the newest revision within the current transaction, and return the ledger's id.

    Raises:
        Misconfigured: the database belongs to another program or to a newer Flowbed.
    """
    revision = _revision(connection)  # read again: the schema lock is ours only now
    if revision == HEAD:
        return _id(connection)
    if revision is None and sa.inspect(connection).get_table_names():
        raise Misconfigured(f"{location} is a database of another program: set `ledger` to another path")

    from alembic import command  # takes half a second to import: only when there is something to migrate
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if revision is not None and revision not in known:
        raise Misconfigured(
            f"the ledger {location} has schema {revision}, made by a newer Flowbed; this one knows up to {HEAD}: "
            "upgrade Flowbed, or set `ledger` to another path"
        )
    config.attributes["connection"] = connection
    command.upgrade(config, HEAD)
    if revision is None:
        connection.execute(sa.insert(facts).values(name=_ID, value=new_id))
    return _id(connection)


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    table = sa.table(VERSION_TABLE, sa.column("version_num", sa.String))
    return connection.execute(sa.select(table.c.version_num)).scalar_one_or_none()


def _id(connection: sa.Connection) -> str:
    return str(connection.execute(sa.select(facts.c.value).where(facts.c.name == _ID)).scalar_one())
