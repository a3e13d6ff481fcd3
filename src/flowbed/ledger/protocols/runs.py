"""Runs, rollbacks and dead letters in a ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence

    from flowbed.ledger.rows import (
        DeadLetter,
        Rollback,
        RunRow,
    )


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
