"""No index of the texts that submissions carry: writing it took as long as all else that a claim writes."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Drop it."""
    op.drop_index("chunks_carried", "chunks")
