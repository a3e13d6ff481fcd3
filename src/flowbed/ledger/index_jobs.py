"""Index jobs: what clients asked the server to write into a collection, and how far each job is.

A ledger without them serves everything except /v1/jobs. They are no `Jobs`: those answer files of requests, and write
nothing into a collection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

JobStage = Literal["chunking", "embedding", "storing"]
STAGES: tuple[JobStage, ...] = ("chunking", "embedding", "storing")
# What a claim costs its owner at most: the work of a worker's turn, in units of `cost`. A larger job takes more turns.
TURN_COST = 512

# What only `create`, `change`, `cancel`, `reopen` and `claim` write; a worker's `save` leaves it as it is.
INDEX_JOB_FIXED = frozenset(
    {
        "id",
        "owner",
        "tier",
        "collection",
        "kind",
        "model",
        "target",
        "chunking",
        "metadata",
        "priority",
        "key",
        "cost",
        "idempotency",
        "fingerprint",
        "created",
        "cancel",
        "seq",
    }
)


@dataclass(frozen=True, kw_only=True)
class IndexJobRow:
    """One job that writes documents into `collection`, for `owner` (see `FileRow`).

    With a `target`, it embeds the rows of `collection` with another `model` (vendor:model) into that collection.

    Jobs of one owner are claimed in order of `key`, which is fixed by when the job was created and its `priority`.
    `cost` is its size as owners share the workers, in units of about one chunk. `idempotency` is the key that its
    client chose, unique per owner, and `fingerprint` the digest of its request.

    `state` is queued, running, completed, failed or cancelled; `stage` the one that it is in or waits for. `chunks` is
    -1 until they are counted. `batches` are the sources of its batch files, by id; they, `chunking`, `metadata`,
    `faults`
    and `stamps` (when each state began, µs) are JSON. `reason` says why it waits until `due`. `attempts` counts the
    claims since it last got on. `cancel` is "", keep or rollback. `seq` is the number of its last event. `worker` holds
    it until `until`; `ended` is 0 while there is work left. Times are µs since 1970.
    """

    id: str
    owner: str
    tier: str
    collection: str
    kind: str
    created: int
    key: int
    fingerprint: str
    model: str = ""
    target: str = ""
    priority: int = 50
    cost: int = 1
    idempotency: str | None = None
    chunking: str = "{}"
    metadata: str = "{}"
    state: str = "queued"
    stage: str = "chunking"
    documents: int = 0
    chunks: int = -1
    embedded: int = 0
    cached: int = 0
    stored: int = 0
    failed: int = 0
    skipped: int = 0
    tokens: int = 0
    estimated_usd: float = 0.0
    billed_usd: float = 0.0
    batches: str = "{}"
    faults: str = "[]"
    stamps: str = "{}"
    error: str = ""
    reason: str = ""
    due: int = 0
    attempts: int = 0
    cancel: str = ""
    seq: int = 0
    worker: str = ""
    until: int = 0
    ended: int = 0


def shown_state(row: IndexJobRow) -> str:
    """Return the state of a job as clients see it."""
    return "cancelling" if row.cancel and not row.ended else row.state


def reopened(key: int) -> Mapping[str, Any]:
    """Return the fields of a job that starts again."""
    return {
        "key": key,
        "state": "queued",
        "stage": "chunking",
        "ended": 0,
        "cancel": "",
        "error": "",
        "reason": "",
        "faults": "[]",
        "documents": 0,
        "chunks": -1,
        **dict.fromkeys(("embedded", "cached", "stored", "failed", "skipped"), 0),
        "attempts": 0,
        "due": 0,
        "worker": "",
        "until": 0,
    }


@dataclass(frozen=True, kw_only=True)
class IndexJobEvent:
    """One event of a job: `seq` counts from 1 without gaps, `data` is JSON, `at` is µs since 1970."""

    job: str
    seq: int
    type: str
    data: str
    at: int


class JobNote(NamedTuple):
    """An event to record: its type, its data as JSON, and when it happened (µs)."""

    type: str
    data: str
    at: int


class QueueDepth(NamedTuple):
    """The jobs of one stage: how many wait for a worker, how many are held, and when the oldest waiting one came.

    A job that is not due yet waits for something else. Times are in µs.
    """

    waiting: int
    running: int
    oldest: int


class IndexJobs(Protocol):
    """The index jobs of all owners."""

    async def create(self, job: IndexJobRow, note: JobNote, *, since: int) -> IndexJobRow:
        """Record a job with its first event, in one step, and return it.

        If the owner has a job with the same idempotency key, created at `since` or later, return that one and record
        nothing; an older one gives up its key.
        """
        ...

    async def get(self, job: str) -> IndexJobRow | None:
        """Return one job of any owner, or None."""
        ...

    async def list(
        self,
        owner: str | None,
        *,
        states: Collection[str] = (),
        collection: str = "",
        after: str | None = None,
        limit: int,
        descending: bool = True,
    ) -> Sequence[IndexJobRow]:
        """Return jobs of an owner (None: of all) in order of time and id, those that follow the id `after`.

        `states`, where given, are those of `state`; a job whose cancellation was requested is `cancelling` instead.
        """
        ...

    async def claim(
        self, stages: Collection[str], *, worker: str, now: int, until: int
    ) -> IndexJobRow | None:
        """Hold the next job that waits for one of the stages, for `worker` until `until`; None if there is none.

        The next owner is the one that was served least, in units of cost; one that was idle does not catch up. Of its
        jobs the one with the smallest key is next. The claim counts as an attempt.
        """
        ...

    async def waiting(self, stage: str, *, now: int, limit: int) -> Sequence[IndexJobRow]:
        """Return jobs that `claim` could hold for a stage, those with the smallest keys first."""
        ...

    async def hold(self, job: str, *, worker: str, now: int, until: int) -> IndexJobRow | None:
        """Hold a job for `worker` until `until`; None if it has ended or another worker holds it."""
        ...

    async def save(
        self, job: IndexJobRow, notes: Sequence[JobNote] = (), *, worker: str
    ) -> IndexJobRow | None:
        """Write a job that `worker` holds, with its events, in one step; from then on `job.worker` holds it.

        Returns it as it is then, or None, and changes nothing, if the worker does not hold it. What others may write
        meanwhile stays: see `INDEX_JOB_FIXED`.
        """
        ...

    async def cancel(self, job: str, how: str, note: JobNote) -> IndexJobRow | None:
        """Request the end of a job, held or not, to `keep` what is finished or for its `rollback`; return it.

        A job that has ended stays as it is, as does one whose rollback was requested. None if there is no such job.
        """
        ...

    async def change(
        self, job: str, *, priority: int, key: int, metadata: str, note: JobNote
    ) -> IndexJobRow | None:
        """Change a job that has not ended; return it, ended or not, or None if there is no such job."""
        ...

    async def reopen(self, job: str, *, key: int, note: JobNote) -> IndexJobRow | None:
        """Queue a job that has ended again, from its first stage; None if it has not ended, or is not there."""
        ...

    async def events(self, after: Mapping[str, int], *, limit: int) -> Sequence[IndexJobEvent]:
        """Return events of jobs that follow the number given for each, in order of job and number."""
        ...

    async def ahead(self, job: IndexJobRow) -> int:
        """Count the waiting jobs of its owner that come before a job."""
        ...

    async def depths(self, *, now: int) -> Mapping[str, QueueDepth]:
        """Return the depth of each stage's queue; a stage without jobs is missing."""
        ...

    async def unfinished(self, collection: str) -> int:
        """Count the jobs of a collection that have not ended."""
        ...

    async def workers(self) -> set[str]:
        """Return the workers that hold a job."""
        ...

    async def release(self, worker: str) -> int:
        """Release every hold of `worker`; return how many."""
        ...

    async def forget(self, *, before: int, limit: int) -> Sequence[str]:
        """Delete jobs that ended before a time, with their events, and return their ids."""
        ...


@runtime_checkable
class HoldsIndexJobs(Protocol):
    """A ledger that keeps index jobs."""

    index_jobs: IndexJobs
