"""Submissions and spending in a ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from flowbed.ledger.rows import (
        SpendRow,
        Spent,
        SubmissionRow,
    )


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
