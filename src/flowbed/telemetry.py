"""The names of everything that is logged, counted or traced, and the one way to report it.

Nothing leaves the process: a point is written to the `flowbed` logger and handed to whoever listens in this process
(the progress bar, a test that ends the process at a named point, an exporter).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

log = logging.getLogger("flowbed")

# Points of a run at which its state on disk has just changed, in the order of the data flow. A crash at any of them
# must end, after running again, in the index of a run that was never interrupted.
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

# What is on disk, or at a provider, of a submission; the next step of any of them goes on from there.
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

# What is on disk of a plan; `run --plan` reaches the points above too.
PLAN_FAILPOINTS = (PLAN_STAGED, PLAN_WRITTEN, PLAN_RELEASED)

# What is on disk of a rollback; the next run makes the ledger follow what the index says.
ROLLBACK_FAILPOINTS = (ROLLBACK_TAGGED, ROLLBACK_RESTORED, ROLLBACK_RECORDED)

# What a person watching a run is told.
STAGE = "stage"
PROGRESS = "progress"
RETRIED = "retried"
DEAD_LETTER = "dead_letter"

# What the wrappers of embedders do, for those who watch a server.
BREAKER = "breaker"  # name, state
FALLBACK = "fallback"  # provider that failed, reason
LIMITED = "limited"  # name, seconds that a call waited for room
COALESCED = "coalesced"  # texts, calls that were joined
WORKER_RESTARTED = "worker.restarted"  # model, reason

Listener = Callable[[str, dict[str, Any]], None]
_listeners: list[Listener] = []


def reached(point: str, **facts: Any) -> None:  # facts are whatever the logger can print
    """Report that the point named has been reached, with the facts that explain it."""
    if log.isEnabledFor(logging.DEBUG):
        log.debug("%s %s", point, facts)
    for listener in tuple(_listeners):
        listener(point, facts)


def listen(listener: Listener) -> Callable[[], None]:
    """Hand every later point of this process to `listener`; the call that is returned ends that."""
    _listeners.append(listener)
    return lambda: _listeners.remove(listener)
