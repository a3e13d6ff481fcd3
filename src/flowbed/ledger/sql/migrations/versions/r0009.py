"""Index jobs, their events, and how much of the workers each owner has had."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "index_jobs",
        sa.Column("id", TEXT, primary_key=True),
        *(sa.Column(name, TEXT, nullable=False) for name in ("owner", "tier", "collection", "kind")),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("created", "key")),
        sa.Column("fingerprint", TEXT, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("cost", sa.BigInteger, nullable=False),
        sa.Column("idempotency", TEXT),
        *(sa.Column(name, TEXT, nullable=False) for name in ("chunking", "metadata", "state", "stage")),
        *(
            sa.Column(name, sa.BigInteger, nullable=False)
            for name in ("documents", "chunks", "embedded", "cached", "stored", "failed", "skipped", "tokens")
        ),
        *(sa.Column(name, sa.Float, nullable=False) for name in ("estimated_usd", "billed_usd")),
        *(
            sa.Column(name, TEXT, nullable=False)
            for name in ("batches", "faults", "stamps", "error", "reason")
        ),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("due", "attempts")),
        sa.Column("cancel", TEXT, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("worker", TEXT, nullable=False),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("until", "ended")),
    )
    op.create_index("index_jobs_of_owner", "index_jobs", ["owner", "created", "id"])
    op.create_index("index_jobs_waiting", "index_jobs", ["owner", "ended", "key", "id"])
    op.create_index("index_jobs_by_end", "index_jobs", ["ended", "collection"])
    op.create_index("index_jobs_by_idempotency", "index_jobs", ["owner", "idempotency"], unique=True)
    op.create_table(
        "index_job_events",
        sa.Column("job", TEXT, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("type", TEXT, nullable=False),
        sa.Column("data", TEXT, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("job", "seq"),
    )
    op.create_table(
        "index_job_owners",
        sa.Column("owner", TEXT, primary_key=True),
        sa.Column("start", sa.BigInteger, nullable=False),
        sa.Column("finish", sa.BigInteger, nullable=False),
    )
