"""Rollbacks: what of each collection was put back, and by which version."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    """Make the table of rollbacks, and let reverted chunks be found by their run."""
    op.create_table(
        "rollbacks",
        sa.Column("collection", TEXT, nullable=False),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("version", "target", "at")),
        *(sa.Column(name, sa.Integer, nullable=False) for name in ("runs", "chunks")),
        sa.PrimaryKeyConstraint("collection", "version"),
    )
    where = sa.text("status = 'REVERTED'")
    op.create_index("chunks_reverted", "chunks", ["run"], sqlite_where=where, postgresql_where=where)
