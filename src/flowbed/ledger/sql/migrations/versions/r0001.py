"""The first schema. Written out, not taken from `schema`: what once was released no longer changes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    """Make every table."""
    _tables_of_sources()
    _chunks()
    _tables_of_work()


def _tables_of_sources() -> None:
    op.create_table("facts", _text("name", primary_key=True), _text("value"))
    op.create_table("cursors", _text("source", primary_key=True), _text("value"), _number("token"))
    op.create_table(
        "documents",
        *map(_text, ("source", "id", "etag", "hash")),
        _count("chunks"),
        _number("generation"),
        sa.PrimaryKeyConstraint("source", "id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "batches",
        _text("id", primary_key=True),
        *map(_text, ("source", "key")),
        _number("timestamp"),
        _count("chunks"),
    )


def _chunks() -> None:
    op.create_table(
        "chunks",
        *map(_text, ("collection", "id", "source", "document")),
        *map(_count, ("ordinal", "tokens")),
        *map(_text, ("text_hash", "row_hash")),
        _number("version"),
        _text("batch"),
        sa.Column("deleted", sa.Boolean, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        _text("worker"),
        _number("until"),
        *map(_text, ("run", "submission")),
        _count("attempts"),
        *map(_text, ("failure", "error")),
        sa.PrimaryKeyConstraint("id", "collection"),
    )
    op.create_index("chunks_of_document", "chunks", ["document", "source"])
    _partial_index("chunks_unfinished", "chunks", ["batch", "status", "until"], "status != 'SUCCESS'")
    _partial_index("chunks_claimed", "chunks", ["worker"], "status = 'PENDING' AND run = ''")
    _partial_index("chunks_in_a_run", "chunks", ["run"], "status = 'PENDING' AND run != ''")


def _tables_of_work() -> None:
    op.create_table(
        "runs",
        _text("id", primary_key=True),
        *map(_text, ("collection", "space", "key", "sha256")),
        _count("rows"),
        *map(_text, ("lane", "worker")),
        _number("created"),
        _count("texts"),
        _number("tokens"),
        sa.Column("cost_usd", sa.Float, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        _text("state"),
        _number("version"),
        _text("error"),
    )
    op.create_index("runs_by_age", "runs", ["created", "id"])
    _partial_index("runs_pending", "runs", ["collection", "created", "id"], "state = 'pending'")
    op.create_table(
        "dead_letters",
        *map(_text, ("kind", "owner", "subject", "reason")),
        _number("at"),
        _count("attempts"),
        sa.PrimaryKeyConstraint("kind", "owner", "subject"),
    )
    op.create_index("dead_letters_by_age", "dead_letters", ["at", "kind", "owner", "subject"])


def _text(name: str, *, primary_key: bool = False) -> sa.Column[str]:
    return sa.Column(name, TEXT, primary_key=primary_key, nullable=False)


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False)


def _partial_index(name: str, table: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)
