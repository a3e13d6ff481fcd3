"""The workers, by the clock of the database, and their marks."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from flowbed.ledger.sql.database import Database, listed
from flowbed.ledger.sql.schema import worker_marks, workers
from flowbed.ledger.workers import TURN, WorkerRow

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from sqlalchemy.sql.compiler import SQLCompiler

    from flowbed.ledger.sql.database import Insert


class _Now(FunctionElement[int]):
    """The time of the database in µs since 1970."""

    type = sa.BigInteger()
    inherit_cache = True


@compiles(_Now, "sqlite")
def _of_sqlite(_: _Now, __: SQLCompiler, **___: Any) -> str:  # SQLAlchemy's signature
    return "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)"


@compiles(_Now, "postgresql")
def _of_postgres(_: _Now, __: SQLCompiler, **___: Any) -> str:  # SQLAlchemy's signature
    # Not that of the transaction, which may have waited for its connection.
    return "CAST(extract(epoch FROM statement_timestamp()) * 1000000 AS BIGINT)"


NOW = _Now()


class SqlWorkers:
    """`Workers` in SQL."""

    def __init__(self, database: Database) -> None:
        """Keep the database that holds the tables."""
        self._database = database

    async def beat(self, worker: WorkerRow) -> None:
        """Record that a worker lives, and what it does."""
        given = {
            each.name: getattr(worker, each.name)
            for each in dataclasses.fields(worker)
            if each.name not in {"started", "beat", "silent", "reaper"}
        }
        statement = self._database.upsert(
            workers,
            started=workers.c.started,
            # It lives, whatever was thought of it.
            reaper=sa.literal(""),
        ).values(**given, started=NOW, beat=NOW, reaper="")
        await self._database.execute(statement)

    async def all(self) -> list[WorkerRow]:
        """Return the workers, oldest first."""
        query = sa.select(workers, (NOW - workers.c.beat).label("silent")).order_by(
            workers.c.started, workers.c.id
        )
        return await self._database.fetch(WorkerRow, query)

    async def reap(self, worker: str, *, by: str, silent: int, lost: int) -> bool:
        """Take on the work of a worker that has been silent for this long."""
        reapers = workers.alias()
        living = sa.select(reapers.c.id).where(reapers.c.beat > NOW - lost)
        statement = (
            sa.update(workers)
            .where(
                workers.c.id == worker,
                workers.c.beat <= NOW - silent,
                sa.or_(workers.c.reaper.in_(("", by)), workers.c.reaper.not_in(living)),
            )
            .values(reaper=by)
        )
        return await self._database.execute(statement) > 0

    async def remove(self, worker: str) -> None:
        """Remove a worker."""
        await self._database.execute(sa.delete(workers).where(workers.c.id == worker))

    async def turn(self, name: str, *, every: int) -> bool:
        """Take the turn of something that one of all workers does every so many µs."""
        late = (
            sa.update(worker_marks)
            .where(
                worker_marks.c.kind == TURN,
                worker_marks.c.name == name,
                worker_marks.c.number <= NOW - every,
            )
            .values(number=NOW)
        )
        first = (
            self._database.insert_new(worker_marks)
            .values(kind=TURN, name=name, number=NOW)
            .returning(worker_marks.c.name)
        )

        def work(connection: sa.Connection) -> bool:
            return connection.execute(late).rowcount > 0 or connection.execute(first).first() is not None

        return await self._database.write(work)

    async def marks(self, *kinds: str) -> Sequence[Mapping[str, int]]:
        """Return the marks of each kind by name."""
        query = sa.select(worker_marks).where(worker_marks.c.kind.in_(kinds))
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return [{row.name: row.number for row in rows if row.kind == kind} for kind in kinds]

    async def mark(self, kind: str, name: str, number: int) -> None:
        """Set a mark."""
        await self._database.execute(
            self._database.upsert(worker_marks).values(kind=kind, name=name, number=number)
        )

    async def add(self, kind: str, names: Collection[str]) -> Mapping[str, int]:
        """Add 1 to marks of a kind."""
        rows = [{"kind": kind, "name": name, "number": 1} for name in sorted(set(names))]
        if not rows:
            return {}
        statement: Insert = self._database.upsert(worker_marks, number=worker_marks.c.number + 1)
        query = sa.select(worker_marks.c.name, worker_marks.c.number).where(
            worker_marks.c.kind == kind, worker_marks.c.name.in_(listed(names))
        )

        def work(connection: sa.Connection) -> Mapping[str, int]:
            self._database.execute_many(connection, statement, rows)
            return {row.name: row.number for row in connection.execute(query)}

        return await self._database.write(work)

    async def unmark(self, kind: str, names: Collection[str]) -> int:
        """Remove marks of a kind."""
        return await self._database.execute(
            sa.delete(worker_marks).where(worker_marks.c.kind == kind, worker_marks.c.name.in_(listed(names)))
        )
