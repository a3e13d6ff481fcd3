"""The names of all log, metric and trace points, and the one way to report them.

Nothing leaves the process: a point is logged to the logger `flowbed` and passed to the listeners in this process (the
progress bar, an exporter, a test that ends the process at a point).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

log = logging.getLogger("flowbed")

# Points of a run where its state on disk has just changed, in the order of the data flow. After a crash at any of them,
# the next run must end in the same index as a run without a crash.
BATCH_REGISTERED = "batch.registered"
BATCH_WRITTEN = "batch.written"
FETCH_SWAPPED = "fetch.swapped"
CHUNKS_CLAIMED = "chunks.claimed"
REQUEST_SENT = "request.sent"
REQUEST_ANSWERED = "request.answered"
VECTORS_KEPT = "vectors.kept"
DELTA_WRITTEN = "delta.written"
RUN_RECORDED = "run.recorded"
INDEX_CREATED = "index.created"
INDEX_MERGED = "index.merged"
RUN_COMMITTED = "run.committed"
PLAN_STAGED = "plan.staged"
PLAN_WRITTEN = "plan.written"
PLAN_RELEASED = "plan.released"
COMPACTION_MERGED = "compaction.merged"
COMPACTION_CLEANED = "compaction.cleaned"
GARBAGE_MARKED = "garbage.marked"
GARBAGE_DELETED = "garbage.deleted"
ROLLBACK_TAGGED = "rollback.tagged"
ROLLBACK_RESTORED = "rollback.restored"
ROLLBACK_RECORDED = "rollback.recorded"
FAILPOINTS = (
    BATCH_REGISTERED,
    BATCH_WRITTEN,
    FETCH_SWAPPED,
    CHUNKS_CLAIMED,
    REQUEST_SENT,
    REQUEST_ANSWERED,
    VECTORS_KEPT,
    DELTA_WRITTEN,
    RUN_RECORDED,
    INDEX_CREATED,
    INDEX_MERGED,
    RUN_COMMITTED,
)

# Writing rows that come with their vectors passes these; the next call or run continues from any of them.
INGEST_FAILPOINTS = (
    BATCH_REGISTERED,
    BATCH_WRITTEN,
    FETCH_SWAPPED,
    DELTA_WRITTEN,
    RUN_RECORDED,
    INDEX_MERGED,
    RUN_COMMITTED,
)

# States of a delta of another producer, registered and converted; its rows pass the points above.
DELTA_REGISTERED = "delta.registered"
DELTA_CONVERTED = "delta.converted"
# A delta was written in Chroma's form too; its run is not recorded yet.
CHROMA_DELTA_WRITTEN = "chroma_delta.written"
PRODUCER_DELTA_FAILPOINTS = (DELTA_REGISTERED, *INGEST_FAILPOINTS, DELTA_CONVERTED)

# States of a submission, on disk or at the provider; the next step continues from any of them.
SUBMISSION_WRITTEN = "submission.written"
SUBMISSION_RECORDED = "submission.recorded"
SUBMISSION_BEGUN = "submission.begun"
JOB_MADE = "job.made"
SUBMISSION_SUBMITTED = "submission.submitted"
ANSWERS_COPIED = "answers.copied"
SUBMISSION_ENDED = "submission.ended"
SUBMISSION_FAILPOINTS = (
    CHUNKS_CLAIMED,
    SUBMISSION_WRITTEN,
    SUBMISSION_RECORDED,
    SUBMISSION_BEGUN,
    JOB_MADE,
    SUBMISSION_SUBMITTED,
    ANSWERS_COPIED,
    DELTA_WRITTEN,
    RUN_RECORDED,
    INDEX_MERGED,
    RUN_COMMITTED,
    SUBMISSION_ENDED,
)

# States of a plan on disk; `run --plan` reaches the points above too.
PLAN_FAILPOINTS = (PLAN_STAGED, PLAN_WRITTEN, PLAN_RELEASED)

# States of a rollback on disk; the next run adapts the ledger to the index.
ROLLBACK_FAILPOINTS = (ROLLBACK_TAGGED, ROLLBACK_RESTORED, ROLLBACK_RECORDED)

# States of a request to forget rows; the same command, or `flowbed forget --resume`, continues from any of them.
FORGET_MARKED = "forget.marked"
FORGET_BLOCKED = "forget.blocked"
FORGET_LEDGER_ERASED = "forget.ledger_erased"
FORGET_ROWS_REMOVED = "forget.rows_removed"
FORGET_COMPACTED = "forget.compacted"
FORGET_INDEX_ERASED = "forget.index_erased"
FORGET_FILE_REWRITTEN = "forget.file_rewritten"
FORGET_STORE_ERASED = "forget.store_erased"
FORGET_CACHE_ERASED = "forget.cache_erased"
FORGET_PUBLISHED = "forget.published"
FORGET_SCRUBBED = "forget.scrubbed"
FORGET_RECEIPT_WRITTEN = "forget.receipt_written"
FORGET_FAILPOINTS = (
    FORGET_MARKED,
    FORGET_BLOCKED,
    FORGET_LEDGER_ERASED,
    FORGET_ROWS_REMOVED,
    FORGET_COMPACTED,
    FORGET_INDEX_ERASED,
    FORGET_FILE_REWRITTEN,
    FORGET_STORE_ERASED,
    FORGET_CACHE_ERASED,
    FORGET_PUBLISHED,
    FORGET_SCRUBBED,
    FORGET_RECEIPT_WRITTEN,
)

# States of a publication: locally until `snapshot.claimed`, then in the store. The next publication starts again
# from the last one that was finished.
SNAPSHOT_BASE = "snapshot.base"
SNAPSHOT_BUILT = "snapshot.built"
SNAPSHOT_VERIFIED = "snapshot.verified"
SNAPSHOT_CLAIMED = "snapshot.claimed"
SNAPSHOT_FILE_UPLOADED = "snapshot.file_uploaded"
SNAPSHOT_LISTED = "snapshot.listed"
POINTER_MOVED = "pointer.moved"
PUBLICATION_RECORDED = "publication.recorded"
PARQUET_UPLOADED = "parquet.uploaded"
SERVER_MARKED = "server.marked"
SERVER_BATCH_WRITTEN = "server.batch_written"
PUBLICATION_FAILPOINTS = (
    SNAPSHOT_BASE,
    SNAPSHOT_BUILT,
    SNAPSHOT_VERIFIED,
    SNAPSHOT_CLAIMED,
    SNAPSHOT_FILE_UPLOADED,
    SNAPSHOT_LISTED,
    POINTER_MOVED,
    PUBLICATION_RECORDED,
)

# States of a download of a snapshot; the next one continues from there.
PULL_LEASED = "pull.leased"
PULL_FILE_READY = "pull.file_ready"
PULL_PLACED = "pull.placed"
PULL_FAILPOINTS = (PULL_LEASED, PULL_FILE_READY, PULL_PLACED)

# Progress for a person who watches a run.
STAGE = "stage"  # stage, total if it is known, source if it is of one
PROGRESS = "progress"  # stage, done; with the seconds of a request, and how many are in flight (concurrency)
FETCHED = "fetched"  # no more documents come, though their chunks may still be embedded
RETRIED = (
    "retried"  # reason; the seconds until then, if known, and whether a rate limit is the cause (limited)
)
DEAD_LETTER = "dead_letter"

# Events of the wrappers of embedders, for monitoring a server.
BREAKER = "breaker"  # name, state
FALLBACK = "fallback"  # provider that failed, reason
LIMITED = "limited"  # name, seconds that a call waited
COALESCED = "coalesced"  # texts, calls that were joined

Listener = Callable[[str, dict[str, Any]], None]
_listeners: list[Listener] = []


def reached(point: str, **facts: Any) -> None:  # facts are anything the logger can print
    """Report that a point was reached, with facts about it."""
    if log.isEnabledFor(logging.DEBUG):
        log.debug("%s %s", point, facts)
    for listener in tuple(_listeners):
        listener(point, facts)


def listen(listener: Listener) -> Callable[[], None]:
    """Call `listener` at every later point of this process, until the returned function is called."""
    _listeners.append(listener)
    return lambda: _listeners.remove(listener)
