"""Chunks in a ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence

    from flowbed.ledger.rows import (
        ChunkMark,
        ChunkRow,
        Failure,
        InFlight,
    )
    from flowbed.records import Status


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
