"""Submissions, spending, and the files and jobs of the server."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")
CARRIED = "status = 'PENDING' AND run = '' AND submission != ''"


def upgrade() -> None:
    """Make their tables, and let the chunks of a submission be found by it and by their texts."""
    op.add_column("runs", sa.Column("planned", sa.BigInteger, nullable=False, server_default="0"))
    where = sa.text(CARRIED)
    for name, columns in (
        ("chunks_submitted", ["submission", "batch"]),
        ("chunks_carried", [sa.text("substr(text_hash, 1, 8)")]),
    ):
        op.create_index(name, "chunks", columns, sqlite_where=where, postgresql_where=where)
    _submissions()
    _spending()
    _files()
    _jobs()


def _submissions() -> None:
    op.create_table(
        "submissions",
        sa.Column("id", TEXT, primary_key=True, nullable=False),
        *_texts("space", "account", "key", "state", "worker", "job", "error"),
        *_numbers("bytes", "tokens", "created", "until", "later", "submitted", "deadline", "billed", "ended"),
        *_counts("texts", "chunks", "done", "failed"),
        sa.Column("cost_usd", sa.Float, nullable=False),
        sa.Column("cancel", sa.Boolean, nullable=False),
    )
    op.create_index("submissions_by_age", "submissions", ["ended", "created", "id"])


def _spending() -> None:
    op.create_table(
        "spending",
        *_texts("run", "source", "document", "lane"),
        *_counts("texts"),
        *_numbers("planned", "billed", "at"),
        sa.Column("cost_usd", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("run", "source", "document"),
    )
    op.create_index("spending_by_time", "spending", ["at"])


def _files() -> None:
    op.create_table(
        "files",
        sa.Column("id", TEXT, primary_key=True, nullable=False),
        *_texts("owner", "purpose", "filename", "key"),
        *_numbers("bytes", "created", "expires"),
    )
    op.create_index("files_of_owner", "files", ["owner", "created", "id"])
    op.create_index("files_by_expiry", "files", ["expires"])


def _jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", TEXT, primary_key=True, nullable=False),
        *_texts("owner", "tier", "input", "endpoint", "window", "model", "metadata", "state", "worker"),
        *_texts("output", "errors", "faults", "stamps"),
        *_numbers("created", "expires", "keep", "tokens", "queued", "until", "ended"),
        *_counts("total", "completed", "failed", "line"),
        sa.Column("cancel", sa.Boolean, nullable=False),
    )
    op.create_index("jobs_of_owner", "jobs", ["owner", "created", "id"])
    op.create_index("jobs_by_age", "jobs", ["ended", "created", "id"])


def _texts(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, TEXT, nullable=False) for name in names]


def _numbers(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger, nullable=False) for name in names]


def _counts(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.Integer, nullable=False) for name in names]
