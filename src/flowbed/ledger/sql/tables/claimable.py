"""SQL conditions for claimable chunks."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from flowbed.ledger.sql.schema import NOWHERE, PENDING, SUCCESS, batches, chunks, submissions
from flowbed.records import Status

if TYPE_CHECKING:
    from collections.abc import Collection

TRANSIENT = "transient"  # the only kind of failure that is retried without a command
# Built once: naming the columns of an alias takes longer than many a query.
_CLAIM, _INSIDE = chunks.alias("claim"), chunks.alias("inside")
_NEVER = 2**62  # µs: later than any clock


def is_live(submission: sa.ColumnElement[str] | str) -> sa.Exists:
    """Whether a submission is live, so that its chunks belong to it."""
    return sa.exists().where(submissions.c.id == submission, submissions.c.ended == 0)


def is_submitted(table: sa.FromClause) -> sa.ColumnElement[bool]:
    """Whether a chunk is PENDING, in a submission and in no run: `submitted`, for an alias."""
    return sa.and_(table.c.status == PENDING, table.c.run == NOWHERE, table.c.submission != NOWHERE)


@cache
def _left_behind() -> sa.Exists:
    """Whether any submission has ended and left chunks behind."""
    over, kept = submissions.alias("over"), chunks.alias("kept")
    return sa.exists().where(
        over.c.ended > 0, sa.exists().where(kept.c.submission == over.c.id, is_submitted(kept))
    )


def _run_out(now: int | sa.ColumnElement[int]) -> sa.Exists:
    """Whether any claim has expired."""
    claim = _CLAIM.c
    return sa.exists().where(
        claim.status == PENDING, claim.run == NOWHERE, claim.worker > NOWHERE, claim.until < now
    )


@cache
def unrecorded_submissions() -> sa.Select[Any]:
    """Select the ids of submissions that have chunks but no row."""
    # Step through the index from one submission to the next; DISTINCT would read every chunk.
    first, further = chunks.alias("first"), chunks.alias("further")
    lowest = sa.select(first.c.submission).where(is_submitted(first)).order_by(first.c.submission).limit(1)
    walk = sa.select(lowest.scalar_subquery().label("submission")).cte("gathering", recursive=True)
    higher = (
        sa.select(further.c.submission)
        .where(is_submitted(further), further.c.submission > walk.c.submission)
        .order_by(further.c.submission)
        .limit(1)
    )
    walk = walk.union_all(sa.select(higher.scalar_subquery()).where(walk.c.submission.is_not(None)))
    recorded = sa.exists().where(submissions.c.id == walk.c.submission)
    return sa.select(walk.c.submission).where(walk.c.submission.is_not(None), ~recorded)


def next_version(now: int | sa.ColumnElement[int]) -> sa.ColumnElement[int]:
    """Return a chunk's next version: now, unless the clock went back."""
    return sa.case((chunks.c.version >= now, chunks.c.version + 1), else_=now)


def claimable(
    table: sa.FromClause,
    statuses: Collection[Status],
    *,
    now: int | sa.ColumnElement[int],
    sources: Collection[str],
) -> sa.ColumnElement[bool]:
    """Whether a chunk can be claimed."""
    requested = set(statuses)
    # A claim that has not expired is never taken. `until` is 0 once a chunk is in a run, or left to its submission. A
    # million chunks may be waiting for a commit or a provider: unless some claim has expired or some submission has
    # ended and left chunks behind, which is checked first, only their status is read.
    ran_out = sa.and_(
        table.c.status == Status.PENDING,
        sa.or_(
            sa.and_(_run_out(now), table.c.until > 0, table.c.until < now),
            sa.and_(_left_behind(), table.c.until == 0, table.c.submission != ""),
        ),
        table.c.run == "",
        ~is_live(table.c.submission),
    )
    ways = []
    plain = requested - {Status.PENDING}
    if requested > {Status.FAILED}:
        ways.append(sa.and_(table.c.status == Status.FAILED, table.c.failure == TRANSIENT))
        plain -= {Status.FAILED}
    if plain:
        ways.append(table.c.status.in_(sorted(plain)))
    ways.append(ran_out)
    conditions = [sa.or_(*ways)]
    if Status.SUCCESS not in requested:
        conditions.append(
            table.c.status != SUCCESS
        )  # needed for SQLite to use the index of unfinished chunks
    if sources:
        conditions.append(table.c.source.in_(sorted(sources)))
    return sa.and_(*conditions)


def claimable_batches(
    statuses: Collection[Status], *, now: int, sources: Collection[str]
) -> tuple[sa.Select[Any], sa.ColumnElement[int], sa.ColumnElement[str]]:
    """Select the age and id of batches with a claimable chunk; return these two columns as well."""
    present = _finished_too() if Status.SUCCESS in statuses else _unfinished()
    batch = present.c.batch
    # Deletions come last: until then, the chunks that replace them can reuse their vectors.
    age = sa.case((batch == "", _NEVER), else_=sa.func.coalesce(batches.c.timestamp, 0)).label("age")
    ready = sa.exists().where(
        _INSIDE.c.batch == batch, claimable(_INSIDE, statuses, now=now, sources=sources)
    )
    query = (
        sa.select(age, batch)
        .select_from(present.outerjoin(batches, batches.c.id == batch))
        .where(batch.is_not(None), ready)
    )
    if sources:
        # Avoids reading every chunk of other sources' batches.
        query = query.where(sa.or_(batches.c.id.is_(None), batches.c.source.in_(sorted(sources))))
    return query, age, batch


@cache
def _unfinished() -> sa.CTE:
    # Step through the index from one batch to the next; DISTINCT would read every chunk.
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


@cache
def _finished_too() -> sa.Subquery:
    return sa.select(chunks.c.batch).distinct().subquery("present")
