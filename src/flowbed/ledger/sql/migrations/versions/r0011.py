"""The model and the collection that an index job writes into, where it embeds a collection with another model."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    """Add the columns; no job has had another model."""
    for name in ("model", "target"):
        op.add_column("index_jobs", sa.Column(name, TEXT, nullable=False, server_default=""))
