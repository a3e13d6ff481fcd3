"""The embeddings that each key has taken of a day's quota."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; nobody has taken any."""
    op.add_column("quotas", sa.Column("embeddings", sa.BigInteger, nullable=False, server_default="0"))
