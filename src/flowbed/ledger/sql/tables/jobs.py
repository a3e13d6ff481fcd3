"""The jobs of the server's Batch API, and who is working on which."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from flowbed.ledger import JobRow
from flowbed.ledger.sql.database import PAGE, Database, records
from flowbed.ledger.sql.schema import jobs
from flowbed.ledger.text import is_unstorable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

# What is settled when a job is made, and never changes; and `cancel`, which is asked for by others.
_FIXED = ("id", "owner", "tier", "input", "endpoint", "window", "created", "metadata", "keep", "cancel")


class SqlJobs:
    """`Jobs` in SQL."""

    def __init__(self, database: Database) -> None:
        """Keep the database that holds the table."""
        self._database = database

    async def create(self, job: JobRow) -> None:
        """Record a job."""
        statement = self._database.insert_new(jobs).values(vars(job))
        await self._database.write(lambda connection: connection.execute(statement))

    async def get(self, job: str) -> JobRow | None:
        """Read one job."""
        if is_unstorable(job):
            return None
        found = await self._database.fetch(JobRow, sa.select(jobs).where(jobs.c.id == job))
        return found[0] if found else None

    async def list(self, owner: str, *, after: str | None, limit: int) -> Sequence[JobRow]:
        """Read the jobs of an owner, newest first."""
        query = (
            sa.select(jobs)
            .where(jobs.c.owner == owner)
            .order_by(jobs.c.created.desc(), jobs.c.id.desc())
            .limit(limit)
        )
        if after is not None:
            known = await self.get(after)
            if known is None or known.owner != owner:
                return []
            query = query.where(sa.tuple_(jobs.c.created, jobs.c.id) < sa.tuple_(known.created, known.id))
        return await self._database.fetch(JobRow, query)

    async def pages(self) -> AsyncIterator[Sequence[JobRow]]:
        """Read every job that has not ended, oldest first."""
        query = sa.select(jobs).where(jobs.c.ended == 0).order_by(jobs.c.created, jobs.c.id).limit(PAGE)
        following = query
        while page := await self._database.fetch(JobRow, following):
            yield page
            last = page[-1]
            following = query.where(sa.tuple_(jobs.c.created, jobs.c.id) > sa.tuple_(last.created, last.id))

    async def hold(self, job: str, *, worker: str, now: int, until: int) -> JobRow | None:
        """Hold a job that has not ended until `until`, and read it."""
        statement = (
            sa.update(jobs)
            .where(
                jobs.c.id == job,
                jobs.c.ended == 0,
                sa.or_(jobs.c.worker == "", jobs.c.worker == worker, jobs.c.until < now),
            )
            .values(worker=worker, until=until)
            .returning(*jobs.c)
        )
        found = await self._database.write(lambda connection: records(JobRow, connection.execute(statement)))
        return found[0] if found else None

    async def save(self, job: JobRow, *, worker: str) -> bool:
        """Write a job that `worker` still holds."""
        changed = {name: value for name, value in vars(job).items() if name not in _FIXED}
        statement = (
            sa.update(jobs)
            .where(jobs.c.id == job.id, jobs.c.worker == worker, jobs.c.worker != "", jobs.c.ended == 0)
            .values(changed)
        )
        return await self._database.write(lambda connection: connection.execute(statement).rowcount > 0)

    async def cancel(self, job: str) -> JobRow | None:
        """Ask for the end of a job, and return it as it then is."""

        def work(connection: sa.Connection) -> JobRow | None:
            connection.execute(sa.update(jobs).where(jobs.c.id == job, jobs.c.ended == 0).values(cancel=True))
            found = records(JobRow, connection.execute(sa.select(jobs).where(jobs.c.id == job)))
            return found[0] if found else None

        return None if is_unstorable(job) else await self._database.write(work)

    async def queued(self, owner: str) -> int:
        """Add up the tokens that the unfinished jobs of an owner may yet use."""
        query = sa.select(sa.func.coalesce(sa.func.sum(jobs.c.queued), 0)).where(
            jobs.c.owner == owner, jobs.c.ended == 0
        )
        return int(await self._database.read(lambda connection: connection.execute(query).scalar_one()))
