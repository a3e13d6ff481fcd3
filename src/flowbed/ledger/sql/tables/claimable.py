"""Which chunks there is something to do on, said in SQL."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from flowbed.ledger.sql.schema import NOWHERE, PENDING, SUCCESS, batches, chunks, submissions
from flowbed.records import Status

if TYPE_CHECKING:
    from collections.abc import Collection

TRANSIENT = "transient"  # the only failure that is tried again without being asked for
_CLAIM = chunks.alias("claim")
_NEVER = 2**62  # µs: later than any clock tells


def live(submission: sa.ColumnElement[str] | str) -> sa.Exists:
    """Tell whether a submission is live, so that its chunks are nobody else's."""
    return sa.exists().where(submissions.c.id == submission, submissions.c.ended == 0)


def in_a_submission(table: sa.FromClause) -> sa.ColumnElement[bool]:
    """Tell whether a chunk is PENDING in a submission, and in no run: `submitted`, said of an alias."""
    return sa.and_(table.c.status == PENDING, table.c.run == NOWHERE, table.c.submission != NOWHERE)


@cache
def _left_behind() -> sa.Exists:
    """Tell whether any submission has ended and left chunks behind."""
    over, kept = submissions.alias("over"), chunks.alias("kept")
    return sa.exists().where(
        over.c.ended > 0, sa.exists().where(kept.c.submission == over.c.id, in_a_submission(kept))
    )


def _run_out(now: int | sa.ColumnElement[int]) -> sa.Exists:
    """Tell whether any claim has run out."""
    claim = _CLAIM.c
    return sa.exists().where(
        claim.status == PENDING, claim.run == NOWHERE, claim.worker > NOWHERE, claim.until < now
    )


@cache
def in_the_making() -> sa.Select[Any]:
    """Select the submissions that have chunks, and are not recorded."""
    # From each in the index to the next: as many steps as submissions, where DISTINCT would read every chunk.
    first, further = chunks.alias("first"), chunks.alias("further")
    lowest = sa.select(first.c.submission).where(in_a_submission(first)).order_by(first.c.submission).limit(1)
    walk = sa.select(lowest.scalar_subquery().label("submission")).cte("gathering", recursive=True)
    higher = (
        sa.select(further.c.submission)
        .where(in_a_submission(further), further.c.submission > walk.c.submission)
        .order_by(further.c.submission)
        .limit(1)
    )
    walk = walk.union_all(sa.select(higher.scalar_subquery()).where(walk.c.submission.is_not(None)))
    recorded = sa.exists().where(submissions.c.id == walk.c.submission)
    return sa.select(walk.c.submission).where(walk.c.submission.is_not(None), ~recorded)


def later(now: int | sa.ColumnElement[int]) -> sa.ColumnElement[int]:
    """Give the next version of a chunk: the clock's, unless that has gone back."""
    return sa.case((chunks.c.version >= now, chunks.c.version + 1), else_=now)


def workable(
    table: sa.FromClause,
    statuses: Collection[Status],
    *,
    now: int | sa.ColumnElement[int],
    sources: Collection[str],
) -> sa.ColumnElement[bool]:
    """Tell whether a chunk may be claimed."""
    asked = set(statuses)
    # A claim in force is never taken, whatever is asked for. `until` is 0 once the chunk is in a run, or left to its
    # submission. All of a million chunks may wait for a commit or for an answer: of each no more than its status is
    # looked at, unless any claim has run out or any submission has ended and left chunks behind, which is asked first.
    ran_out = sa.and_(
        table.c.status == Status.PENDING,
        sa.or_(
            sa.and_(_run_out(now), table.c.until > 0, table.c.until < now),
            sa.and_(_left_behind(), table.c.until == 0, table.c.submission != ""),
        ),
        table.c.run == "",
        ~live(table.c.submission),
    )
    ways = []
    plain = asked - {Status.PENDING}
    if asked > {Status.FAILED}:
        ways.append(sa.and_(table.c.status == Status.FAILED, table.c.failure == TRANSIENT))
        plain -= {Status.FAILED}
    if plain:
        ways.append(table.c.status.in_(sorted(plain)))
    ways.append(ran_out)
    conditions = [sa.or_(*ways)]
    if Status.SUCCESS not in asked:
        conditions.append(table.c.status != SUCCESS)  # what lets SQLite use the index of unfinished chunks
    if sources:
        conditions.append(table.c.source.in_(sorted(sources)))
    return sa.and_(*conditions)


def workable_batches(
    statuses: Collection[Status], *, now: int, sources: Collection[str]
) -> tuple[sa.Select[Any], sa.ColumnElement[int], sa.ColumnElement[str]]:
    """Select the age and id of batches with a chunk to work on, in order of both; return these two as well."""
    present = _finished_too() if Status.SUCCESS in statuses else _unfinished()
    batch = present.c.batch
    # What is to be deleted comes last: until then its vectors can still be reused by what took its place.
    age = sa.case((batch == "", _NEVER), else_=sa.func.coalesce(batches.c.timestamp, 0)).label("age")
    inside = chunks.alias("inside")
    ready = sa.exists().where(inside.c.batch == batch, workable(inside, statuses, now=now, sources=sources))
    query = (
        sa.select(age, batch)
        .select_from(present.outerjoin(batches, batches.c.id == batch))
        .where(batch.is_not(None), ready)
    )
    if sources:
        # Spares looking into every chunk of another source's batch.
        query = query.where(sa.or_(batches.c.id.is_(None), batches.c.source.in_(sorted(sources))))
    return query, age, batch


def _unfinished() -> sa.CTE:
    # From each batch in the index to the next: as many steps as batches, where DISTINCT would read every chunk.
    first, further = chunks.alias("first"), chunks.alias("further")
    lowest = sa.select(first.c.batch).where(first.c.status != SUCCESS).order_by(first.c.batch).limit(1)
    walk = sa.select(lowest.scalar_subquery().label("batch")).cte("present", recursive=True)
    higher = (
        sa.select(further.c.batch)
        .where(further.c.status != SUCCESS, further.c.batch > walk.c.batch)
        .order_by(further.c.batch)
        .limit(1)
    )
    return walk.union_all(sa.select(higher.scalar_subquery()).where(walk.c.batch.is_not(None)))


def _finished_too() -> sa.Subquery:
    return sa.select(chunks.c.batch).distinct().subquery("present")
