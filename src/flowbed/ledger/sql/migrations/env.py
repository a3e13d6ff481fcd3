"""Entry point of Alembic: run the migrations on the connection and in the transaction of `upgrade`."""

from __future__ import annotations

from alembic import context

from flowbed.ledger.sql import VERSION_TABLE
from flowbed.ledger.sql.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
)
context.run_migrations()
