"""The workers of a project, and marks that they share."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "workers",
        sa.Column("id", TEXT, primary_key=True),
        sa.Column("host", TEXT, nullable=False),
        sa.Column("pid", sa.BigInteger, nullable=False),
        *(sa.Column(name, TEXT, nullable=False) for name in ("version", "queues", "running", "state")),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("started", "beat")),
        sa.Column("reaper", TEXT, nullable=False),
    )
    op.create_table(
        "worker_marks",
        *(sa.Column(name, TEXT, nullable=False) for name in ("kind", "name")),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("kind", "name"),
    )
