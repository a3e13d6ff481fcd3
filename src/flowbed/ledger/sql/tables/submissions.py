"""The submissions, and who is working on which."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import sqlalchemy as sa

from flowbed.ledger import SubmissionRow
from flowbed.ledger.sql.database import PAGE, Database, records
from flowbed.ledger.sql.schema import submissions
from flowbed.ledger.text import escaped, is_unstorable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# What is settled when a submission is made, and never changes.
_FIXED = ("id", "space", "key", "bytes", "texts", "chunks", "created", "cancel")


class SqlSubmissions:
    """`Submissions` in SQL."""

    def __init__(self, database: Database) -> None:
        """Keep the database that holds the table."""
        self._database = database

    async def create(self, submission: SubmissionRow) -> None:
        """Record a submission."""
        statement = self._database.insert_new(submissions).values(vars(submission))
        await self._database.write(lambda connection: connection.execute(statement))

    async def get(self, submission: str) -> SubmissionRow | None:
        """Read one submission."""
        if is_unstorable(submission):
            return None
        found = await self._database.fetch(
            SubmissionRow, sa.select(submissions).where(submissions.c.id == submission)
        )
        return found[0] if found else None

    async def pages(self, *, live: bool) -> AsyncIterator[list[SubmissionRow]]:
        """Read the live submissions, or those that have ended, oldest first."""
        table = submissions.c
        query = (
            sa.select(submissions)
            .where(table.ended == 0 if live else table.ended > 0)
            .order_by(table.created, table.id)
            .limit(PAGE)
        )
        following = query
        while page := await self._database.fetch(SubmissionRow, following):
            yield page
            last = page[-1]
            following = query.where(sa.tuple_(table.created, table.id) > sa.tuple_(last.created, last.id))

    async def hold(self, submission: str, *, worker: str, now: int, until: int) -> SubmissionRow | None:
        """Hold a live submission until `until`, and read it."""
        table = submissions.c
        statement = (
            sa.update(submissions)
            .where(
                table.id == submission,
                table.ended == 0,
                sa.or_(table.worker == "", table.worker == worker, table.until < now),
            )
            .values(worker=worker, until=until)
            .returning(*table)
        )
        found = await self._database.write(
            lambda connection: records(SubmissionRow, connection.execute(statement))
        )
        return found[0] if found else None

    async def save(self, submission: SubmissionRow, *, worker: str) -> bool:
        """Write a submission that `worker` still holds."""
        row = replace(submission, error=escaped(submission.error))
        changed = {name: value for name, value in vars(row).items() if name not in _FIXED}
        return await self._change(
            sa.update(submissions)
            .where(
                submissions.c.id == row.id,
                submissions.c.worker == worker,
                submissions.c.worker != "",
                submissions.c.ended == 0,
            )
            .values(changed)
        )

    async def cancel(self, submission: str) -> bool:
        """Ask for the end of a live submission."""
        if is_unstorable(submission):
            return False
        return await self._change(
            sa.update(submissions)
            .where(submissions.c.id == submission, submissions.c.ended == 0)
            .values(cancel=True)
        )

    async def renew(self, worker: str, *, until: int) -> None:
        """Put off the end of every hold of `worker`."""
        await self._change(_held(worker).values(until=until))

    async def workers(self) -> set[str]:
        """Name every worker that holds a live submission."""
        query = (
            sa.select(submissions.c.worker)
            .where(submissions.c.ended == 0, submissions.c.worker != "")
            .distinct()
        )
        return set(await self._database.read(lambda connection: connection.execute(query).scalars().all()))

    async def release(self, worker: str) -> int:
        """End every hold of `worker`."""
        statement = _held(worker).values(worker="", until=0)
        return await self._database.write(lambda connection: connection.execute(statement).rowcount)

    async def queued(self, account: str, *, besides: str = "") -> int:
        """Add up the tokens that take room in the provider's queue."""
        live = [row async for page in self.pages(live=True) for row in page]
        return sum(
            row.tokens for row in live if row.account == account and row.id != besides and row.is_queued
        )

    async def _change(self, statement: sa.Update) -> bool:
        return await self._database.write(lambda connection: connection.execute(statement).rowcount > 0)


def _held(worker: str) -> sa.Update:
    return sa.update(submissions).where(submissions.c.worker == worker, submissions.c.ended == 0)
