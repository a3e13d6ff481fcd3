"""The runs, from their delta to its commit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from flowbed.ledger import RunRow
from flowbed.ledger.sql.database import Database, Lock, listed
from flowbed.ledger.sql.overview import SEEN
from flowbed.ledger.sql.schema import (
    chunks,
    claimed,
    dead_letters,
    facts,
    in_a_run,
    open_runs,
    reverted,
    rollbacks,
    runs,
)
from flowbed.ledger.text import escaped
from flowbed.records import Status

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

_TAKE = (
    sa.update(chunks)
    .where(
        chunks.c.id == sa.bindparam("of_id"),
        chunks.c.version == sa.bindparam("of_version"),
        chunks.c.collection == sa.bindparam("of_collection"),
        chunks.c.worker == sa.bindparam("of_worker"),
        claimed,
    )
    .values(run=sa.bindparam("into"), until=0)  # no longer a claim, so it cannot expire
)


class SqlRuns:
    """`Runs` in SQL."""

    def __init__(self, database: Database) -> None:
        """Keep the database that holds the tables."""
        self._database = database

    async def record(self, run: RunRow, chunks_: Sequence[tuple[str, int]], *, worker: str) -> None:
        """Record a delta in the store, and put the chunks (id, version) that `worker` has claimed into its run."""
        rows = [
            {
                "of_id": chunk,
                "of_version": version,
                "of_collection": run.collection,
                "of_worker": worker,
                "into": run.id,
            }
            for chunk, version in chunks_
        ]
        # What was merged may be merged again, and what was refused may have been fixed: the next commit decides again,
        # on the delta as its recorder found it.
        reopened = (
            sa.update(runs)
            .where(runs.c.id == run.id, runs.c.state != "pending")
            .values(state="pending", error="", key=run.key, sha256=run.sha256)
        )

        def work(connection: sa.Connection) -> None:
            # A run that is committed, refused or rolled back at the same time must not get chunks unnoticed.
            self._database.lock(connection, Lock.RUNS, shared=True)
            connection.execute(self._database.insert_new(runs).values(vars(run)))
            if rows and self._database.execute_many(connection, _TAKE, rows):
                connection.execute(reopened)
            letters = sa.and_(dead_letters.c.kind == "chunk", dead_letters.c.owner == run.collection)
            if connection.execute(sa.select(sa.exists().where(letters))).scalar_one():
                named = dead_letters.c.subject.in_(listed([chunk for chunk, _ in chunks_]))
                connection.execute(sa.delete(dead_letters).where(letters, named))

        await self._database.write(work)

    async def pending(self, collection: str, *, limit: int) -> list[RunRow]:
        """Return the oldest pending runs of a collection."""
        query = (
            sa.select(runs)
            .where(runs.c.collection == collection, open_runs)
            .order_by(runs.c.created, runs.c.id)
            .limit(limit)
        )
        return await self._database.fetch(RunRow, query)

    async def collections(self) -> list[str]:
        """Return the collections that have a pending run."""
        query = sa.select(runs.c.collection).where(open_runs).distinct().order_by(runs.c.collection)
        return await self._database.fetch_values(query)

    async def commit(self, runs_: Collection[str], *, version: int, onto: int = 0) -> None:
        """Mark runs committed in `version` of the index, and their PENDING or REVERTED chunks SUCCESS."""

        def work(connection: sa.Connection) -> None:
            self._database.lock(connection, Lock.RUNS)
            commit_runs(connection, runs_, version=version)
            if onto:
                collections = sa.select(runs.c.collection).where(runs.c.id.in_(listed(runs_))).distinct()
                for collection in connection.execute(collections).scalars().all():
                    see(self._database, connection, collection, version, known=onto)

        await self._database.write(work)

    async def reverted(self, collection: str) -> list[str]:
        """Return the ids of the reverted runs of a collection."""
        return await self._database.fetch_values(reverted_runs(collection))

    async def release(self, collection: str) -> int:
        """Make the reverted runs of a collection pending, and their REVERTED chunks PENDING."""

        def work(connection: sa.Connection) -> int:
            self._database.lock(connection, Lock.RUNS)
            back = list(connection.execute(reverted_runs(collection)).scalars())
            waiting = sa.update(chunks).where(chunks.c.run.in_(listed(back)), reverted)
            connection.execute(waiting.values(status=Status.PENDING, until=0))
            connection.execute(sa.update(runs).where(runs.c.id.in_(listed(back))).values(state="pending"))
            return len(back)

        return await self._database.write(work)

    async def refuse(self, run: str, *, reason: str) -> None:
        """Mark a pending run refused, and its PENDING chunks FAILED (rejected), for a reason."""

        def work(connection: sa.Connection) -> None:
            self._database.lock(connection, Lock.RUNS)
            connection.execute(
                sa.update(chunks)
                .where(chunks.c.run == run, in_a_run)
                .values(
                    status=Status.FAILED,
                    failure="rejected",
                    error=escaped(reason),
                    attempts=chunks.c.attempts + 1,
                    worker="",
                )
            )
            # If another process could merge the run, the index contains it: it stays committed.
            connection.execute(
                sa.update(runs)
                .where(runs.c.id == run, open_runs)
                .values(state="refused", error=escaped(reason))
            )

        await self._database.write(work)

    async def get(self, run: str) -> RunRow | None:
        """Return one run, or None."""
        query = sa.select(runs).where(runs.c.id == run)
        return await self._database.fetch_one(RunRow, query)

    async def recent(self, *, limit: int) -> list[RunRow]:
        """Return the newest runs, newest first."""
        query = sa.select(runs).order_by(runs.c.created.desc(), runs.c.id.desc()).limit(limit)
        return await self._database.fetch(RunRow, query)


def commit_runs(connection: sa.Connection, run_ids: Collection[str], *, version: int) -> None:
    """Mark runs committed, and their chunks SUCCESS, unless a rollback has undone the version."""
    named = listed(run_ids)
    for inside in (in_a_run, reverted):
        connection.execute(
            sa.update(chunks)
            .where(chunks.c.run.in_(named), inside, ~_undone(chunks.c.collection, version))
            .values(status=Status.SUCCESS, worker="")
        )
    # A run committed by another process keeps the version that contained it first.
    connection.execute(
        sa.update(runs)
        .where(runs.c.id.in_(named), runs.c.state != "committed", ~_undone(runs.c.collection, version))
        .values(state="committed", version=version, error="")
    )


def see(
    database: Database, connection: sa.Connection, collection: str, version: int, *, known: int = 0
) -> None:
    """Record that a collection's history is known up to `version`, if it was known up to `known`."""
    mine = facts.c.name == f"{SEEN}{collection}"
    before = connection.execute(sa.select(facts.c.value).where(mine)).scalar_one_or_none()
    # Version 1 is an empty dataset, without a history.
    if known > max(1, int(before or 0)):
        return
    if before is None:
        row = {"name": f"{SEEN}{collection}", "value": str(version)}
        connection.execute(database.insert_new(facts).values(row))
    elif int(before) < version:
        connection.execute(sa.update(facts).where(mine).values(value=str(version)))


def reverted_runs(collection: str) -> sa.Select[Any]:
    """Select the ids of the reverted runs of a collection."""
    return sa.select(runs.c.id).where(runs.c.collection == collection, runs.c.state == "reverted")


def _undone(collection: sa.Column[str], version: int) -> sa.Exists:
    return sa.exists().where(
        rollbacks.c.collection == collection, rollbacks.c.target < version, rollbacks.c.version > version
    )
