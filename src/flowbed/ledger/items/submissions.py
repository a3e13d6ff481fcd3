"""The submissions, all in one partition since they are few, so that reads never lag."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flowbed.ledger import SubmissionRow
from flowbed.ledger.items import holds
from flowbed.ledger.items.rows import SUBMISSIONS, item_of, row_of
from flowbed.ledger.items.table import all_of, create, groups, read_all
from flowbed.ledger.rows import SUBMISSION_FIXED
from flowbed.ledger.text import escaped

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping

    from flowbed.ledger.items.table import Table

PAGE = 1_000


class ItemSubmissions:
    """`Submissions` in a table."""

    def __init__(self, table: Table) -> None:
        """Take the table."""
        self._table = table

    async def create(self, submission: SubmissionRow) -> None:
        """Record a submission."""
        await create(self._table, (SUBMISSIONS, submission.id), item_of(submission))

    async def get(self, submission: str) -> SubmissionRow | None:
        """Return one submission, or None."""
        item = await self._table.get((SUBMISSIONS, submission))
        return row_of(SubmissionRow, item) if item else None

    async def pages(self, *, live: bool) -> AsyncIterator[list[SubmissionRow]]:
        """Iterate over the live or the ended submissions, oldest first."""
        rows = [row_of(SubmissionRow, item) for item in await all_of(self._table.query, SUBMISSIONS)]
        found = [row for row in rows if live == (row.ended == 0)]
        for page in groups(sorted(found, key=lambda row: (row.created, row.id)), PAGE):
            yield page

    async def hold(self, submission: str, *, worker: str, now: int, until: int) -> SubmissionRow | None:
        """Hold a live submission for `worker` until `until`."""
        item = await holds.hold(self._table, (SUBMISSIONS, submission), worker=worker, now=now, until=until)
        return row_of(SubmissionRow, item) if item else None

    async def save(self, submission: SubmissionRow, *, worker: str) -> bool:
        """Write a live submission that `worker` holds."""
        row = replace(submission, error=escaped(submission.error))
        values = {name: value for name, value in vars(row).items() if name not in SUBMISSION_FIXED}
        return await holds.save(self._table, (SUBMISSIONS, row.id), values, worker=worker)

    async def cancel(self, submission: str) -> bool:
        """Request the cancellation of a live submission, held or not."""
        return await holds.save(self._table, (SUBMISSIONS, submission), {"cancel": True})

    async def renew(self, worker: str, *, until: int) -> None:
        """Extend every hold of `worker` to `until`."""
        await self._held(worker, {"until": until})

    async def workers(self) -> set[str]:
        """Return the workers that hold a live submission."""
        return {row.worker async for page in self.pages(live=True) for row in page} - {""}

    async def release(self, worker: str) -> int:
        """Release every hold of `worker`."""
        return await self._held(worker, {"worker": "", "until": 0})

    async def queued(self, account: str, *, besides: str = "") -> int:
        """Sum the tokens of an account's live submissions, except `besides`, that are queued at its provider."""
        live = [row async for page in self.pages(live=True) for row in page]
        return sum(
            row.tokens for row in live if row.account == account and row.id != besides and row.is_queued
        )

    async def live(self, submissions: Collection[str]) -> set[str]:
        """Return those of the submissions that are live."""
        return {row.id for row in await self.read(submissions) if not row.ended}

    async def read(self, submissions: Collection[str]) -> list[SubmissionRow]:
        """Return those of the submissions that are recorded."""
        keys = [(SUBMISSIONS, each) for each in sorted(set(submissions) - {""})]
        return [row_of(SubmissionRow, item) for item in await read_all(self._table, keys)]

    async def _held(self, worker: str, changes: Mapping[str, Any]) -> int:
        live = [row async for page in self.pages(live=True) for row in page]
        return sum(
            [
                await holds.save(self._table, (SUBMISSIONS, row.id), changes, worker=worker)
                for row in live
                if row.worker == worker
            ]
        )
