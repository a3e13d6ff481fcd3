"""The schema, spelled out rather than taken from `schema`: a released revision never changes.

It has the number of the last of the revisions that it replaces, so that ledgers of that revision open.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = None
branch_labels = None
depends_on = None

TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    """Create every table."""
    _sources()
    _chunks()
    _runs()
    _submissions()
    _server()


def _sources() -> None:
    op.create_table("facts", _key("name"), *_texts("value"))
    op.create_table("cursors", _key("source"), *_texts("value"), *_numbers("token"))
    op.create_table(
        "documents",
        *_texts("source", "id", "etag", "hash"),
        *_counts("chunks"),
        *_numbers("generation"),
        sa.PrimaryKeyConstraint("source", "id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "batches", _key("id"), *_texts("source", "key"), *_numbers("timestamp"), *_counts("chunks")
    )


def _chunks() -> None:
    op.create_table(
        "chunks",
        *_texts("collection", "id", "source", "document"),
        *_counts("ordinal", "tokens"),
        *_texts("text_hash", "row_hash"),
        *_numbers("version"),
        *_texts("batch"),
        sa.Column("deleted", sa.Boolean, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        *_texts("worker"),
        *_numbers("until"),
        *_texts("run", "submission"),
        *_counts("attempts"),
        *_texts("failure", "error"),
        sa.PrimaryKeyConstraint("id", "collection"),
    )
    op.create_index("chunks_of_document", "chunks", ["document", "source"])
    # Claims and results write these: each index holds only the chunks in its state, and none that are done.
    for name, columns, condition in (
        ("chunks_unfinished", ["batch"], "status != 'SUCCESS'"),
        ("chunks_held", ["worker", "until"], "status = 'PENDING' AND run = '' AND worker > ''"),
        ("chunks_in_a_run", ["run"], "status = 'PENDING' AND run != ''"),
        ("chunks_reverted", ["run"], "status = 'REVERTED'"),
        (
            "chunks_submitted",
            ["submission", "batch"],
            "status = 'PENDING' AND run = '' AND submission != ''",
        ),
    ):
        _partial_index(name, "chunks", columns, condition)


def _runs() -> None:
    op.create_table(
        "runs",
        _key("id"),
        *_texts("collection", "space", "key", "sha256"),
        *_counts("rows"),
        *_texts("lane", "worker"),
        *_numbers("created"),
        *_counts("texts"),
        *_numbers("tokens"),
        *_floats("cost_usd", "seconds"),
        *_texts("state"),
        *_numbers("version"),
        *_texts("error"),
        sa.Column("planned", sa.BigInteger, nullable=False, server_default="0"),
    )
    op.create_index("runs_by_age", "runs", ["created", "id"])
    _partial_index("runs_pending", "runs", ["collection", "created", "id"], "state = 'pending'")
    op.create_table(
        "rollbacks",
        *_texts("collection"),
        *_numbers("version", "target", "at"),
        *_counts("runs", "chunks"),
        sa.PrimaryKeyConstraint("collection", "version"),
    )
    op.create_table(
        "dead_letters",
        *_texts("kind", "owner", "subject", "reason"),
        *_numbers("at"),
        *_counts("attempts"),
        sa.PrimaryKeyConstraint("kind", "owner", "subject"),
    )
    op.create_index("dead_letters_by_age", "dead_letters", ["at", "kind", "owner", "subject"])


def _submissions() -> None:
    op.create_table(
        "submissions",
        _key("id"),
        *_texts("space", "account", "key", "state", "worker", "job", "error"),
        *_numbers("bytes", "tokens", "created", "until", "later", "submitted", "deadline", "billed", "ended"),
        *_counts("texts", "chunks", "done", "failed"),
        *_floats("cost_usd"),
        sa.Column("cancel", sa.Boolean, nullable=False),
    )
    op.create_index("submissions_by_age", "submissions", ["ended", "created", "id"])
    op.create_table(
        "spending",
        *_texts("run", "source", "document", "lane"),
        *_counts("texts"),
        *_numbers("planned", "billed", "at"),
        *_floats("cost_usd"),
        sa.PrimaryKeyConstraint("run", "source", "document"),
    )
    op.create_index("spending_by_time", "spending", ["at"])


def _server() -> None:
    op.create_table(
        "keys",
        _key("id"),
        *_texts("name", "prefix", "hash", "tier", "models"),
        sa.Column("admin", sa.Boolean, nullable=False),
        *_numbers("created", "revoked", "used"),
    )
    op.create_index("keys_by_hash", "keys", ["hash"], unique=True)
    op.create_table(
        "quotas", *_texts("day", "key"), *_numbers("tokens"), sa.PrimaryKeyConstraint("day", "key")
    )
    op.create_table(
        "files",
        _key("id"),
        *_texts("owner", "purpose", "filename", "key"),
        *_numbers("bytes", "created", "expires"),
    )
    op.create_index("files_of_owner", "files", ["owner", "created", "id"])
    op.create_index("files_by_expiry", "files", ["expires"])
    op.create_table(
        "jobs",
        _key("id"),
        *_texts("owner", "tier", "input", "endpoint", "window", "model", "metadata", "state", "worker"),
        *_texts("output", "errors", "faults", "stamps"),
        *_numbers("created", "expires", "keep", "tokens", "queued", "until", "ended"),
        *_counts("total", "completed", "failed", "line"),
        sa.Column("cancel", sa.Boolean, nullable=False),
    )
    op.create_index("jobs_of_owner", "jobs", ["owner", "created", "id"])
    op.create_index("jobs_by_age", "jobs", ["ended", "created", "id"])


def _key(name: str) -> sa.Column[str]:
    return sa.Column(name, TEXT, primary_key=True, nullable=False)


def _texts(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, TEXT, nullable=False) for name in names]


def _counts(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.Integer, nullable=False) for name in names]


def _numbers(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger, nullable=False) for name in names]


def _floats(*names: str) -> list[sa.Column[float]]:
    return [sa.Column(name, sa.Float, nullable=False) for name in names]


def _partial_index(name: str, table: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)
