"""What the server keeps in a ledger: files, jobs of batches, keys and quotas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence

    from flowbed.ledger.rows import (
        FileRow,
        JobRow,
        KeyRow,
        Taken,
    )


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
