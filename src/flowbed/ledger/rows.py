"""The rows of a ledger. Times are microseconds since 1970."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from flowbed.records import Status

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DAY_US = 86_400_000_000
# What saving a row leaves as it is: fields that never change, and `cancel`, which other workers may set meanwhile.
SUBMISSION_FIXED = frozenset({"id", "space", "key", "bytes", "texts", "chunks", "created", "cancel"})
JOB_FIXED = frozenset(
    {"id", "owner", "tier", "input", "endpoint", "window", "created", "metadata", "keep", "cancel"}
)


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """The position of a source's fetch; every swap is conditional on `token`, and increases it."""

    source: str
    value: str = ""
    token: int = 0


@dataclass(frozen=True, kw_only=True)
class DocumentRow:
    """One document of a source as it was last chunked; `generation` is when (µs), and only grows."""

    source: str
    id: str
    etag: str
    hash: str
    chunks: int
    generation: int


class ChunkRow(NamedTuple):
    """One chunk; a tuple, since there are millions of them.

    `deleted` means that the document no longer contains it. `worker` has claimed it until `until` (µs), which is 0 once
    it is in a `run`. `failure` is the class of `error`: `transient` or `rejected`.
    """

    collection: str
    id: str
    source: str
    document: str
    ordinal: int
    tokens: int
    text_hash: str
    row_hash: str
    version: int
    batch: str
    deleted: bool = False
    status: Status = Status.NONE
    worker: str = ""
    until: int = 0
    run: str = ""
    submission: str = ""
    attempts: int = 0
    failure: str = ""
    error: str = ""


class ChunkMark(NamedTuple):
    """What an audit compares of one chunk with the index; a tuple, since it reads millions of them."""

    id: str
    version: int
    deleted: bool
    status: Status
    text_hash: str
    row_hash: str
    batch: str


@dataclass(frozen=True, kw_only=True)
class BatchRow:
    """One batch file; `timestamp` (µs) is fixed at registration, so that writing it again yields the same bytes."""

    id: str
    source: str
    key: str
    timestamp: int
    chunks: int


class BatchEvent(NamedTuple):
    """A batch file that was recorded: `position` grows with each swap of its source."""

    source: str
    position: int
    batch: str


@dataclass(frozen=True, kw_only=True)
class Swap:
    """The changes of one page of a fetch. They apply as a whole, or not at all if `cursor` has moved since it was read.

    The batch files of `chunks` get the position of the new cursor, and are listed by `Batches.events` from then on.
    Each of `chunks` replaces the row of its (collection, id); chunks of other documents stay as they are. A chunk's
    version only grows: a changed row whose version is not above the stored one gets the stored version + 1.
    """

    cursor: Cursor
    value: str
    documents: Sequence[DocumentRow] = ()
    removed: Sequence[str] = ()
    chunks: Sequence[ChunkRow] = ()


@dataclass(frozen=True, kw_only=True)
class Erasure:
    """The rows to remove without a trace: chunks by (collection, id), documents by (source, id).

    The cursor of each of `sources` moves, so that no fetch that has read these rows can write them again.
    """

    chunks: Sequence[tuple[str, str]] = ()
    documents: Sequence[tuple[str, str]] = ()
    sources: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a claimed chunk could not be embedded; `kind` is `transient` or `rejected`."""

    collection: str
    id: str
    version: int
    kind: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """One piece of embedding work for one collection; `state` is `pending`, `committed`, `refused` or `reverted`.

    `created` (µs) is when its chunks were claimed: a deletion that is missing in its delta must be later. `texts` were
    sent to the provider, which billed `tokens` (`planned` were counted before) and `cost_usd`, in `seconds`. `version`
    is the index version that contains it.
    """

    id: str
    collection: str
    space: str
    key: str
    sha256: str
    rows: int
    lane: str
    worker: str
    created: int
    texts: int = 0
    planned: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    seconds: float = 0.0
    state: str = "pending"
    version: int = 0
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class SubmissionRow:
    """One job at a provider's Batch API, from the input file to the commit of its results.

    `state` is `ready`, `submitting` (an upload may be under way), `submitted`, and then its outcome: `completed`,
    `failed`, `expired` or `cancelled`. It is live while `ended` (µs) is 0, and until then its chunks cannot be claimed.
    `account` is whose queue it uses. `key` is where its input is stored, `bytes` long: `texts` of `tokens` (as
    planned), shared by `chunks`. `worker` holds it until `until`; nothing is tried before `later` (µs). `job` is the
    provider's id, known once `submitted`. Texts without a result by `deadline` (0: none) are embedded at once. `done`
    and `failed` count texts, `billed` tokens, as the provider reports them. `cancel` requests its cancellation.
    """

    id: str
    space: str
    account: str
    key: str
    bytes: int
    texts: int
    chunks: int
    tokens: int
    created: int
    state: str = "ready"
    worker: str = ""
    until: int = 0
    later: int = 0
    job: str = ""
    submitted: int = 0
    deadline: int = 0
    done: int = 0
    failed: int = 0
    billed: int = 0
    cost_usd: float = 0.0
    cancel: bool = False
    ended: int = 0
    error: str = ""

    @property
    def is_queued(self) -> bool:
        """Return whether it takes room in its provider's queue.

        A submission that was put off before it got a job takes none, nor does one that has ended at the provider with
        results that cannot be used: either would block others for as long as that lasts.
        """
        if self.state == "submitted":
            return not self.ended and (not self.error or self.done + self.failed < self.texts)
        return self.state == "submitting" and not self.later


@dataclass(frozen=True, kw_only=True)
class SpendRow:
    """What one run was billed for the texts of one document: tokens planned and billed, and US dollars.

    `run` is the run of the delta, or on the batch lane the submission. What was billed for texts that no chunk has any
    more has an empty document. `at` is µs since 1970.
    """

    run: str
    lane: str
    source: str
    document: str
    texts: int
    planned: int
    billed: int
    cost_usd: float
    at: int


class Spent(NamedTuple):
    """The spending under one name: a lane, a source, a run, or a document together with its source."""

    source: str
    name: str
    texts: int
    planned: int
    billed: int
    cost_usd: float


class Taken(NamedTuple):
    """What was granted of a key's quota of a day, and how much of it is used then, by all."""

    granted: int
    used: int


@dataclass(frozen=True, kw_only=True)
class FileRow:
    """One file uploaded to the server or created by it; its bytes are stored at `key`.

    `owner` is the id of an API key, empty if the server needs none. Times are µs since 1970; `expires` 0 means never.
    """

    id: str
    owner: str
    purpose: str
    filename: str
    bytes: int
    key: str
    created: int
    expires: int = 0


@dataclass(frozen=True, kw_only=True)
class JobRow:
    """One job at this server's Batch API, of `owner` (see `FileRow`).

    `state` is OpenAI's. `input`, `output` and `errors` are ids of files. Of `total` lines the first `line` have their
    results stored, `completed` and `failed` of them; `tokens` were used, `queued` may still be. `metadata`, `faults`
    (validation errors) and `stamps` (when each state began, µs) are JSON. `keep` is the lifetime of its output files in
    seconds, 0 for ever. `worker` holds it until `until`; `ended` is 0 while there is work left. Times are µs since
    1970.
    """

    id: str
    owner: str
    tier: str
    input: str
    endpoint: str
    window: str
    created: int
    expires: int
    model: str = ""
    metadata: str = "{}"
    keep: int = 0
    state: str = "validating"
    total: int = 0
    completed: int = 0
    failed: int = 0
    line: int = 0
    tokens: int = 0
    queued: int = 0
    output: str = ""
    errors: str = ""
    faults: str = "[]"
    stamps: str = "{}"
    cancel: bool = False
    worker: str = ""
    until: int = 0
    ended: int = 0


@dataclass(frozen=True, kw_only=True)
class Rollback:
    """A collection restored to the contents of version `target`, as version `version`, at `at` (µs).

    The versions in between are undone; `runs` and `chunks` count what was reverted.
    """

    collection: str
    target: int
    version: int
    at: int
    runs: int = 0
    chunks: int = 0


# The subject of the dead letter that says why the deletions of a source, its owner, were withheld.
WITHHELD = "withheld deletions"
# The document of what was spent for documents that were forgotten.
FORGOTTEN = "(forgotten)"


@dataclass(frozen=True, kw_only=True)
class DeadLetter:
    """What failed permanently, until a person looks at it.

    `kind` is `source`, `chunk`, `run`, `delta` (of another producer), `batch` (a file), `subscriber`, `message`,
    `record` (of a stream) or `task`; `owner` its source, collection, subscriber, queue or table.
    """

    kind: str
    owner: str
    subject: str
    reason: str
    at: int
    attempts: int = 1


@dataclass(frozen=True, kw_only=True)
class KeyRow:
    """One API key. `hash` is the sha256 of its secret in hex; of the secret itself only `prefix` is stored.

    Empty `models` means all models. Times are µs since 1970; `revoked` and `used` are 0 if that never happened.
    """

    id: str
    name: str
    prefix: str
    hash: str
    tier: str
    created: int
    models: tuple[str, ...] = ()
    admin: bool = False
    revoked: int = 0
    used: int = 0


@dataclass(frozen=True, kw_only=True)
class Overview:
    """The state of a ledger in one snapshot: what a run takes up first, and what is left after it.

    `workers` hold chunks, `pending` collections have a run to commit, `seen` is each collection's newest version whose
    history is known. `submissions` are live, oldest first. `unfinished` counts chunks that are not SUCCESS, by
    collection and status. `troubled` sources have a dead letter.
    """

    workers: frozenset[str]
    pending: tuple[str, ...]
    seen: Mapping[str, int]
    submissions: tuple[SubmissionRow, ...]
    unfinished: Mapping[tuple[str, Status], int]
    troubled: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a source was fetched: its cursor, and how many documents it has."""

    cursor: Cursor
    documents: int


def day_of(at: int) -> str:
    """Return the day of a time (µs since 1970) in UTC, as 2026-11-30."""
    return datetime.fromtimestamp(at // 1_000_000, UTC).date().isoformat()


class InFlight(NamedTuple):
    """What is on its way to a provider: texts of submissions not recorded yet, and the live submissions (id, space)."""

    gathered: frozenset[str]
    live: tuple[tuple[str, str], ...]
