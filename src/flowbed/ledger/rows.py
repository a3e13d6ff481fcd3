"""The rows of the ledger: what is known of one thing each. Times are microseconds since 1970."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from flowbed.records import Status

if TYPE_CHECKING:
    from collections.abc import Sequence

# What saving a row leaves as it is: fields that never change, and `cancel`, which other workers may set meanwhile.
SUBMISSION_FIXED = frozenset({"id", "space", "key", "bytes", "texts", "chunks", "created", "cancel"})
JOB_FIXED = frozenset(
    {"id", "owner", "tier", "input", "endpoint", "window", "created", "metadata", "keep", "cancel"}
)


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """Where a source stands; `token` moves with every swap and is what a swap is conditional on."""

    source: str
    value: str = ""
    token: int = 0


@dataclass(frozen=True, kw_only=True)
class DocumentRow:
    """One document of a source as it was last chunked. `generation` is when (µs): it only grows."""

    source: str
    id: str
    etag: str
    hash: str
    chunks: int
    generation: int


class ChunkRow(NamedTuple):
    """One chunk; a tuple, since there are millions of them.

    `deleted` marks a chunk whose document dropped it. `worker` holds it until `until` (µs), which is 0 once it is in a
    `run`. `failure` is the class of `error`: `transient` or `rejected`.
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
    """What the index can be held against, of one chunk; a tuple, since a proof reads millions of them."""

    id: str
    version: int
    deleted: bool
    status: Status
    text_hash: str
    row_hash: str
    batch: str


@dataclass(frozen=True, kw_only=True)
class BatchRow:
    """One batch file; `timestamp` (µs) is fixed when it is registered, so that a repeat writes the same bytes."""

    id: str
    source: str
    key: str
    timestamp: int
    chunks: int


@dataclass(frozen=True, kw_only=True)
class Swap:
    """What one page of a fetch changes: it holds as a whole, or not at all when `cursor` has moved since it was read.

    Every row of `chunks` replaces the row of its (collection, id); rows of documents not named stay as they are. The
    version of a chunk only grows: a changed row whose version is not above the stored one is put one above it.
    """

    cursor: Cursor
    value: str
    documents: Sequence[DocumentRow] = ()
    removed: Sequence[str] = ()
    chunks: Sequence[ChunkRow] = ()


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why one claimed chunk could not be embedded; `kind` is `transient` or `rejected`."""

    collection: str
    id: str
    version: int
    kind: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """One piece of embedding work for one collection; `state` is `pending`, `committed`, `refused` or `reverted`.

    `created` is when its chunks were claimed (µs): a deletion that its delta does not know of can only be later.
    `texts` were sent to the provider, for `tokens` (`planned` were counted before) and `cost_usd`, in `seconds`;
    `version` is the commit that holds it.
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
    """One job at a provider's Batch API: from the file of texts that asks, to the commit that holds the answers.

    `state` is `ready`, `submitting` (an upload may be under way), `submitted`, and then how it ended: `completed`,
    `failed`, `expired` or `cancelled`. As long as `ended` (µs) is 0 it is live, and its chunks are nobody else's.
    `account` is whose queue it stands in, `key` where its input lies, of `bytes`; it asks for `texts`, which `chunks`
    share, of `tokens` as they were planned. `worker` holds it until `until`; before `later` (µs) nothing is tried.
    `job` is the provider's own id, known since `submitted`; what has no answer by `deadline` is embedded now; 0 is
    without one. `done` and `failed` count texts as the provider does, `billed` are its tokens. `cancel` asks for its
    end.
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
        """Tell whether room in its provider's queue is kept for it.

        It is not for what was put off on the way there, of which there is hardly ever a job, nor for what has ended
        with answers that cannot be taken in: either would keep others waiting for as long as that is so.
        """
        if self.state == "submitted":
            return not self.ended and (not self.error or self.done + self.failed < self.texts)
        return self.state == "submitting" and not self.later


@dataclass(frozen=True, kw_only=True)
class SpendRow:
    """What one run was billed for the texts of one document: tokens as planned and as billed, and US dollars.

    `run` is that of the delta, or on the batch lane the submission; what that was billed for texts that no chunk has
    any more is of no document. `at` is µs since 1970.
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
    """What was spent under one name: a lane, a source, a run, or a document, which is named with its source."""

    source: str
    name: str
    texts: int
    planned: int
    billed: int
    cost_usd: float


@dataclass(frozen=True, kw_only=True)
class FileRow:
    """One file that somebody sent to the server, or that it made for them, whose bytes lie at `key` in the store.

    `owner` is the id of an API key, empty where none is needed. Times are µs since 1970; `expires` is 0 for never.
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
    """One job at the Batch API of this server, for `owner` (see `FileRow`).

    `state` is OpenAI's word for it. `input`, `output` and `errors` are ids of files. Of `total` lines the first `line`
    have their answers in the store, `completed` and `failed` of them; `tokens` were used, `queued` may yet be.
    `metadata`, `faults` (what validation found) and `stamps` (when each state began, µs) are JSON. `keep` is how many
    seconds the files it makes are kept, 0 for ever. `worker` holds it until `until`; `ended` is 0 while there is
    something left to do. Times are µs since 1970.
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
    """A collection put back to the contents of version `target`, by its version `version`, at `at` (µs).

    The versions between the two are undone; `runs` and `chunks` are how many were reverted for it.
    """

    collection: str
    target: int
    version: int
    at: int
    runs: int = 0
    chunks: int = 0


@dataclass(frozen=True, kw_only=True)
class DeadLetter:
    """What failed for good until someone looks.

    `kind` is `source`, `chunk` or `run`; `owner` its source or collection.
    """

    kind: str
    owner: str
    subject: str
    reason: str
    at: int
    attempts: int = 1


@dataclass(frozen=True, kw_only=True)
class KeyRow:
    """One API key. `hash` is the sha256 of its secret in hex; of the secret itself only `prefix` is known.

    No `models` means all of them. Times are µs since 1970; `revoked` and `used` are 0 where that never happened.
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
