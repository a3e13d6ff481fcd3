"""The rollbacks of each collection."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import sqlalchemy as sa

from flowbed.ledger import Rollback
from flowbed.ledger.sql.database import Database, Lock, listed, records
from flowbed.ledger.sql.overview import SEEN
from flowbed.ledger.sql.schema import chunks, facts, rollbacks, runs
from flowbed.ledger.sql.tables.runs import commit_runs, reverted_runs, see
from flowbed.records import Status

if TYPE_CHECKING:
    from collections.abc import Collection


class SqlRollbacks:
    """`Rollbacks` in SQL."""

    def __init__(self, database: Database) -> None:
        """Keep the database that holds the tables."""
        self._database = database

    async def record(self, rollback: Rollback, *, kept: Collection[str]) -> Rollback:
        """Record a rollback once, revert the runs it undid, and return it with their counts."""

        def work(connection: sa.Connection) -> Rollback:
            self._database.lock(connection, Lock.RUNS)
            existing = sa.select(rollbacks).where(
                rollbacks.c.collection == rollback.collection, rollbacks.c.version == rollback.version
            )
            for known in records(Rollback, connection.execute(existing)):
                return known
            held = set(kept)
            found = sa.select(runs.c.id).where(
                runs.c.collection == rollback.collection,
                runs.c.state == "committed",
                runs.c.version > rollback.target,
                runs.c.version < rollback.version,
            )
            undone = [run for run in connection.execute(found).scalars() if run not in held]
            done = replace(rollback, runs=len(undone), chunks=_revert(connection, undone))
            back = sorted(held.intersection(connection.execute(reverted_runs(rollback.collection)).scalars()))
            commit_runs(connection, back, version=rollback.version)
            connection.execute(self._database.insert_new(rollbacks).values(vars(done)))
            return done

        return await self._database.write(work)

    async def of(self, collection: str) -> list[Rollback]:
        """Return the rollbacks of a collection, newest first."""
        query = (
            sa.select(rollbacks)
            .where(rollbacks.c.collection == collection)
            .order_by(rollbacks.c.version.desc())
        )
        return await self._database.fetch(Rollback, query)

    async def seen(self, collection: str) -> int:
        """Return the version up to which the collection's history was searched for rollbacks."""
        query = sa.select(facts.c.value).where(facts.c.name == f"{SEEN}{collection}")
        found = await self._database.read(lambda connection: connection.execute(query).scalar_one_or_none())
        return int(found or 0)

    async def see(self, collection: str, version: int) -> None:
        """Record that the history was searched up to a version."""

        def work(connection: sa.Connection) -> None:
            self._database.lock(connection, Lock.RUNS)
            see(self._database, connection, collection, version)

        await self._database.write(work)


def _revert(connection: sa.Connection, run_ids: Collection[str]) -> int:
    named = listed(run_ids)
    connection.execute(sa.update(runs).where(runs.c.id.in_(named)).values(state="reverted"))
    undone = sa.update(chunks).where(chunks.c.run.in_(named), chunks.c.status == Status.SUCCESS)
    return connection.execute(undone.values(status=Status.REVERTED)).rowcount
