"""The tables of a ledger that lives in SQL. Columns carry the names of the fields of their records.

A change here needs a migration: a new file in `migrations/versions` and a new `HEAD`.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import BigInteger, Boolean, Column, Float, Index, Integer, PrimaryKeyConstraint, String, Table

from flowbed.records import Status

HEAD = "0001"  # the revision of the newest migration, known here because loading alembic takes half a second
VERSION_TABLE = (
    "ledger_version"  # a name of our own: a database of another program that uses alembic is not ours
)

metadata = sa.MetaData()

# What the conditions of partial indexes say. SQLite uses such an index only where a statement repeats the condition
# in the same words, so no bound parameter may stand in for the literal.
SUCCESS: sa.ColumnElement[str] = sa.literal_column("'SUCCESS'")
PENDING: sa.ColumnElement[str] = sa.literal_column("'PENDING'")
OPEN: sa.ColumnElement[str] = sa.literal_column("'pending'")
NOWHERE: sa.ColumnElement[str] = sa.literal_column("''")

facts = Table(
    "facts",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", String, nullable=False),
)

cursors = Table(
    "cursors",
    metadata,
    Column("source", String, primary_key=True),
    Column("value", String, nullable=False),
    Column("token", BigInteger, nullable=False),
)

documents = Table(
    "documents",
    metadata,
    Column("source", String, nullable=False),
    Column("id", String, nullable=False),
    Column("etag", String, nullable=False),
    Column("hash", String, nullable=False),
    Column("chunks", Integer, nullable=False),
    Column("generation", BigInteger, nullable=False),
    PrimaryKeyConstraint("source", "id"),
    sqlite_with_rowid=False,
)

chunks = Table(
    "chunks",
    metadata,
    Column("collection", String, nullable=False),
    Column("id", String, nullable=False),
    Column("source", String, nullable=False),
    Column("document", String, nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("tokens", Integer, nullable=False),
    Column("text_hash", String, nullable=False),
    Column("row_hash", String, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("batch", String, nullable=False),
    Column("deleted", Boolean, nullable=False),
    Column("status", sa.Enum(Status, native_enum=False, length=16), nullable=False),
    Column("worker", String, nullable=False),
    Column("until", BigInteger, nullable=False),
    Column("run", String, nullable=False),
    Column("submission", String, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("failure", String, nullable=False),
    Column("error", String, nullable=False),
    # The id and the document lead, so that a subject is found without naming its collection or source.
    PrimaryKeyConstraint("id", "collection"),
    Index("chunks_of_document", "document", "source"),
)

_state = chunks.c.status
# A chunk leaves each of these when it is done: of a million rows at rest they hold none.
unfinished = _state != SUCCESS
claimed = sa.and_(_state == PENDING, chunks.c.run == NOWHERE)
in_a_run = sa.and_(_state == PENDING, chunks.c.run != NOWHERE)
for _name, _columns, _condition in (
    ("chunks_unfinished", (chunks.c.batch, chunks.c.status, chunks.c.until), unfinished),
    ("chunks_claimed", (chunks.c.worker,), claimed),
    ("chunks_in_a_run", (chunks.c.run,), in_a_run),
):
    Index(_name, *_columns, sqlite_where=_condition, postgresql_where=_condition)

batches = Table(
    "batches",
    metadata,
    Column("id", String, primary_key=True),
    Column("source", String, nullable=False),
    Column("key", String, nullable=False),
    Column("timestamp", BigInteger, nullable=False),
    Column("chunks", Integer, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    Column("id", String, primary_key=True),
    Column("collection", String, nullable=False),
    Column("space", String, nullable=False),
    Column("key", String, nullable=False),
    Column("sha256", String, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("lane", String, nullable=False),
    Column("worker", String, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("texts", Integer, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("cost_usd", Float, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("state", String, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("error", String, nullable=False),
    Index("runs_by_age", "created", "id"),
)

open_runs = runs.c.state == OPEN
Index(
    "runs_pending", runs.c.collection, runs.c.created, runs.c.id,
    sqlite_where=open_runs, postgresql_where=open_runs,
)  # fmt: skip

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("kind", String, nullable=False),
    Column("owner", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    PrimaryKeyConstraint("kind", "owner", "subject"),
    Index("dead_letters_by_age", "at", "kind", "owner", "subject"),
)
