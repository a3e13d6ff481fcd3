"""The jobs of the server: one item each, and its name in a partition per owner."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.ledger import JobRow
from flowbed.ledger.items import holds
from flowbed.ledger.items.rows import item_of, row_of
from flowbed.ledger.items.table import Put, all_of, create, pages, read_all
from flowbed.ledger.rows import JOB_FIXED
from flowbed.ledger.text import is_unstorable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from flowbed.ledger.items.table import Key, Table


class ItemJobs:
    """`Jobs` in a table."""

    def __init__(self, table: Table) -> None:
        """Take the table."""
        self._table = table

    async def create(self, job: JobRow) -> None:
        """Record a job."""
        place = (f"jobs#{job.owner}", f"{job.created:020}#{job.id}")
        name = Put(place, {"record": "member", "id": job.id}, expected=None)
        await create(self._table, _key(job.id), item_of(job), name)

    async def get(self, job: str) -> JobRow | None:
        """Return one job of any owner, or None."""
        item = None if is_unstorable(job) else await self._table.get(_key(job))
        return row_of(JobRow, item) if item else None

    async def list(self, owner: str, *, after: str | None, limit: int) -> Sequence[JobRow]:
        """Return an owner's jobs, newest first, those that follow the id `after`."""
        ids = await self._of(owner)
        if after is not None:
            ids = ids[ids.index(after) + 1 :] if after in ids else []
        return await self._read(ids[:limit])

    async def pages(self) -> AsyncIterator[Sequence[JobRow]]:
        """Iterate over the jobs of all owners that have not ended, oldest first."""
        async for page in pages(self._table.look_up, "jobs_by_age", "-"):
            # A listed job may have ended by now, and must not be started again.
            rows = [row for row in await self._read([item["id"] for item in page]) if not row.ended]
            if rows:
                yield rows

    async def hold(self, job: str, *, worker: str, now: int, until: int) -> JobRow | None:
        """Hold a job for `worker` until `until`."""
        item = await holds.hold(self._table, _key(job), worker=worker, now=now, until=until)
        return row_of(JobRow, item) if item else None

    async def save(self, job: JobRow, *, worker: str) -> bool:
        """Write a job that `worker` holds."""
        values = {name: value for name, value in vars(job).items() if name not in JOB_FIXED}
        return await holds.save(self._table, _key(job.id), values, worker=worker)

    async def cancel(self, job: str) -> JobRow | None:
        """Request the cancellation of a job that has not ended, held or not."""
        if not is_unstorable(job):
            await holds.save(self._table, _key(job), {"cancel": True})
        return await self.get(job)

    async def queued(self, owner: str) -> int:
        """Sum the tokens that the unfinished jobs of an owner may still use."""
        return sum(row.queued for row in await self._read(await self._of(owner)) if not row.ended)

    async def _of(self, owner: str) -> Sequence[str]:
        return [name["id"] for name in reversed(await all_of(self._table.query, f"jobs#{owner}"))]

    async def _read(self, ids: Sequence[str]) -> Sequence[JobRow]:
        return [row_of(JobRow, item) for item in await read_all(self._table, map(_key, ids))]


def _key(job: str) -> Key:
    return f"job#{job}", "-"
