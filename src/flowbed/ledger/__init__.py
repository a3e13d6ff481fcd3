"""What is known about every document, chunk, batch file, run, dead letter and API key. It holds no text.

One narrow protocol for each aggregate. None of them needs more than one item's atomicity beyond `Documents.swap`, the
conditional step that moves a source's cursor together with its documents and their chunks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from flowbed.errors import Misconfigured
from flowbed.records import Status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence
    from pathlib import Path


SCHEMES = ("sqlite", "postgresql", "postgres")


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


@dataclass(frozen=True, kw_only=True)
class ChunkRow:
    """One chunk.

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
    `texts` were sent to the provider, for `tokens` and `cost_usd`, in `seconds`; `version` is the commit that holds it.
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
    tokens: int = 0
    cost_usd: float = 0.0
    seconds: float = 0.0
    state: str = "pending"
    version: int = 0
    error: str = ""


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


class Documents(Protocol):
    """The documents of each source, and where its fetch stands."""

    async def cursor(self, source: str) -> Cursor:
        """Read where a source stands; one never fetched has token 0."""
        ...

    async def get(self, source: str, documents: Collection[str]) -> Mapping[str, DocumentRow]:
        """Read the rows of the documents named, by id; unknown ones are absent."""
        ...

    async def count(self, source: str) -> int:
        """Count the documents of a source."""
        ...

    def pages(self, source: str) -> AsyncIterator[list[DocumentRow]]:
        """Read every document of a source, in order of id, without a ceiling; changes meanwhile may be missed."""
        ...

    async def swap(self, swap: Swap) -> Cursor:
        """Apply one page of a fetch and return where the source now stands.

        Raises:
            Conflict: the cursor has moved; nothing was applied.

        """
        ...


class Chunks(Protocol):
    """The chunks, and who is working on which."""

    async def of(self, source: str, documents: Collection[str]) -> list[ChunkRow]:
        """Read every chunk row of the documents named, deleted ones among them."""
        ...

    async def find(self, subject: str) -> list[ChunkRow]:
        """Read the rows whose id or document is `subject`, in every collection and source."""
        ...

    async def owners(self, collection: str, chunk_ids: Collection[str]) -> Mapping[str, str]:
        """Tell which source holds each of the chunks named, by id; those that nobody holds are absent."""
        ...

    async def ready(
        self, batch: str, statuses: Collection[Status], *, now: int, sources: Collection[str]
    ) -> list[ChunkRow]:
        """Read the chunks of a batch that `claim` would give, and leave them as they are."""
        ...

    def batches(
        self, statuses: Collection[Status], *, now: int, sources: Collection[str]
    ) -> AsyncIterator[list[str]]:
        """List the batch ids with a chunk to work on, oldest first, in pages; "" stands for chunks to delete.

        A chunk is to be worked on when its status is among `statuses` (FAILED counts only with a transient failure,
        unless FAILED alone is asked for), or when it is PENDING, in no run, and its claim ran out before `now`: a claim
        in force is never listed, even where PENDING is asked for. No sources named means all. "" comes last.
        """
        ...

    async def claim(
        self,
        batch: str,
        statuses: Collection[Status],
        *,
        worker: str,
        now: int,
        until: int,
        sources: Collection[str],
        limit: int,
    ) -> list[ChunkRow]:
        """Make up to `limit` chunks of a batch PENDING for `worker` until `until`, each conditionally.

        What can be claimed is what `batches` lists. The rows won are returned as they stand after the claim: in no run,
        without the failure of their past, their attempts kept.
        """
        ...

    async def renew(self, worker: str, *, until: int) -> None:
        """Put off the end of every claim that `worker` holds."""
        ...

    async def workers(self) -> set[str]:
        """Name every worker that holds a claim on a chunk in no run."""
        ...

    async def release(self, worker: str) -> int:
        """Give back every claim of `worker` on chunks in no run: they become NONE; return how many."""
        ...

    async def fail(self, failures: Sequence[Failure], *, worker: str) -> None:
        """Make claimed chunks FAILED with their reason, one more attempt counted.

        A chunk that was re-versioned since, is held by another worker, or is in a run is left as it is.
        """
        ...

    async def retry(self, subjects: Collection[str], *, now: int) -> int:
        """Make FAILED chunks NONE again, each at version max(version + 1, now), and return how many.

        `subjects` are ids of chunks, or of refused runs whose chunks are meant; no subject means every chunk.
        """
        ...

    async def requeue(self, collection: str, chunk_ids: Collection[str], *, now: int) -> int:
        """Make SUCCESS chunks wait again (NONE, in no run), each at version max(version + 1, now); return how many.

        Deleted ones are among them: their deletion is then committed once more.
        """
        ...

    def marks(self, collection: str) -> AsyncIterator[list[ChunkMark]]:
        """Read the mark of every chunk of a collection, deleted ones too, in order of id, in pages without a ceiling.

        Changes meanwhile may be missed.
        """
        ...

    async def used(self, batches: Collection[str]) -> set[str]:
        """Tell which of the batch ids named any chunk row still names, whatever its status."""
        ...

    async def counts(self) -> Mapping[tuple[str, Status], int]:
        """Count live chunks by collection and status; a deleted chunk counts until its deletion is SUCCESS."""
        ...


class Batches(Protocol):
    """The batch files."""

    async def register(self, batch: BatchRow) -> BatchRow:
        """Record a batch file that is about to be written; one registered before comes back as it was then."""
        ...

    async def get(self, batches: Collection[str]) -> Mapping[str, BatchRow]:
        """Read the rows of the batch ids named; unknown ones are absent."""
        ...


class Runs(Protocol):
    """The runs: from the delta to the commit that holds it."""

    async def record(self, run: RunRow, chunks: Sequence[tuple[str, int]], *, worker: str) -> None:
        """Record a delta that lies in the store, and put the chunks (id, version) that `worker` claimed into its run.

        Recording the same run again changes nothing but chunks that were claimed anew. A run that gets such chunks
        after it was committed or refused is pending again, with the `key` and `sha256` now given.
        """
        ...

    async def pending(self, collection: str, *, limit: int) -> list[RunRow]:
        """Read the oldest pending runs of a collection."""
        ...

    async def collections(self) -> list[str]:
        """Name the collections that have a pending run."""
        ...

    async def commit(self, runs: Collection[str], *, version: int) -> None:
        """Mark runs committed in `version` of the index, and their PENDING or REVERTED chunks SUCCESS.

        A run that is committed already keeps its version. A version that a rollback has undone marks nothing: its runs
        stay as they are, for the next commit to merge again.
        """
        ...

    async def reverted(self, collection: str) -> list[str]:
        """Name the reverted runs of a collection."""
        ...

    async def release(self, collection: str) -> int:
        """Make the reverted runs of a collection pending again, their REVERTED chunks PENDING; return how many runs."""
        ...

    async def refuse(self, run: str, *, reason: str) -> None:
        """Mark a run refused, and its PENDING chunks FAILED (rejected) for the reason; a committed run stays so."""
        ...

    async def get(self, run: str) -> RunRow | None:
        """Read one run."""
        ...

    async def recent(self, *, limit: int) -> list[RunRow]:
        """Read the newest runs, newest first."""
        ...


class Rollbacks(Protocol):
    """What of each collection was rolled back, as far as its history is known."""

    async def record(self, rollback: Rollback, *, kept: Collection[str]) -> Rollback:
        """Write down what a version of the index has put back, and return it with what that reverted; repeatable.

        Runs committed in a version between its target and its own are reverted, and their SUCCESS chunks REVERTED,
        except the runs `kept`, which the target holds: of those, the reverted ones are committed by its version.
        """
        ...

    async def of(self, collection: str) -> list[Rollback]:
        """Read the rollbacks of a collection, newest first."""
        ...

    async def seen(self, collection: str) -> int:
        """Read up to which version the history of a collection was looked through for rollbacks; 0 at first."""
        ...

    async def see(self, collection: str, version: int) -> None:
        """Remember that the history was looked through up to a version; it never goes back."""
        ...


class DeadLetters(Protocol):
    """What failed for good until someone looks."""

    async def add(self, letters: Sequence[DeadLetter]) -> None:
        """Add letters; one of the same kind, owner and subject is replaced and its attempts counted on."""
        ...

    def pages(self) -> AsyncIterator[list[DeadLetter]]:
        """Read every letter, oldest first."""
        ...

    async def count(self) -> int:
        """Count the letters."""
        ...

    async def remove(self, kind: str, *, owner: str = "", subjects: Collection[str] = ()) -> int:
        """Remove letters of a kind, of one owner or all, with the subjects named or any; return how many."""
        ...


class Keys(Protocol):
    """The API keys. They are never deleted: a revoked one stays, so that its use can be explained."""

    async def create(self, key: KeyRow) -> None:
        """Record a key; the same one again changes nothing.

        Raises:
            Conflict: there is another key of that id or hash.

        """
        ...

    async def find(self, hash: str) -> KeyRow | None:  # noqa: A002 - the record's own field
        """Read the key whose secret has this hash, revoked or not, as it is now."""
        ...

    async def all(self) -> list[KeyRow]:
        """Read every key, oldest first."""
        ...

    async def exist(self) -> bool:
        """Tell whether there ever was a key."""
        ...

    async def revoke(self, id: str, *, at: int) -> KeyRow | None:  # noqa: A002 - the record's own field
        """Revoke a key and return it; one that was revoked before keeps its time. None where there is none."""
        ...

    async def use(self, times: Mapping[str, int]) -> None:
        """Note when keys were last used, by id; a time never goes back, and unknown ids are passed over."""
        ...


class Quotas(Protocol):
    """The tokens that each key has used on each day; `day` is written 2026-11-21, in UTC."""

    async def add(self, day: str, tokens: Mapping[str, int]) -> Mapping[str, int]:
        """Add tokens to what keys have used, by id, and return what each of them has used then."""
        ...

    async def used(self, day: str, keys: Collection[str]) -> Mapping[str, int]:
        """Read what the keys named have used; those that used nothing are absent."""
        ...

    async def forget(self, *, before: str) -> int:
        """Drop what was used before a day, and return how many rows that was."""
        ...


class Ledger(Protocol):
    """All aggregates of one ledger; `id` is made once, when the ledger is, and `location` shows no password."""

    id: str
    location: str
    documents: Documents
    chunks: Chunks
    batches: Batches
    runs: Runs
    rollbacks: Rollbacks
    dead_letters: DeadLetters
    keys: Keys
    quotas: Quotas

    async def close(self) -> None:
        """Let go of the database."""
        ...


async def open_ledger(url: str, *, folder: Path, new_id: str) -> Ledger:
    """Open the ledger at `url`, made (with `new_id`) or migrated where needed; a plain path is SQLite, below `folder`.

    Raises:
        Misconfigured: the address is of no database that Flowbed keeps a ledger in, or it was made by a newer Flowbed.
        Transient: its server cannot be reached.

    """
    scheme = url.partition("://")[0] if "://" in url else "sqlite"
    if scheme not in SCHEMES:
        raise Misconfigured(
            f"ledger of kind {scheme!r}: a ledger is kept in SQLite or Postgres; set it to a path such as"
            " .flowbed/ledger.db, or to postgresql://user@host/database"
        )
    from flowbed.ledger import sql  # noqa: PLC0415 - SQLAlchemy loads only when a ledger is opened

    if scheme != "sqlite":
        return await sql.open_postgres(url, new_id=new_id)
    return await sql.open_sqlite(url.removeprefix("sqlite:///"), folder=folder, new_id=new_id)
