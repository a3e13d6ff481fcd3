"""The events of jobs, and what clients see of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from flowbed.ledger.index_jobs import JobNote

if TYPE_CHECKING:
    from flowbed.ledger.index_jobs import IndexJobRow

COUNTS = ("documents", "chunks", "embedded", "cached", "stored", "failed", "skipped")


def counts_of(row: IndexJobRow) -> dict[str, int | None]:
    """Return the counts of a job; the number of chunks is None until they are known."""
    counts: dict[str, int | None] = {name: getattr(row, name) for name in COUNTS}
    counts["chunks"] = None if row.chunks < 0 else row.chunks
    return counts


def progress_of(row: IndexJobRow) -> float:
    """Return how far a job is, from 0 to 1; it never falls until the job starts again."""
    if row.state == "completed":
        return 1.0
    if row.chunks <= 0:
        return 0.0
    # Chunking takes little; a chunk counts for nine tenths when it is embedded, and whole when it is stored.
    embedded = max(row.embedded + row.cached + row.skipped, row.stored)
    return round(min(1.0, (0.9 * embedded + 0.1 * row.stored) / row.chunks), 4)


def note(kind: str, at: int, **data: Any) -> JobNote:
    """Make an event: `kind` without its prefix, and JSON values."""
    return JobNote(f"job.{kind}", orjson.dumps(data).decode(), at)


def progress_note(row: IndexJobRow, at: int) -> JobNote:
    """Make the event that tells how far a job is."""
    return note("progress", at, stage=row.stage, progress=progress_of(row), counts=counts_of(row))


def end_note(row: IndexJobRow, at: int) -> JobNote:
    """Make the last event of a job."""
    error = {"error": {"message": row.error}} if row.error else {}
    return note(row.state, at, counts=counts_of(row), **error)
