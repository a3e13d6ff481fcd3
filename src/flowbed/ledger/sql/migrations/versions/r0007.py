"""Vector stores, the files attached to them, and file batches."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "vector_stores",
        sa.Column("id", TEXT, primary_key=True),
        *_texts("owner", "name"),
        *_numbers("created", "active"),
        *_texts("description", "metadata"),
        *_numbers("days"),
        *_texts("model", "request"),
        *_numbers("deleted"),
        *_texts("worker"),
        *_numbers("until", "ended"),
    )
    op.create_index("vector_stores_of_owner", "vector_stores", ["owner", "created", "id"])
    op.create_table(
        "vector_store_files",
        *_texts("store", "file", "filename", "key"),
        *_numbers("created"),
        *_texts("status", "work", "batch", "attributes", "chunking"),
        *_numbers("usage"),
        *_texts("code", "error"),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("store", "file"),
    )
    op.create_index("vector_store_files_by_age", "vector_store_files", ["store", "created", "file"])
    op.create_index("vector_store_files_by_file", "vector_store_files", ["file"])
    op.create_index("vector_store_files_by_work", "vector_store_files", ["work", "store"])
    op.create_table(
        "vector_store_batches",
        sa.Column("id", TEXT, primary_key=True),
        *_texts("store"),
        *_numbers("created"),
        *_texts("files"),
        *_numbers("cancelled"),
    )
    op.create_index("vector_store_batches_of_store", "vector_store_batches", ["store"])


def _texts(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, TEXT, nullable=False) for name in names]


def _numbers(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger, nullable=False) for name in names]
