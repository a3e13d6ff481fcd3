"""The jobs of the server's Batch API, and which worker holds which."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from flowbed.ledger import JobRow
from flowbed.ledger.rows import JOB_FIXED
from flowbed.ledger.sql import holds
from flowbed.ledger.sql.database import Database, records
from flowbed.ledger.sql.schema import jobs
from flowbed.ledger.text import is_unstorable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence


class SqlJobs:
    """`Jobs` in SQL."""

    def __init__(self, database: Database) -> None:
        """Keep the database that holds the table."""
        self._database = database

    async def create(self, job: JobRow) -> None:
        """Record a job."""
        await self._database.execute(self._database.insert_new(jobs).values(vars(job)))

    async def get(self, job: str) -> JobRow | None:
        """Return one job of any owner, or None."""
        return await holds.read(self._database, JobRow, jobs, job)

    async def list(self, owner: str, *, after: str | None, limit: int) -> Sequence[JobRow]:
        """Return an owner's jobs, newest first, those that follow the id `after`."""
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
        """Iterate over the jobs of all owners that have not ended, oldest first."""
        query = sa.select(jobs).where(jobs.c.ended == 0)
        async for page in self._database.pages(JobRow, query, jobs.c.created, jobs.c.id):
            yield page

    async def hold(self, job: str, *, worker: str, now: int, until: int) -> JobRow | None:
        """Hold a job for `worker` until `until`."""
        return await holds.hold(self._database, JobRow, jobs, job, worker=worker, now=now, until=until)

    async def save(self, job: JobRow, *, worker: str) -> bool:
        """Write a job that `worker` holds."""
        values = {name: value for name, value in vars(job).items() if name not in JOB_FIXED}
        return await holds.save(self._database, jobs, job.id, values, worker=worker)

    async def cancel(self, job: str) -> JobRow | None:
        """Request the cancellation of a job that has not ended, held or not."""

        def work(connection: sa.Connection) -> JobRow | None:
            connection.execute(sa.update(jobs).where(jobs.c.id == job, jobs.c.ended == 0).values(cancel=True))
            found = records(JobRow, connection.execute(sa.select(jobs).where(jobs.c.id == job)))
            return found[0] if found else None

        return None if is_unstorable(job) else await self._database.write(work)

    async def queued(self, owner: str) -> int:
        """Sum the tokens that the unfinished jobs of an owner may still use."""
        query = sa.select(sa.func.coalesce(sa.func.sum(jobs.c.queued), 0)).where(
            jobs.c.owner == owner, jobs.c.ended == 0
        )
        return int(await self._database.read(lambda connection: connection.execute(query).scalar_one()))
