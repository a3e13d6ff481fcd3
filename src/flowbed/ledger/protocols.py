"""What is known of every document, chunk, batch file, run, submission, cent, dead letter and API key; it holds no text.

One narrow protocol for each aggregate. None of them needs more than one item's atomicity beyond `Documents.swap`, the
conditional step that moves a source's cursor together with its documents and their chunks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence

    from flowbed.ledger.rows import (
        BatchRow,
        ChunkMark,
        ChunkRow,
        Cursor,
        DeadLetter,
        DocumentRow,
        Failure,
        FileRow,
        JobRow,
        KeyRow,
        Rollback,
        RunRow,
        SpendRow,
        Spent,
        SubmissionRow,
        Swap,
    )
    from flowbed.records import Status


class Documents(Protocol):
    """The documents of each source, and where its fetch stands."""

    async def cursor(self, source: str) -> Cursor:
        """Read where a source stands; one never fetched has token 0."""
        ...

    async def get(self, source: str, documents: Collection[str]) -> Mapping[str, DocumentRow]:
        """Read the rows of the documents named, by id; unknown ones are absent."""
        ...

    async def etags(self, source: str, documents: Collection[str]) -> Mapping[str, str]:
        """Read the etags of the documents named, by id; unknown ones are absent."""
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
        unless FAILED alone is asked for), or when it is PENDING, in no run, in no live submission, and its claim ran
        out before `now`, or it was left to a submission that has ended: a claim in force is never listed, even where
        PENDING is asked for. No sources named means all. "" comes last.
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
        """Make up to `limit` chunks of some batches PENDING for `worker` until `until`, each conditionally.

        What can be claimed is what `batches` lists. The rows won are returned as they stand after the claim: in no run,
        without the failure of their past, their attempts kept, and in the `submission` that is to carry their texts.
        """
        ...

    async def bind(self, chunks: Sequence[ChunkRow], *, worker: str, submission: str) -> None:
        """Put chunks that `worker` still holds, at the same version, into another submission."""
        ...

    async def hand_over(self, submission: str, *, worker: str) -> int:
        """Leave the chunks that `worker` holds to their submission, which is live: nobody holds them; return how many.

        They stay PENDING, and can be claimed again only after the submission has ended.
        """
        ...

    async def give_back(self, chunks: Sequence[ChunkRow], *, worker: str) -> None:
        """Make chunks that `worker` still holds, at the same version, wait again: NONE, in no submission."""
        ...

    async def gathered(self, hashes: Collection[str], *, besides: Collection[str]) -> set[str]:
        """Tell which of the texts (by text_hash) a submission in the making has taken in, other than `besides`.

        What counts is PENDING in no run, and its submission not recorded (yet).
        """
        ...

    async def take(self, submission: str, *, worker: str, now: int, until: int, limit: int) -> list[ChunkRow]:
        """Hold up to `limit` chunks of a live submission that nobody holds, for what it answered to be laid down.

        They are PENDING, and in no run; whose hold ran out before `now` has lost it. They come in the same order each
        time: by batch, collection, document, ordinal and id.
        """
        ...

    def submitted(self, submission: str) -> AsyncIterator[list[ChunkRow]]:
        """Read the chunks of a submission that are PENDING and in no run, held or not, in pages without a ceiling."""
        ...

    async def let_go(self, submission: str) -> int:
        """Make every PENDING chunk of a submission that is in no run wait again: NONE; return how many."""
        ...

    async def renew(self, worker: str, *, until: int) -> None:
        """Put off the end of every claim that `worker` holds."""
        ...

    async def workers(self) -> set[str]:
        """Name every worker that holds a claim on a chunk in no run."""
        ...

    async def release(self, worker: str) -> int:
        """Give back every claim of `worker` on chunks in no run: they become NONE; return how many it held.

        Those of a live submission are left to it, as `hand_over` does.
        """
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


class Submissions(Protocol):
    """The submissions. The row of one is what makes its chunks its own: without it, their claims run out."""

    async def create(self, submission: SubmissionRow) -> None:
        """Record a submission; the same one again changes nothing."""
        ...

    async def get(self, submission: str) -> SubmissionRow | None:
        """Read one submission."""
        ...

    def pages(self, *, live: bool) -> AsyncIterator[list[SubmissionRow]]:
        """Read the live submissions, or those that have ended, oldest first, without a ceiling."""
        ...

    async def hold(self, submission: str, *, worker: str, now: int, until: int) -> SubmissionRow | None:
        """Hold a live submission until `until`, and read it; None where another's hold lasts, or it has ended."""
        ...

    async def save(self, submission: SubmissionRow, *, worker: str) -> bool:
        """Write a submission that `worker` still holds and that is live; `submission.worker` holds it from then on.

        Returns False, and changes nothing, where it does not. A `cancel` that was asked for meanwhile stays.
        """
        ...

    async def cancel(self, submission: str) -> bool:
        """Ask for the end of a live submission, held or not; return whether there is one."""
        ...

    async def renew(self, worker: str, *, until: int) -> None:
        """Put off the end of every hold of `worker`."""
        ...

    async def workers(self) -> set[str]:
        """Name every worker that holds a live submission."""
        ...

    async def release(self, worker: str) -> int:
        """End every hold of `worker`; return how many. A state of `submitting` stays: something may have been sent."""
        ...

    async def queued(self, account: str, *, besides: str = "") -> int:
        """Add up the tokens of the live submissions of an account, but for one, that are queued at its provider."""
        ...


class Spending(Protocol):
    """What was paid for, by run and document."""

    async def record(self, rows: Sequence[SpendRow]) -> None:
        """Record what was spent; for a run, source and document that have a row already, nothing changes."""
        ...

    async def totals(
        self, by: Literal["lane", "source", "document", "run"], *, limit: int, since: int = 0
    ) -> list[Spent]:
        """Add up what was spent since a time (µs), under each name; those that cost most come first.

        Rows of no texts count for nothing: they say only that a run was recorded.
        """
        ...


class Files(Protocol):
    """The files of the server's Files API. Each belongs to its owner: no other is told that it exists."""

    async def create(self, file: FileRow) -> None:
        """Record a file; the same one again changes nothing."""
        ...

    async def get(self, file: str) -> FileRow | None:
        """Read one file's row, whosever it is."""
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
        """Read the files of an owner in order of time and id, following the one of id `after`.

        Those whose time is over by `now` are left out, and not counted by the limit.
        """
        ...

    async def stored(self, owner: str, *, now: int) -> int:
        """Add up the bytes of an owner's files, but those whose time is over."""
        ...

    async def remove(self, file: str) -> bool:
        """Forget a file; return whether it was there."""
        ...

    async def expired(self, *, now: int, limit: int) -> Sequence[FileRow]:
        """Read files of any owner whose time is over."""
        ...


class Jobs(Protocol):
    """The jobs of the server's Batch API."""

    async def create(self, job: JobRow) -> None:
        """Record a job; the same one again changes nothing."""
        ...

    async def get(self, job: str) -> JobRow | None:
        """Read one job, whosever it is."""
        ...

    async def list(self, owner: str, *, after: str | None, limit: int) -> Sequence[JobRow]:
        """Read the jobs of an owner, newest first, following the one of id `after`."""
        ...

    def pages(self) -> AsyncIterator[Sequence[JobRow]]:
        """Read every job of any owner that has not ended, oldest first, without a ceiling."""
        ...

    async def hold(self, job: str, *, worker: str, now: int, until: int) -> JobRow | None:
        """Hold a job that has not ended until `until`, and read it; None where another worker's hold lasts."""
        ...

    async def save(self, job: JobRow, *, worker: str) -> bool:
        """Write a job that `worker` still holds; `job.worker` holds it from then on.

        Returns False, and changes nothing, where it does not. A `cancel` that was asked for meanwhile stays.
        """
        ...

    async def cancel(self, job: str) -> JobRow | None:
        """Ask for the end of a job that has not ended, held or not; return it as it then is, or None: there is none."""
        ...

    async def queued(self, owner: str) -> int:
        """Add up the tokens that the unfinished jobs of an owner may yet use."""
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
    submissions: Submissions
    spending: Spending
    keys: Keys
    quotas: Quotas
    files: Files
    jobs: Jobs

    async def close(self) -> None:
        """Let go of the database."""
        ...
