"""The protocols of a ledger, one narrow protocol per aggregate. A ledger stores no text of documents.

No method needs atomicity across items except `Documents.swap`, which moves a source's cursor together with its
documents and their chunks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence

    from flowbed.ledger.rows import (
        BatchEvent,
        BatchRow,
        ChunkMark,
        ChunkRow,
        Cursor,
        DeadLetter,
        DocumentRow,
        Erasure,
        Failure,
        FileRow,
        InFlight,
        JobRow,
        KeyRow,
        Overview,
        Progress,
        Rollback,
        RunRow,
        SpendRow,
        Spent,
        SubmissionRow,
        Swap,
        Taken,
    )
    from flowbed.ledger.vector_stores import VectorStoreFiles, VectorStores
    from flowbed.records import Status


class Documents(Protocol):
    """The documents of each source, and the source's cursor."""

    async def cursor(self, source: str) -> Cursor:
        """Return the cursor of a source; one that was never fetched has token 0."""
        ...

    async def progress(self, sources: Collection[str]) -> Mapping[str, Progress]:
        """Read the cursor of each source and how many documents it has; one never fetched has token 0."""
        ...

    async def get(self, source: str, documents: Collection[str]) -> Mapping[str, DocumentRow]:
        """Return rows by document id; unknown documents are missing."""
        ...

    async def etags(self, source: str, documents: Collection[str]) -> Mapping[str, str]:
        """Return etags by document id; unknown documents are missing."""
        ...

    async def count(self, source: str) -> int:
        """Count the documents of a source."""
        ...

    def pages(self, source: str) -> AsyncIterator[list[DocumentRow]]:
        """Iterate over all documents of a source in order of id, in pages; concurrent changes may be missed."""
        ...

    async def swap(self, swap: Swap) -> Cursor:
        """Apply one page of a fetch and return the source's new cursor.

        Raises:
            Conflict: the cursor has moved; nothing was applied.
        """
        ...


class Chunks(Protocol):
    """The chunks, and which worker has claimed which."""

    async def of(self, source: str, documents: Collection[str]) -> list[ChunkRow]:
        """Return all chunk rows of some documents, including deleted ones."""
        ...

    async def find(self, subject: str) -> list[ChunkRow]:
        """Return the rows whose id or document is `subject`, in every collection and source."""
        ...

    async def owners(self, collection: str, chunk_ids: Collection[str]) -> Mapping[str, str]:
        """Return the source of each chunk by id; chunks that no source has, or that are deleted, are missing."""
        ...

    async def ready(
        self, batch: str, statuses: Collection[Status], *, now: int, sources: Collection[str]
    ) -> list[ChunkRow]:
        """Return the chunks of a batch that `claim` would return, without claiming them."""
        ...

    def batches(
        self, statuses: Collection[Status], *, now: int, sources: Collection[str]
    ) -> AsyncIterator[list[str]]:
        """Iterate over the ids of batches with a claimable chunk, oldest first, in pages.

        A chunk is claimable if its status is among `statuses`; FAILED includes rejected failures only if it is the one
        status given. A PENDING chunk in no run and no live submission is claimable too once its claim expired before
        `now`, or the submission it was left to has ended. A claim that has not expired is never listed, even if PENDING
        is given. The batch "" stands for chunks to delete, and comes last. Empty `sources` means all sources.
        """
        ...

    async def claim(
        self,
        batches: Collection[str],
        statuses: Collection[Status],
        *,
        worker: str,
        now: int,
        until: int,
        sources: Collection[str],
        limit: int,
        submission: str = "",
    ) -> list[ChunkRow]:
        """Claim up to `limit` claimable chunks (see `batches`) for `worker` until `until`, each conditionally.

        Returns the rows after the claim: PENDING, in no run, without their past failure, with their attempts, and in
        the `submission` that will contain their texts.
        """
        ...

    async def bind(self, chunks: Sequence[ChunkRow], *, worker: str, submission: str) -> None:
        """Move chunks that `worker` has claimed, at the same version, to another submission."""
        ...

    async def hand_over(self, submission: str, *, worker: str) -> int:
        """Leave the chunks that `worker` has claimed to their live submission, without a holder; return how many.

        They stay PENDING, and become claimable only after the submission has ended.
        """
        ...

    async def give_back(self, chunks: Sequence[ChunkRow], *, worker: str) -> None:
        """Reset chunks that `worker` has claimed, at the same version, to NONE, in no submission."""
        ...

    async def in_flight(self, hashes: Collection[str], *, besides: Collection[str]) -> InFlight:
        """Return in one snapshot which of the texts, by text_hash, are gathered, and which submissions are live.

        A text is gathered if a chunk of it is PENDING, in no run, and in an unrecorded submission that is not in
        `besides`.
        """
        ...

    async def take(self, submission: str, *, worker: str, now: int, until: int, limit: int) -> list[ChunkRow]:
        """Hold up to `limit` free chunks of a live submission for `worker`, so that it can write their results.

        Only chunks that are PENDING and in no run are taken; a hold that ended before `now` is free. The order is
        always the same: batch, collection, document, ordinal, id.
        """
        ...

    def submitted(self, submission: str) -> AsyncIterator[list[ChunkRow]]:
        """Iterate over the chunks of a submission that are PENDING and in no run, held or not, in pages."""
        ...

    async def let_go(self, submission: str) -> int:
        """Reset the PENDING chunks of a submission that are in no run to NONE; return how many."""
        ...

    async def renew(self, worker: str, *, until: int) -> None:
        """Extend every claim of `worker` to `until`."""
        ...

    async def workers(self) -> set[str]:
        """Return the workers that have claimed a chunk in no run."""
        ...

    async def release(self, worker: str) -> int:
        """Reset the chunks in no run that `worker` has claimed to NONE; return how many it had.

        Those of a live submission are left to it, as by `hand_over`.
        """
        ...

    async def fail(self, failures: Sequence[Failure], *, worker: str) -> None:
        """Mark claimed chunks FAILED with their reason, and count one more attempt.

        Chunks that changed version, belong to another worker, or are in a run stay as they are.
        """
        ...

    async def retry(self, subjects: Collection[str], *, now: int) -> int:
        """Reset FAILED chunks to NONE, each at version max(version + 1, now); return how many.

        `subjects` are ids of chunks, or of refused runs, which mean their chunks; none means every chunk.
        """
        ...

    async def requeue(self, collection: str, chunk_ids: Collection[str], *, now: int) -> int:
        """Reset SUCCESS chunks to NONE, in no run, each at version max(version + 1, now); return how many.

        This includes deleted chunks: their deletion is then committed once more.
        """
        ...

    def marks(self, collection: str) -> AsyncIterator[list[ChunkMark]]:
        """Iterate over the marks of all chunks of a collection, including deleted ones, in order of id, in pages.

        Concurrent changes may be missed.
        """
        ...

    async def used(self, batches: Collection[str]) -> set[str]:
        """Return those of the batch ids that a chunk row still refers to, in any status."""
        ...

    async def counts(self) -> Mapping[tuple[str, Status], int]:
        """Count live chunks by collection and status; a deleted chunk counts until its deletion is SUCCESS."""
        ...


class Batches(Protocol):
    """The batch files."""

    async def register(self, batch: BatchRow) -> BatchRow:
        """Record a batch file before it is written; if it is registered already, return the existing row."""
        ...

    async def get(self, batches: Collection[str]) -> Mapping[str, BatchRow]:
        """Return rows by batch id; unknown ids are missing."""
        ...

    async def positions(self) -> Mapping[str, int]:
        """Return the position of each source's newest batch file whose chunks are recorded."""
        ...

    async def events(self, source: str, *, after: int, limit: int) -> list[BatchEvent]:
        """Return the batch files of a source after a position, in the order in which a swap recorded their chunks.

        A position is the token of the source's cursor after that swap. None appears later before one that was returned.
        """
        ...


class Runs(Protocol):
    """The runs, from their delta to its commit."""

    async def record(self, run: RunRow, chunks: Sequence[tuple[str, int]], *, worker: str) -> None:
        """Record a delta in the store, and put the chunks (id, version) that `worker` has claimed into its run.

        Recording a run again only adds chunks that were claimed again. A committed or refused run that gets such
        chunks is pending again, with this `key` and `sha256`.
        The dead letters of its chunks are removed.
        """
        ...

    async def pending(self, collection: str, *, limit: int) -> list[RunRow]:
        """Return the oldest pending runs of a collection."""
        ...

    async def collections(self) -> list[str]:
        """Return the collections that have a pending run."""
        ...

    async def commit(self, runs: Collection[str], *, version: int, onto: int = 0) -> None:
        """Mark runs committed in `version` of the index, and their PENDING or REVERTED chunks SUCCESS.

        A run that is committed already keeps its version. For a version that a rollback has undone nothing changes: the
        next commit merges its runs again.

        `onto` is the version that the runs were merged onto, if nothing was written in between. If the history was
        searched for rollbacks up to it, it counts as searched up to `version`.
        """
        ...

    async def reverted(self, collection: str) -> list[str]:
        """Return the ids of the reverted runs of a collection."""
        ...

    async def release(self, collection: str) -> int:
        """Make the reverted runs of a collection pending, and their REVERTED chunks PENDING; return how many runs."""
        ...

    async def refuse(self, run: str, *, reason: str) -> None:
        """Mark a pending run refused, and its PENDING chunks FAILED (rejected), for a reason."""
        ...

    async def get(self, run: str) -> RunRow | None:
        """Return one run, or None."""
        ...

    async def recent(self, *, limit: int) -> list[RunRow]:
        """Return the newest runs, newest first."""
        ...


class Rollbacks(Protocol):
    """The rollbacks of each collection."""

    async def record(self, rollback: Rollback, *, kept: Collection[str]) -> Rollback:
        """Record a rollback once, revert the runs it undid, and return it with their counts.

        Runs committed in a version between its target and its own become reverted, and their SUCCESS chunks REVERTED.
        The runs `kept` are excepted, since the target contains them: the reverted ones among them become committed.
        """
        ...

    async def of(self, collection: str) -> list[Rollback]:
        """Return the rollbacks of a collection, newest first."""
        ...

    async def seen(self, collection: str) -> int:
        """Return the version up to which the collection's history was searched for rollbacks; 0 at first."""
        ...

    async def see(self, collection: str, version: int) -> None:
        """Record that the history was searched up to a version; a lower one changes nothing."""
        ...


class DeadLetters(Protocol):
    """What failed permanently, until a person looks at it."""

    async def add(self, letters: Sequence[DeadLetter]) -> None:
        """Add letters; one of the same kind, owner and subject is replaced, and its attempts are added."""
        ...

    def pages(self) -> AsyncIterator[list[DeadLetter]]:
        """Iterate over all letters, oldest first, in pages."""
        ...

    async def count(self) -> int:
        """Count the letters."""
        ...

    async def remove(self, kind: str, *, owner: str = "", subjects: Collection[str] = ()) -> int:
        """Remove letters of a kind, optionally only those of an owner or with given subjects; return how many."""
        ...


class Submissions(Protocol):
    """The submissions. Until a submission is recorded, its chunks do not belong to it, and their claims expire."""

    async def create(self, submission: SubmissionRow) -> None:
        """Record a submission; an existing id changes nothing."""
        ...

    async def get(self, submission: str) -> SubmissionRow | None:
        """Return one submission, or None."""
        ...

    def pages(self, *, live: bool) -> AsyncIterator[list[SubmissionRow]]:
        """Iterate over the live or the ended submissions, oldest first, in pages."""
        ...

    async def hold(self, submission: str, *, worker: str, now: int, until: int) -> SubmissionRow | None:
        """Hold a live submission for `worker` until `until`; None if it has ended or another worker holds it."""
        ...

    async def save(self, submission: SubmissionRow, *, worker: str) -> bool:
        """Write a live submission that `worker` holds; from then on `submission.worker` holds it.

        Returns False, and changes nothing, if it does not hold it. A `cancel` that was requested meanwhile stays.
        """
        ...

    async def cancel(self, submission: str) -> bool:
        """Request the cancellation of a live submission, held or not; return whether there is one."""
        ...

    async def renew(self, worker: str, *, until: int) -> None:
        """Extend every hold of `worker` to `until`."""
        ...

    async def workers(self) -> set[str]:
        """Return the workers that hold a live submission."""
        ...

    async def release(self, worker: str) -> int:
        """Release every hold of `worker`; return how many.

        The state `submitting` stays, since a request may have been sent.
        """
        ...

    async def queued(self, account: str, *, besides: str = "") -> int:
        """Sum the tokens of an account's live submissions, except `besides`, that are queued at its provider."""
        ...


class Spending(Protocol):
    """What was paid for, by run and document."""

    async def record(self, rows: Sequence[SpendRow]) -> None:
        """Record spending; an existing row of the same run, source and document stays as it is."""
        ...

    async def totals(
        self, by: Literal["lane", "source", "document", "run", "day"], *, limit: int, since: int = 0
    ) -> list[Spent]:
        """Sum the spending since a time (µs) by lane, source, document, run or day (2026-11-30, UTC); dearest first.

        Rows without texts do not count: they only say that a run was recorded.
        """
        ...


class Files(Protocol):
    """The files of the server's Files API. Each belongs to its owner: nobody else learns that it exists."""

    async def create(self, file: FileRow) -> None:
        """Record a file; an existing id changes nothing."""
        ...

    async def get(self, file: str) -> FileRow | None:
        """Return one file of any owner, or None."""
        ...

    async def list(
        self,
        owner: str,
        *,
        purpose: str | None,
        after: str | None,
        limit: int,
        descending: bool,
        now: int = 0,
    ) -> Sequence[FileRow]:
        """Return an owner's files in order of time and id, those that follow the id `after`.

        Files that expired by `now` are left out, and do not count towards `limit`.
        """
        ...

    async def stored(self, owner: str, *, now: int) -> int:
        """Sum the bytes of an owner's files that have not expired."""
        ...

    async def count(self, owner: str, *, now: int) -> int:
        """Count an owner's files that have not expired."""
        ...

    async def remove(self, file: str) -> bool:
        """Remove a file; return whether it existed."""
        ...

    async def expired(self, *, now: int, limit: int) -> Sequence[FileRow]:
        """Return expired files of any owner."""
        ...


class Jobs(Protocol):
    """The jobs of the server's Batch API."""

    async def create(self, job: JobRow) -> None:
        """Record a job; an existing id changes nothing."""
        ...

    async def get(self, job: str) -> JobRow | None:
        """Return one job of any owner, or None."""
        ...

    async def list(self, owner: str, *, after: str | None, limit: int) -> Sequence[JobRow]:
        """Return an owner's jobs, newest first, those that follow the id `after`."""
        ...

    def pages(self) -> AsyncIterator[Sequence[JobRow]]:
        """Iterate over the jobs of all owners that have not ended, oldest first, in pages."""
        ...

    async def hold(self, job: str, *, worker: str, now: int, until: int) -> JobRow | None:
        """Hold a job for `worker` until `until`; None if it has ended or another worker holds it."""
        ...

    async def save(self, job: JobRow, *, worker: str) -> bool:
        """Write a job that `worker` holds; from then on `job.worker` holds it.

        Returns False, and changes nothing, if it does not hold it. A `cancel` that was requested meanwhile stays.
        """
        ...

    async def cancel(self, job: str) -> JobRow | None:
        """Request the cancellation of a job that has not ended, held or not; return the job, or None."""
        ...

    async def queued(self, owner: str) -> int:
        """Sum the tokens that the unfinished jobs of an owner may still use."""
        ...


class Keys(Protocol):
    """The API keys. They are never deleted: a revoked key stays, so that its past use can be explained."""

    async def create(self, key: KeyRow) -> None:
        """Record a key; the same key again changes nothing.

        Raises:
            Conflict: another key has this id or hash.
        """
        ...

    async def find(self, hash: str) -> KeyRow | None:  # noqa: A002 - the record's own field
        """Return the key whose secret has this hash, revoked or not, or None."""
        ...

    async def all(self) -> list[KeyRow]:
        """Return every key, oldest first."""
        ...

    async def exist(self) -> bool:
        """Return whether any key was ever created."""
        ...

    async def revoke(self, id: str, *, at: int) -> KeyRow | None:  # noqa: A002 - the record's own field
        """Revoke a key and return it, or None if there is none; a revoked key keeps its time."""
        ...

    async def use(self, times: Mapping[str, int]) -> None:
        """Record when keys were last used, by id; a time never goes back, and unknown ids are ignored."""
        ...


class Quotas(Protocol):
    """The tokens and embeddings that each key has used per day; a `day` is written 2026-11-21, in UTC."""

    async def add(self, day: str, tokens: Mapping[str, int]) -> Mapping[str, int]:
        """Add tokens to what keys have used, and return each key's new total."""
        ...

    async def used(self, day: str, keys: Collection[str]) -> Mapping[str, int]:
        """Return the tokens that some keys have used; keys that used none are missing."""
        ...

    async def take(self, day: str, key: str, wanted: int, *, least: int, most: int) -> Taken:
        """Take up to `wanted` embeddings of a key's `most` of a day, or none if not even `least` are left.

        However many take at once, they never have more than `most` together.
        """
        ...

    async def give_back(self, day: str, key: str, unspent: int) -> None:
        """Give back embeddings that were taken and not made."""
        ...

    async def forget(self, *, before: str) -> int:
        """Delete what was used before a day; return how many rows."""
        ...


class Erasing(Protocol):
    """Removes rows from all tables without a trace."""

    async def erase(self, erasure: Erasure) -> int:
        """Remove the rows of chunks and documents, and their names in spending; return how many chunks and documents.

        What was spent is kept, under the document `FORGOTTEN`. A cursor, or the error of a run or submission, that
        contains one of the names is emptied. Dead letters stay.
        """
        ...

    async def scrub(self) -> str:
        """Overwrite on the disk what removed rows have left there; return why that was not possible, or ""."""
        ...


class Ledger(Protocol):
    """All aggregates of one ledger. `id` is created with the ledger; `location` shows no password."""

    id: str
    location: str
    documents: Documents
    chunks: Chunks
    batches: Batches
    runs: Runs
    rollbacks: Rollbacks
    dead_letters: DeadLetters
    submissions: Submissions
    spending: Spending
    keys: Keys
    quotas: Quotas
    files: Files
    jobs: Jobs
    vector_stores: VectorStores
    vector_store_files: VectorStoreFiles
    erasing: Erasing

    async def overview(self) -> Overview:
        """Return the state of the ledger in one snapshot."""
        ...

    async def close(self) -> None:
        """Close the database."""
        ...
