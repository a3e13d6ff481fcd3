"""API keys, and what each has used on each day."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    """Make the tables of keys and quotas."""
    op.create_table(
        "keys",
        sa.Column("id", TEXT, primary_key=True, nullable=False),
        *(sa.Column(name, TEXT, nullable=False) for name in ("name", "prefix", "hash", "tier", "models")),
        sa.Column("admin", sa.Boolean, nullable=False),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("created", "revoked", "used")),
    )
    op.create_index("keys_by_hash", "keys", ["hash"], unique=True)
    op.create_table(
        "quotas",
        sa.Column("day", TEXT, nullable=False),
        sa.Column("key", TEXT, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("day", "key"),
    )
