"""The index jobs, their events, and how much of the workers each owner has had."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from flowbed.ledger.index_jobs import (
    INDEX_JOB_FIXED,
    TURN_COST,
    IndexJobEvent,
    IndexJobRow,
    QueueDepth,
    reopened,
)
from flowbed.ledger.sql import holds
from flowbed.ledger.sql.database import Database, Lock, records
from flowbed.ledger.sql.schema import index_job_events, index_job_owners, index_jobs
from flowbed.ledger.text import is_unstorable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from flowbed.ledger.index_jobs import JobNote

ROW = index_jobs.c
# Jobs whose events are read with one statement: each is a condition of its own.
TOGETHER = 50


class _Owner(NamedTuple):
    owner: str
    start: int
    finish: int


class SqlIndexJobs:
    """`IndexJobs` in SQL."""

    def __init__(self, database: Database) -> None:
        """Keep the database that holds the tables."""
        self._database = database

    async def create(self, job: IndexJobRow, note: JobNote, *, since: int) -> IndexJobRow:
        """Record a job with its first event, unless its idempotency key names another."""
        database = self._database

        def work(connection: sa.Connection) -> IndexJobRow:
            # Two requests with one key would both find none.
            database.lock(connection, Lock.INDEX_JOBS)
            if job.idempotency is not None:
                mine = sa.and_(ROW.owner == job.owner, ROW.idempotency == job.idempotency)
                found = records(IndexJobRow, connection.execute(sa.select(index_jobs).where(mine)))
                if found and found[0].created >= since:
                    return found[0]
                connection.execute(sa.update(index_jobs).where(mine).values(idempotency=None))
            connection.execute(sa.insert(index_jobs).values({**vars(job), "seq": 1}))
            _note(connection, job.id, 0, [note])
            connection.execute(
                database.insert_new(index_job_owners).values(owner=job.owner, start=0, finish=0)
            )
            return IndexJobRow(**{**vars(job), "seq": 1})

        return await database.write(work)

    async def get(self, job: str) -> IndexJobRow | None:
        """Return one job of any owner, or None."""
        return await holds.read(self._database, IndexJobRow, index_jobs, job)

    async def list(
        self,
        owner: str | None,
        *,
        states: Collection[str] = (),
        collection: str = "",
        after: str | None = None,
        limit: int,
        descending: bool = True,
    ) -> Sequence[IndexJobRow]:
        """Return jobs of an owner, or of all, in order of time and id."""
        order = [each.desc() if descending else each.asc() for each in (ROW.created, ROW.id)]
        query = sa.select(index_jobs).order_by(*order).limit(limit)
        if owner is not None:
            query = query.where(ROW.owner == owner)
        if states:
            query = query.where(_in_states(states))
        if collection:
            query = query.where(ROW.collection == collection)
        if after is not None:
            known = await self.get(after)
            if known is None or owner not in {None, known.owner}:
                return []
            place, last = sa.tuple_(ROW.created, ROW.id), sa.tuple_(known.created, known.id)
            query = query.where(place < last if descending else place > last)
        return await self._database.fetch(IndexJobRow, query)

    async def claim(
        self, stages: Collection[str], *, worker: str, now: int, until: int
    ) -> IndexJobRow | None:
        """Hold the next job that waits for one of the stages."""
        waiting = (ROW.ended == 0, ROW.stage.in_(sorted(stages)), ROW.until < now, ROW.due <= now)
        first = (
            sa.select(index_jobs)
            .where(ROW.owner == sa.bindparam("whose"), *waiting)
            .order_by(ROW.key, ROW.id)
            .limit(1)
        )

        def work(connection: sa.Connection) -> IndexJobRow | None:
            # Two claims at once would serve one owner twice.
            self._database.lock(connection, Lock.INDEX_JOBS)
            owners = [_Owner(*row) for row in connection.execute(sa.select(index_job_owners))]
            now_served = max((each.start for each in owners), default=0)

            def served(each: _Owner) -> int:
                return max(each.finish, now_served)

            for tag, equals in groupby(sorted(owners, key=served), key=served):
                rows = [
                    row
                    for each in equals
                    for row in records(IndexJobRow, connection.execute(first, {"whose": each.owner}))
                ]
                if rows:
                    chosen = min(rows, key=lambda row: (row.key, row.id))
                    return _take(connection, chosen, tag, worker=worker, until=until)
            return None

        return await self._database.write(work)

    async def waiting(self, stage: str, *, now: int, limit: int) -> Sequence[IndexJobRow]:
        """Return jobs that `claim` could hold for a stage."""
        query = (
            sa.select(index_jobs)
            .where(ROW.ended == 0, ROW.stage == stage, ROW.until < now, ROW.due <= now)
            .order_by(ROW.key, ROW.id)
            .limit(limit)
        )
        return await self._database.fetch(IndexJobRow, query)

    async def hold(self, job: str, *, worker: str, now: int, until: int) -> IndexJobRow | None:
        """Hold a job for `worker` until `until`."""
        return await holds.hold(
            self._database, IndexJobRow, index_jobs, job, worker=worker, now=now, until=until
        )

    async def save(
        self, job: IndexJobRow, notes: Sequence[JobNote] = (), *, worker: str
    ) -> IndexJobRow | None:
        """Write a job that `worker` holds, with its events."""
        values = {name: value for name, value in vars(job).items() if name not in INDEX_JOB_FIXED}
        held = (ROW.id == job.id, ROW.worker == worker, ROW.worker != "", ROW.ended == 0)
        return await self._update(held, values, notes)

    async def cancel(self, job: str, how: str, note: JobNote) -> IndexJobRow | None:
        """Request the end of a job."""
        if is_unstorable(job):
            return None
        wanted = (ROW.id == job, ROW.ended == 0, ROW.cancel.notin_(("rollback", how)))
        changed = await self._update(wanted, {"cancel": how, "due": 0}, [note])
        return changed or await self.get(job)

    async def change(
        self, job: str, *, priority: int, key: int, metadata: str, note: JobNote
    ) -> IndexJobRow | None:
        """Change a job that has not ended."""
        values = {"priority": priority, "key": key, "metadata": metadata}
        if is_unstorable(job):
            return None
        changed = await self._update((ROW.id == job, ROW.ended == 0), values, [note])
        return changed or await self.get(job)

    async def reopen(self, job: str, *, key: int, note: JobNote) -> IndexJobRow | None:
        """Queue a job that has ended again, from its first stage."""
        if is_unstorable(job):
            return None
        return await self._update((ROW.id == job, ROW.ended > 0), reopened(key), [note])

    async def events(self, after: Mapping[str, int], *, limit: int) -> Sequence[IndexJobEvent]:
        """Return events of jobs that follow the number given for each."""
        column = index_job_events.c
        names = sorted(job for job in after if not is_unstorable(job))

        def work(connection: sa.Connection) -> list[IndexJobEvent]:
            found: list[IndexJobEvent] = []
            for start in range(0, len(names), TOGETHER):
                some = names[start : start + TOGETHER]
                query = (
                    sa.select(index_job_events)
                    .where(sa.or_(*(sa.and_(column.job == job, column.seq > after[job]) for job in some)))
                    .order_by(column.job, column.seq)
                    .limit(limit - len(found))
                )
                found += records(IndexJobEvent, connection.execute(query))
                if len(found) == limit:
                    break
            return found

        return await self._database.read(work)

    async def ahead(self, job: IndexJobRow) -> int:
        """Count the waiting jobs of its owner that come before a job."""
        query = (
            sa.select(sa.func.count())
            .select_from(index_jobs)
            .where(ROW.owner == job.owner, ROW.ended == 0, ROW.worker == "")
            .where(sa.tuple_(ROW.key, ROW.id) < sa.tuple_(job.key, job.id))
        )
        return int(await self._database.read(lambda connection: connection.execute(query).scalar_one()))

    async def depths(self, *, now: int) -> Mapping[str, QueueDepth]:
        """Return the depth of each stage's queue."""
        held, free = ROW.until >= now, sa.and_(ROW.until < now, ROW.due <= now)
        query = (
            sa.select(
                ROW.stage,
                sa.func.sum(sa.case((free, 1), else_=0)),
                sa.func.sum(sa.case((held, 1), else_=0)),
                sa.func.min(sa.case((free, ROW.created))),
            )
            .where(ROW.ended == 0)
            .group_by(ROW.stage)
        )

        def work(connection: sa.Connection) -> Mapping[str, QueueDepth]:
            rows = connection.execute(query)
            return {
                stage: QueueDepth(int(waiting), int(running), int(oldest or 0))
                for stage, waiting, running, oldest in rows
            }

        return await self._database.read(work)

    async def unfinished(self, collection: str) -> int:
        """Count the jobs of a collection that have not ended."""
        query = (
            sa.select(sa.func.count())
            .select_from(index_jobs)
            .where(ROW.collection == collection, ROW.ended == 0)
        )
        return int(await self._database.read(lambda connection: connection.execute(query).scalar_one()))

    async def workers(self) -> set[str]:
        """Return the workers that hold a job."""
        query = sa.select(ROW.worker).where(ROW.ended == 0, ROW.worker != "").distinct()
        return set(await self._database.fetch_values(query))

    async def release(self, worker: str) -> int:
        """Release every hold of `worker`."""
        mine = (ROW.ended == 0, ROW.worker == worker, ROW.worker != "")
        return await self._database.execute(sa.update(index_jobs).where(*mine).values(worker="", until=0))

    async def forget(self, *, before: int, limit: int) -> Sequence[str]:
        """Delete jobs that ended before a time, with their events."""
        old = sa.select(ROW.id).where(ROW.ended > 0, ROW.ended < before).order_by(ROW.ended).limit(limit)

        def work(connection: sa.Connection) -> list[str]:
            ids = list(connection.execute(old).scalars())
            if ids:
                connection.execute(sa.delete(index_job_events).where(index_job_events.c.job.in_(ids)))
                connection.execute(sa.delete(index_jobs).where(ROW.id.in_(ids)))
            return ids

        return await self._database.write(work)

    async def _update(
        self, where: Sequence[sa.ColumnElement[bool]], values: Mapping[str, Any], notes: Sequence[JobNote]
    ) -> IndexJobRow | None:
        """Change one row and record its events, in one step."""
        statement = (
            sa.update(index_jobs)
            .where(*where)
            .values({**values, "seq": ROW.seq + len(notes)})
            .returning(*index_jobs.c)
        )

        def work(connection: sa.Connection) -> IndexJobRow | None:
            found = records(IndexJobRow, connection.execute(statement))
            if not found:
                return None
            _note(connection, found[0].id, found[0].seq - len(notes), notes)
            return found[0]

        return await self._database.write(work)


def _take(
    connection: sa.Connection, row: IndexJobRow, tag: int, *, worker: str, until: int
) -> IndexJobRow | None:
    """Hold a job, and charge its owner for a turn that began at `tag`."""
    cost = max(1, min(row.cost, TURN_COST))
    connection.execute(
        sa.update(index_job_owners)
        .where(index_job_owners.c.owner == row.owner)
        .values(start=tag, finish=tag + cost)
    )
    # A worker that renews its hold takes no lock, so the condition is repeated.
    statement = (
        sa.update(index_jobs)
        .where(ROW.id == row.id, ROW.ended == 0, ROW.worker == row.worker, ROW.until == row.until)
        .values(worker=worker, until=until, attempts=ROW.attempts + 1)
        .returning(*index_jobs.c)
    )
    held = records(IndexJobRow, connection.execute(statement))
    return held[0] if held else None


def _in_states(states: Collection[str]) -> sa.ColumnElement[bool]:
    going = sa.and_(ROW.ended == 0, ROW.cancel != "")
    plain = sa.and_(ROW.state.in_(sorted(states)), sa.not_(going))
    return sa.or_(plain, going) if "cancelling" in states else plain


def _note(connection: sa.Connection, job: str, last: int, notes: Sequence[JobNote]) -> None:
    if notes:
        connection.execute(
            sa.insert(index_job_events),
            [{"job": job, "seq": seq, **note._asdict()} for seq, note in enumerate(notes, start=last + 1)],
        )
