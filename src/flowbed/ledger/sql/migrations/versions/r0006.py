"""The batch files in the order in which they were recorded, for those who follow them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    """Create the table; batch files recorded before are not in it."""
    op.create_table(
        "batch_events",
        sa.Column("source", TEXT, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("batch", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("source", "position", "batch"),
    )
