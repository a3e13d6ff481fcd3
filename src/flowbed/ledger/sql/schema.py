"""The tables of a ledger in SQL. Columns have the names of their record's fields.

A change here needs a migration: a new file in `migrations/versions`, and a new `HEAD` in `flowbed.ledger.sql`.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import BigInteger, Boolean, Column, Float, Index, Integer, PrimaryKeyConstraint, String, Table

from flowbed.records import Status

metadata = sa.MetaData()

# Order by code point, as SQLite and Python do. A language's order would end pages elsewhere, and an upgrade of the
# server's locale files would damage its indexes.
TEXT = String().with_variant(String(collation="C"), "postgresql")

# Conditions of partial indexes. For Postgres they are only in the migrations: naming them here would load its dialect
# for everyone, which takes 45 ms. SQLite uses such an index only if a statement repeats the condition literally, so
# these are literals and not bound parameters.
SUCCESS: sa.ColumnElement[str] = sa.literal_column("'SUCCESS'")
PENDING: sa.ColumnElement[str] = sa.literal_column("'PENDING'")
OPEN: sa.ColumnElement[str] = sa.literal_column("'pending'")
REVERTED: sa.ColumnElement[str] = sa.literal_column("'REVERTED'")
NOWHERE: sa.ColumnElement[str] = sa.literal_column("''")

facts = Table(
    "facts",
    metadata,
    Column("name", TEXT, primary_key=True),
    Column("value", TEXT, nullable=False),
)

cursors = Table(
    "cursors",
    metadata,
    Column("source", TEXT, primary_key=True),
    Column("value", TEXT, nullable=False),
    Column("token", BigInteger, nullable=False),
)

documents = Table(
    "documents",
    metadata,
    Column("source", TEXT, nullable=False),
    Column("id", TEXT, nullable=False),
    Column("etag", TEXT, nullable=False),
    Column("hash", TEXT, nullable=False),
    Column("chunks", Integer, nullable=False),
    Column("generation", BigInteger, nullable=False),
    PrimaryKeyConstraint("source", "id"),
    sqlite_with_rowid=False,
)

chunks = Table(
    "chunks",
    metadata,
    Column("collection", TEXT, nullable=False),
    Column("id", TEXT, nullable=False),
    Column("source", TEXT, nullable=False),
    Column("document", TEXT, nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("tokens", Integer, nullable=False),
    Column("text_hash", TEXT, nullable=False),
    Column("row_hash", TEXT, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("batch", TEXT, nullable=False),
    Column("deleted", Boolean, nullable=False),
    Column("status", sa.Enum(Status, native_enum=False, length=16), nullable=False),
    Column("worker", TEXT, nullable=False),
    Column("until", BigInteger, nullable=False),
    Column("run", TEXT, nullable=False),
    Column("submission", TEXT, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("failure", TEXT, nullable=False),
    Column("error", TEXT, nullable=False),
    # Id and document come first, so that a subject is found without its collection or source.
    PrimaryKeyConstraint("id", "collection"),
    Index("chunks_of_document", "document", "source"),
)

_state = chunks.c.status
# Chunks that are done are in none of these, so the indexes of a million rows at rest are empty.
unfinished = _state != SUCCESS
claimed = sa.and_(_state == PENDING, chunks.c.run == NOWHERE)
in_a_run = sa.and_(_state == PENDING, chunks.c.run != NOWHERE)
reverted = _state == REVERTED
submitted = sa.and_(_state == PENDING, chunks.c.run == NOWHERE, chunks.c.submission != NOWHERE)
held = sa.and_(claimed, chunks.c.worker > NOWHERE)
for _name, _columns, _condition in (
    ("chunks_unfinished", (chunks.c.batch,), unfinished),
    ("chunks_held", (chunks.c.worker, chunks.c.until), held),
    ("chunks_in_a_run", (chunks.c.run,), in_a_run),
    ("chunks_reverted", (chunks.c.run,), reverted),
    ("chunks_submitted", (chunks.c.submission, chunks.c.batch), submitted),
):
    Index(_name, *_columns, sqlite_where=_condition)

batches = Table(
    "batches",
    metadata,
    Column("id", TEXT, primary_key=True),
    Column("source", TEXT, nullable=False),
    Column("key", TEXT, nullable=False),
    Column("timestamp", BigInteger, nullable=False),
    Column("chunks", Integer, nullable=False),
)

batch_events = Table(
    "batch_events",
    metadata,
    Column("source", TEXT, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("batch", TEXT, nullable=False),
    PrimaryKeyConstraint("source", "position", "batch"),
)

runs = Table(
    "runs",
    metadata,
    Column("id", TEXT, primary_key=True),
    Column("collection", TEXT, nullable=False),
    Column("space", TEXT, nullable=False),
    Column("key", TEXT, nullable=False),
    Column("sha256", TEXT, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("lane", TEXT, nullable=False),
    Column("worker", TEXT, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("texts", Integer, nullable=False),
    Column("planned", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("cost_usd", Float, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("state", TEXT, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("error", TEXT, nullable=False),
    Index("runs_by_age", "created", "id"),
)

open_runs = runs.c.state == OPEN
Index(
    "runs_pending", runs.c.collection, runs.c.created, runs.c.id,
    sqlite_where=open_runs,
)  # fmt: skip

rollbacks = Table(
    "rollbacks",
    metadata,
    Column("collection", TEXT, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("target", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("runs", Integer, nullable=False),
    Column("chunks", Integer, nullable=False),
    PrimaryKeyConstraint("collection", "version"),
)

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("kind", TEXT, nullable=False),
    Column("owner", TEXT, nullable=False),
    Column("subject", TEXT, nullable=False),
    Column("reason", TEXT, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    PrimaryKeyConstraint("kind", "owner", "subject"),
    Index("dead_letters_by_age", "at", "kind", "owner", "subject"),
)

submissions = Table(
    "submissions",
    metadata,
    Column("id", TEXT, primary_key=True),
    *(Column(name, TEXT, nullable=False) for name in ("space", "account", "key")),
    Column("bytes", BigInteger, nullable=False),
    Column("texts", Integer, nullable=False),
    Column("chunks", Integer, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("created", BigInteger, nullable=False),
    *(Column(name, TEXT, nullable=False) for name in ("state", "worker")),
    *(Column(name, BigInteger, nullable=False) for name in ("until", "later")),
    Column("job", TEXT, nullable=False),
    *(Column(name, BigInteger, nullable=False) for name in ("submitted", "deadline")),
    *(Column(name, Integer, nullable=False) for name in ("done", "failed")),
    Column("billed", BigInteger, nullable=False),
    Column("cost_usd", Float, nullable=False),
    Column("cancel", Boolean, nullable=False),
    Column("ended", BigInteger, nullable=False),
    Column("error", TEXT, nullable=False),
    Index("submissions_by_age", "ended", "created", "id"),
)

spending = Table(
    "spending",
    metadata,
    *(Column(name, TEXT, nullable=False) for name in ("run", "source", "document", "lane")),
    Column("texts", Integer, nullable=False),
    *(Column(name, BigInteger, nullable=False) for name in ("planned", "billed")),
    Column("cost_usd", Float, nullable=False),
    Column("at", BigInteger, nullable=False),
    PrimaryKeyConstraint("run", "source", "document"),
    Index("spending_by_time", "at"),
)

files = Table(
    "files",
    metadata,
    Column("id", TEXT, primary_key=True),
    *(Column(name, TEXT, nullable=False) for name in ("owner", "purpose", "filename", "key")),
    *(Column(name, BigInteger, nullable=False) for name in ("bytes", "created", "expires")),
    Index("files_of_owner", "owner", "created", "id"),
    Index("files_by_expiry", "expires"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", TEXT, primary_key=True),
    *(Column(name, TEXT, nullable=False) for name in ("owner", "tier", "input", "endpoint", "window")),
    *(Column(name, BigInteger, nullable=False) for name in ("created", "expires")),
    *(Column(name, TEXT, nullable=False) for name in ("model", "metadata")),
    Column("keep", BigInteger, nullable=False),
    Column("state", TEXT, nullable=False),
    *(Column(name, Integer, nullable=False) for name in ("total", "completed", "failed", "line")),
    *(Column(name, BigInteger, nullable=False) for name in ("tokens", "queued")),
    *(Column(name, TEXT, nullable=False) for name in ("output", "errors", "faults", "stamps")),
    Column("cancel", Boolean, nullable=False),
    Column("worker", TEXT, nullable=False),
    *(Column(name, BigInteger, nullable=False) for name in ("until", "ended")),
    Index("jobs_of_owner", "owner", "created", "id"),
    Index("jobs_by_age", "ended", "created", "id"),
)

index_jobs = Table(
    "index_jobs",
    metadata,
    Column("id", TEXT, primary_key=True),
    *(Column(name, TEXT, nullable=False) for name in ("owner", "tier", "collection", "kind")),
    *(Column(name, BigInteger, nullable=False) for name in ("created", "key")),
    Column("fingerprint", TEXT, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("cost", BigInteger, nullable=False),
    Column("idempotency", TEXT),
    *(Column(name, TEXT, nullable=False) for name in ("chunking", "metadata", "state", "stage")),
    *(
        Column(name, BigInteger, nullable=False)
        for name in ("documents", "chunks", "embedded", "cached", "stored", "failed", "skipped", "tokens")
    ),
    *(Column(name, Float, nullable=False) for name in ("estimated_usd", "billed_usd")),
    *(Column(name, TEXT, nullable=False) for name in ("batches", "faults", "stamps", "error", "reason")),
    *(Column(name, BigInteger, nullable=False) for name in ("due", "attempts")),
    Column("cancel", TEXT, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("worker", TEXT, nullable=False),
    *(Column(name, BigInteger, nullable=False) for name in ("until", "ended")),
    *(Column(name, TEXT, nullable=False, server_default="") for name in ("model", "target")),
    Index("index_jobs_of_owner", "owner", "created", "id"),
    Index("index_jobs_waiting", "owner", "ended", "key", "id"),
    Index("index_jobs_by_end", "ended", "collection"),
    # A missing key is equal to no other.
    Index("index_jobs_by_idempotency", "owner", "idempotency", unique=True),
)

index_job_events = Table(
    "index_job_events",
    metadata,
    Column("job", TEXT, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("type", TEXT, nullable=False),
    Column("data", TEXT, nullable=False),
    Column("at", BigInteger, nullable=False),
    PrimaryKeyConstraint("job", "seq"),
)

index_job_owners = Table(
    "index_job_owners",
    metadata,
    Column("owner", TEXT, primary_key=True),
    # The units of cost at which its last turn began and ended.
    Column("start", BigInteger, nullable=False),
    Column("finish", BigInteger, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("id", TEXT, primary_key=True),
    Column("name", TEXT, nullable=False),
    Column("prefix", TEXT, nullable=False),
    Column("hash", TEXT, nullable=False),
    Column("tier", TEXT, nullable=False),
    Column("models", TEXT, nullable=False),  # a JSON array
    Column("admin", Boolean, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("revoked", BigInteger, nullable=False),
    Column("used", BigInteger, nullable=False),
    Index("keys_by_hash", "hash", unique=True),
)

quotas = Table(
    "quotas",
    metadata,
    Column("day", TEXT, nullable=False),
    Column("key", TEXT, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("embeddings", BigInteger, nullable=False, server_default="0"),
    PrimaryKeyConstraint("day", "key"),
)

workers = Table(
    "workers",
    metadata,
    Column("id", TEXT, primary_key=True),
    Column("host", TEXT, nullable=False),
    Column("pid", BigInteger, nullable=False),
    *(Column(name, TEXT, nullable=False) for name in ("version", "queues", "running", "state")),
    *(Column(name, BigInteger, nullable=False) for name in ("started", "beat")),
    Column("reaper", TEXT, nullable=False),
)

worker_marks = Table(
    "worker_marks",
    metadata,
    *(Column(name, TEXT, nullable=False) for name in ("kind", "name")),
    Column("number", BigInteger, nullable=False),
    PrimaryKeyConstraint("kind", "name"),
)

vector_stores = Table(
    "vector_stores",
    metadata,
    Column("id", TEXT, primary_key=True),
    *(Column(name, TEXT, nullable=False) for name in ("owner", "name")),
    *(Column(name, BigInteger, nullable=False) for name in ("created", "active")),
    *(Column(name, TEXT, nullable=False) for name in ("description", "metadata")),
    Column("days", BigInteger, nullable=False),
    *(Column(name, TEXT, nullable=False) for name in ("model", "request")),
    Column("deleted", BigInteger, nullable=False),
    Column("worker", TEXT, nullable=False),
    *(Column(name, BigInteger, nullable=False) for name in ("until", "ended")),
    Index("vector_stores_of_owner", "owner", "created", "id"),
)

vector_store_files = Table(
    "vector_store_files",
    metadata,
    *(Column(name, TEXT, nullable=False) for name in ("store", "file", "filename", "key")),
    Column("created", BigInteger, nullable=False),
    *(Column(name, TEXT, nullable=False) for name in ("status", "work", "batch", "attributes", "chunking")),
    Column("usage", BigInteger, nullable=False),
    *(Column(name, TEXT, nullable=False) for name in ("code", "error")),
    Column("revision", Integer, nullable=False),
    PrimaryKeyConstraint("store", "file"),
    Index("vector_store_files_by_age", "store", "created", "file"),
    Index("vector_store_files_by_file", "file"),
    Index("vector_store_files_by_work", "work", "store"),
)

vector_store_batches = Table(
    "vector_store_batches",
    metadata,
    Column("id", TEXT, primary_key=True),
    Column("store", TEXT, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("files", TEXT, nullable=False),
    Column("cancelled", BigInteger, nullable=False),
    Index("vector_store_batches_of_store", "store"),
)
