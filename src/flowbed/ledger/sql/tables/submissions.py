"""The submissions, and which worker holds which."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import sqlalchemy as sa

from flowbed.ledger import SubmissionRow
from flowbed.ledger.rows import SUBMISSION_FIXED
from flowbed.ledger.sql import holds
from flowbed.ledger.sql.schema import submissions
from flowbed.ledger.text import escaped, is_unstorable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flowbed.ledger.sql.database import Database


class SqlSubmissions:
    """`Submissions` in SQL."""

    def __init__(self, database: Database) -> None:
        """Keep the database that holds the table."""
        self._database = database

    async def create(self, submission: SubmissionRow) -> None:
        """Record a submission."""
        await self._database.execute(self._database.insert_new(submissions).values(vars(submission)))

    async def get(self, submission: str) -> SubmissionRow | None:
        """Return one submission, or None."""
        return await holds.read(self._database, SubmissionRow, submissions, submission)

    async def pages(self, *, live: bool) -> AsyncIterator[list[SubmissionRow]]:
        """Iterate over the live or the ended submissions, oldest first."""
        table = submissions.c
        query = sa.select(submissions).where(table.ended == 0 if live else table.ended > 0)
        async for page in self._database.pages(SubmissionRow, query, table.created, table.id):
            yield page

    async def hold(self, submission: str, *, worker: str, now: int, until: int) -> SubmissionRow | None:
        """Hold a live submission for `worker` until `until`."""
        return await holds.hold(
            self._database, SubmissionRow, submissions, submission, worker=worker, now=now, until=until
        )

    async def save(self, submission: SubmissionRow, *, worker: str) -> bool:
        """Write a live submission that `worker` holds."""
        row = replace(submission, error=escaped(submission.error))
        values = {name: value for name, value in vars(row).items() if name not in SUBMISSION_FIXED}
        return await holds.save(self._database, submissions, row.id, values, worker=worker)

    async def cancel(self, submission: str) -> bool:
        """Request the cancellation of a live submission, held or not."""
        if is_unstorable(submission):
            return False
        live = sa.update(submissions).where(submissions.c.id == submission, submissions.c.ended == 0)
        return await self._database.execute(live.values(cancel=True)) > 0

    async def renew(self, worker: str, *, until: int) -> None:
        """Extend every hold of `worker` to `until`."""
        await self._database.execute(_held(worker).values(until=until))

    async def workers(self) -> set[str]:
        """Return the workers that hold a live submission."""
        query = (
            sa.select(submissions.c.worker)
            .where(submissions.c.ended == 0, submissions.c.worker != "")
            .distinct()
        )
        return set(await self._database.fetch_values(query))

    async def release(self, worker: str) -> int:
        """Release every hold of `worker`."""
        return await self._database.execute(_held(worker).values(worker="", until=0))

    async def queued(self, account: str, *, besides: str = "") -> int:
        """Sum the tokens of an account's live submissions, except `besides`, that are queued at its provider."""
        live = [row async for page in self.pages(live=True) for row in page]
        return sum(
            row.tokens for row in live if row.account == account and row.id != besides and row.is_queued
        )


def _held(worker: str) -> sa.Update:
    return sa.update(submissions).where(submissions.c.worker == worker, submissions.c.ended == 0)
