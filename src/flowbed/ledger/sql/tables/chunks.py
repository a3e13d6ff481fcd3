"""The chunks, and which worker has claimed which."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING

import sqlalchemy as sa

from flowbed.ledger import ChunkMark, ChunkRow, InFlight
from flowbed.ledger.sql.database import Change, Database, listed
from flowbed.ledger.sql.schema import (
    SUCCESS,
    chunks,
    claimed,
    held,
    submissions,
    submitted,
    unfinished,
)
from flowbed.ledger.sql.tables.claimable import (
    claimable,
    claimable_batches,
    is_live,
    next_version,
    unrecorded_submissions,
)
from flowbed.ledger.text import escaped, is_unstorable
from flowbed.records import Status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence

    from flowbed.ledger import Failure

_HELD = (
    chunks.c.id == sa.bindparam("of_id"),
    chunks.c.collection == sa.bindparam("of_collection"),
    chunks.c.version == sa.bindparam("of_version"),
    chunks.c.worker == sa.bindparam("of_worker"),
    claimed,
)
_FAIL = (
    sa.update(chunks)
    .where(*_HELD)
    .values(
        status=Status.FAILED,
        attempts=chunks.c.attempts + 1,
        failure=sa.bindparam("kind"),
        error=sa.bindparam("reason"),
        worker="",
        until=0,
        submission="",
    )
)
_BIND = sa.update(chunks).where(*_HELD).values(submission=sa.bindparam("into"))
_BACK = {"status": Status.NONE, "worker": "", "until": 0, "submission": ""}
_GIVE_BACK = sa.update(chunks).where(*_HELD).values(_BACK)


@dataclass(frozen=True)
class _Aged:
    age: int
    batch: str


_NOW: sa.ColumnElement[int] = sa.bindparam("of_now", type_=sa.BigInteger)
_LIMIT: sa.ColumnElement[int] = sa.bindparam("of_limit", type_=sa.Integer)
_ORDER = ("batch", "collection", "document", "ordinal", "id")
_SUBMISSION: sa.ColumnElement[str] = sa.bindparam("of_submission", type_=sa.Text)
_TAKING = Change(
    chunks,
    sa.select(chunks)
    .where(
        chunks.c.submission == _SUBMISSION,
        submitted,
        sa.or_(chunks.c.worker == "", chunks.c.until < _NOW),
        is_live(_SUBMISSION),
    )
    .order_by(*(chunks.c[name] for name in _ORDER))
    .limit(_LIMIT),
    constants=("worker", "until"),
)


@lru_cache(64)
def _claiming(statuses: frozenset[Status], sources: frozenset[str]) -> Change:
    return Change(
        chunks,
        sa.select(chunks)
        .where(
            chunks.c.batch.in_(sa.bindparam("of_batches", type_=sa.Text, expanding=True)),
            claimable(chunks, statuses, now=_NOW, sources=sources),
        )
        .limit(_LIMIT),
        constants=("status", "worker", "until", "run", "submission", "failure", "error"),
        # The run of a failed chunk needs a new id, and run ids are derived from versions.
        expressions={
            "version": sa.case((chunks.c.status == Status.FAILED, next_version(_NOW)), else_=chunks.c.version)
        },
    )


_MARKS = 5_000  # per page: a mark is a third of a row, and an audit reads all of them


class SqlChunks:
    """`Chunks` in SQL."""

    def __init__(self, database: Database) -> None:
        """Keep the database that holds the tables."""
        self._database = database

    async def of(self, source: str, documents: Collection[str]) -> list[ChunkRow]:
        """Return all chunk rows of some documents, including deleted ones."""
        query = sa.select(chunks).where(chunks.c.document.in_(listed(documents)), chunks.c.source == source)
        return await self._database.fetch(ChunkRow, query)

    async def find(self, subject: str) -> list[ChunkRow]:
        """Return the rows whose id or document is `subject`, in every collection and source."""
        if is_unstorable(subject):
            return []
        query = (
            sa.select(chunks)
            .where(sa.or_(chunks.c.id == subject, chunks.c.document == subject))
            .order_by(chunks.c.collection, chunks.c.id)
        )
        return await self._database.fetch(ChunkRow, query)

    async def owners(self, collection: str, chunk_ids: Collection[str]) -> Mapping[str, str]:
        """Return the source of each chunk by id."""
        query = sa.select(chunks.c.id, chunks.c.source).where(
            chunks.c.collection == collection, chunks.c.id.in_(listed(chunk_ids)), sa.not_(chunks.c.deleted)
        )
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return {row.id: row.source for row in rows}

    async def ready(
        self, batch: str, statuses: Collection[Status], *, now: int, sources: Collection[str]
    ) -> list[ChunkRow]:
        """Return the chunks of a batch that `claim` would return, without claiming them."""
        query = sa.select(chunks).where(
            chunks.c.batch == batch, claimable(chunks, statuses, now=now, sources=sources)
        )
        return await self._database.fetch(ChunkRow, query)

    async def batches(
        self, statuses: Collection[Status], *, now: int, sources: Collection[str]
    ) -> AsyncIterator[list[str]]:
        """Iterate over the ids of batches with a claimable chunk, oldest first."""
        query, age, batch = claimable_batches(statuses, now=now, sources=sources)
        async for page in self._database.pages(_Aged, query, age, batch):
            yield [found.batch for found in page]

    async def claim(
        self,
        batches: Collection[str],
        statuses: Collection[Status],
        *,
        worker: str,
        now: int,
        until: int,
        sources: Collection[str],
        limit: int,
        submission: str = "",
    ) -> list[ChunkRow]:
        """Claim up to `limit` claimable chunks (see `batches`) for `worker` until `until`, each conditionally."""
        won = await self._database.change(
            ChunkRow,
            _claiming(frozenset(statuses), frozenset(sources)),
            {
                "of_batches": sorted(batches),
                "of_now": now,
                "of_limit": limit,
                "to_status": Status.PENDING,
                "to_worker": worker,
                "to_until": until,
                "to_run": "",
                "to_submission": submission,
                "to_failure": "",
                "to_error": "",
            },
        )
        return sorted(won, key=attrgetter("collection", "document", "ordinal", "id"))

    async def bind(self, chunks_: Sequence[ChunkRow], *, worker: str, submission: str) -> None:
        """Move chunks that `worker` has claimed, at the same version, to another submission."""
        await self._each(_BIND, chunks_, worker, into=submission)

    async def hand_over(self, submission: str, *, worker: str) -> int:
        """Leave the chunks that `worker` has claimed to their live submission, without a holder."""
        statement = sa.update(chunks).where(
            chunks.c.worker == worker,
            chunks.c.submission == submission,
            held,
            is_live(submission),
        )
        return await self._database.execute(statement.values(worker="", until=0))

    async def give_back(self, chunks_: Sequence[ChunkRow], *, worker: str) -> None:
        """Reset chunks that `worker` has claimed, at the same version, to NONE, in no submission."""
        await self._each(_GIVE_BACK, chunks_, worker)

    async def in_flight(self, hashes: Collection[str], *, besides: Collection[str]) -> InFlight:
        """Return in one snapshot the texts that are gathered, and the live submissions."""
        making = unrecorded_submissions()
        its = submissions.c
        current = sa.select(its.id, its.space).where(its.ended == 0).order_by(its.created, its.id)

        def work(connection: sa.Connection) -> InFlight:
            rows = tuple((id_, space) for id_, space in connection.execute(current))
            others = set(connection.execute(making).scalars().all()) - set(besides) if hashes else set()
            if not others:
                return InFlight(frozenset(), rows)
            query = sa.select(chunks.c.text_hash).where(
                chunks.c.submission.in_(listed(others)), submitted, chunks.c.text_hash.in_(listed(hashes))
            )
            return InFlight(frozenset(connection.execute(query).scalars()), rows)

        return await self._database.read(work)

    async def take(self, submission: str, *, worker: str, now: int, until: int, limit: int) -> list[ChunkRow]:
        """Hold up to `limit` free chunks of a live submission for `worker`, so that it can write their results."""
        taken = await self._database.change(
            ChunkRow,
            _TAKING,
            {
                "of_submission": submission,
                "of_now": now,
                "of_limit": limit,
                "to_worker": worker,
                "to_until": until,
            },
        )
        return sorted(taken, key=attrgetter(*_ORDER))

    async def submitted(self, submission: str) -> AsyncIterator[list[ChunkRow]]:
        """Iterate over the chunks of a submission that are PENDING and in no run, held or not."""
        query = sa.select(chunks).where(chunks.c.submission == submission, submitted)
        by = (chunks.c.batch, chunks.c.id, chunks.c.collection)
        async for page in self._database.pages(ChunkRow, query, *by):
            yield page

    async def let_go(self, submission: str) -> int:
        """Reset the PENDING chunks of a submission that are in no run to NONE."""
        return await self._database.execute(
            sa.update(chunks).where(chunks.c.submission == submission, submitted).values(_BACK)
        )

    async def renew(self, worker: str, *, until: int) -> None:
        """Extend every claim of `worker` to `until`."""
        await self._database.execute(
            sa.update(chunks).where(chunks.c.worker == worker, held).values(until=until)
        )

    async def workers(self) -> set[str]:
        """Return the workers that have claimed a chunk in no run."""
        query = sa.select(chunks.c.worker).where(held).distinct()
        return set(await self._database.fetch_values(query))

    async def release(self, worker: str) -> int:
        """Reset the chunks in no run that `worker` has claimed to NONE."""
        its = sa.and_(chunks.c.worker == worker, held)
        left = sa.update(chunks).where(its, is_live(chunks.c.submission)).values(worker="", until=0)

        def work(connection: sa.Connection) -> int:
            # Leave chunks to their submissions first; the rest has no other owner.
            kept = connection.execute(left).rowcount
            return kept + connection.execute(sa.update(chunks).where(its).values(_BACK)).rowcount

        return await self._database.write(work)

    async def fail(self, failures: Sequence[Failure], *, worker: str) -> None:
        """Mark claimed chunks FAILED with their reason, and count one more attempt."""
        rows = [
            {
                "of_id": failure.id,
                "of_collection": failure.collection,
                "of_version": failure.version,
                "of_worker": worker,
                "kind": failure.kind,
                "reason": escaped(failure.reason),
            }
            for failure in failures
        ]
        await self._database.execute_each(_FAIL, rows)

    async def retry(self, subjects: Collection[str], *, now: int) -> int:
        """Reset FAILED chunks to NONE, each at version max(version + 1, now)."""
        statement = (
            sa.update(chunks)
            .where(chunks.c.status == Status.FAILED, unfinished)
            .values(
                status=Status.NONE,
                version=next_version(now),
                run="",
                submission="",
                failure="",
                error="",
            )
        )

        if subjects:
            statement = statement.where(
                sa.or_(chunks.c.id.in_(listed(subjects)), chunks.c.run.in_(listed(subjects)))
            )
        return await self._database.execute(statement)

    async def requeue(self, collection: str, chunk_ids: Collection[str], *, now: int) -> int:
        """Reset SUCCESS chunks to NONE, in no run, each at version max(version + 1, now)."""
        statement = (
            sa.update(chunks)
            .where(
                chunks.c.collection == collection,
                chunks.c.id.in_(listed(chunk_ids)),
                chunks.c.status == Status.SUCCESS,
            )
            .values(
                status=Status.NONE, version=next_version(now), run="", submission="", failure="", error=""
            )
        )
        return await self._database.execute(statement)

    async def marks(self, collection: str) -> AsyncIterator[list[ChunkMark]]:
        """Iterate over the marks of all chunks of a collection, including deleted ones, in order of id."""
        query = sa.select(*(chunks.c[name] for name in ChunkMark._fields)).where(
            chunks.c.collection == collection
        )
        async for page in self._database.pages(ChunkMark, query, chunks.c.id, size=_MARKS):
            yield page

    async def used(self, batches_: Collection[str]) -> set[str]:
        """Return those of the batch ids that a chunk row still refers to, in any status."""
        query = sa.select(chunks.c.batch).where(chunks.c.batch.in_(listed(batches_))).distinct()
        return set(await self._database.fetch_values(query))

    async def counts(self) -> Mapping[tuple[str, Status], int]:
        """Count live chunks by collection and status."""
        gone = sa.and_(chunks.c.deleted, chunks.c.status == SUCCESS)
        query = (
            sa.select(chunks.c.collection, chunks.c.status, sa.func.count())
            .where(sa.not_(gone))
            .group_by(chunks.c.collection, chunks.c.status)
        )
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return {(collection, status): number for collection, status, number in rows}

    async def _each(
        self, statement: sa.Update, chunks_: Sequence[ChunkRow], worker: str, **values: str
    ) -> None:
        rows = [
            {
                "of_id": row.id,
                "of_collection": row.collection,
                "of_version": row.version,
                "of_worker": worker,
                **values,
            }
            for row in chunks_
        ]
        await self._database.execute_each(statement, rows)
