"""The index jobs: one item each, one for each event, and names by owner, by age and of those that have not ended."""

from __future__ import annotations

import contextlib
from itertools import groupby
from typing import TYPE_CHECKING, Any

from flowbed.ledger.index_jobs import (
    INDEX_JOB_FIXED,
    TURN_COST,
    IndexJobEvent,
    IndexJobRow,
    QueueDepth,
    reopened,
    shown_state,
)
from flowbed.ledger.items import holds
from flowbed.ledger.items.rows import item_of, row_of
from flowbed.ledger.items.table import (
    ABSENT,
    ConditionFailed,
    Delete,
    Put,
    Unanswered,
    all_of,
    read_all,
    until_answered,
    update,
)
from flowbed.ledger.text import is_unstorable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from flowbed.ledger.index_jobs import JobNote
    from flowbed.ledger.items.table import Item, Key, Operation, Table

OPEN, ENDED, OWNERS = "index_jobs_open", "index_jobs_ended", "index_job_owners"
TURN: Key = ("index_job_turn", "-")


class ItemIndexJobs:
    """`IndexJobs` in a table."""

    def __init__(self, table: Table) -> None:
        """Take the table."""
        self._table = table

    async def create(self, job: IndexJobRow, note: JobNote, *, since: int) -> IndexJobRow:
        """Record a job with its first event, unless its idempotency key names another."""
        row = IndexJobRow(**{**vars(job), "seq": 1})
        new: list[Operation] = [
            Put(_key(job.id), item_of(row), expected=ABSENT),
            Put((f"index_jobs#{job.owner}", _age(row)), {"record": "member", "id": job.id}, expected=None),
            Put((OPEN, job.id), {"record": "member", "id": job.id}, expected=None),
            _event(job.id, 1, note),
        ]
        await self._begin(job.owner)
        while True:
            place, taken = await self._named(job)
            if taken is not None and taken["created"] >= since:
                known = await self.get(taken["id"])
                if known is not None:
                    return known
            name = Put(
                place,
                {"record": "Key", "id": job.id, "created": job.created},
                expected=taken["stamp"] if taken else ABSENT,
            )
            try:
                await self._table.transact(new if job.idempotency is None else [*new, name])
            except (ConditionFailed, Unanswered):
                if (known := await self.get(job.id)) is not None:
                    return known
                continue
            return row

    async def _named(self, job: IndexJobRow) -> tuple[Key, Item | None]:
        """Return where the idempotency key of a job is, and what it names."""
        place = (f"index_job_key#{job.owner}", job.idempotency or "-")
        return place, None if job.idempotency is None else await self._table.get(place)

    async def _begin(self, owner: str) -> None:
        """Record an owner that has had no turn yet, unless it is known."""
        place = (OWNERS, f"o{owner}")
        while await self._table.get(place) is None:
            with contextlib.suppress(ConditionFailed, Unanswered):
                await self._table.write(Put(place, _owner(owner), expected=ABSENT))

    async def get(self, job: str) -> IndexJobRow | None:
        """Return one job of any owner, or None."""
        item = None if is_unstorable(job) else await self._table.get(_key(job))
        return row_of(IndexJobRow, item) if item else None

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
        owners = [owner] if owner is not None else [each["owner"] for each in await self._owners()]
        ids = [
            item["id"] for each in owners for item in await all_of(self._table.query, f"index_jobs#{each}")
        ]
        rows = sorted(await self._read(ids), key=_age, reverse=descending)
        if after is not None:
            names = [row.id for row in rows]
            rows = rows[names.index(after) + 1 :] if after in names else []
        wanted = [
            row
            for row in rows
            if (not states or shown_state(row) in states) and collection in {"", row.collection}
        ]
        return wanted[:limit]

    async def claim(
        self, stages: Collection[str], *, worker: str, now: int, until: int
    ) -> IndexJobRow | None:
        """Hold the next job that waits for one of the stages."""
        while True:
            waiting = [
                row
                for row in await self._open()
                if row.stage in stages and row.until < now and row.due <= now
            ]
            if not waiting:
                return None
            turn = await self._table.get(TURN)
            owners = {each["owner"]: each for each in await self._owners()}
            now_served = max(each["start"] for each in owners.values())
            tags = {name: max(each["finish"], now_served) for name, each in owners.items()}
            by_tag = sorted(waiting, key=lambda row: tags[row.owner])
            tag, equals = next(groupby(by_tag, key=lambda row: tags[row.owner]))
            chosen = min(equals, key=lambda row: (row.key, row.id))
            cost = max(1, min(chosen.cost, TURN_COST))
            charged = {**_owner(chosen.owner), "start": tag, "finish": tag + cost}
            # Two claims at once would serve one owner twice: each needs the turn as it was read.
            beside = [
                Put((OWNERS, f"o{chosen.owner}"), charged, expected=None),
                Put(TURN, {"record": "Turn"}, expected=turn["stamp"] if turn else ABSENT),
            ]
            held = await self._claim(chosen, beside, worker=worker, until=until)
            if held is not None:
                return held

    async def _claim(
        self, row: IndexJobRow, beside: Sequence[Operation], *, worker: str, until: int
    ) -> IndexJobRow | None:
        """Hold a job, with the writes beside it; None if anything has changed since it was read."""
        item = await self._table.get(_key(row.id))
        if item is None or row_of(IndexJobRow, item) != row:
            return None
        mark = self._table.mark()
        wanted = {
            **item,
            "worker": worker,
            "until": until,
            "attempts": item["attempts"] + 1,
            "mark": mark,
        }
        try:
            await self._table.transact([Put(_key(row.id), wanted, expected=item["stamp"]), *beside])
        except ConditionFailed:
            return None
        except Unanswered:
            found = await self._table.get(_key(row.id))
            return row_of(IndexJobRow, wanted) if found is not None and found["mark"] == mark else None
        return row_of(IndexJobRow, wanted)

    async def waiting(self, stage: str, *, now: int, limit: int) -> Sequence[IndexJobRow]:
        """Return jobs that `claim` could hold for a stage."""
        rows = [
            row for row in await self._open() if row.stage == stage and row.until < now and row.due <= now
        ]
        return sorted(rows, key=lambda row: (row.key, row.id))[:limit]

    async def hold(self, job: str, *, worker: str, now: int, until: int) -> IndexJobRow | None:
        """Hold a job for `worker` until `until`."""
        item = await holds.hold(self._table, _key(job), worker=worker, now=now, until=until)
        return row_of(IndexJobRow, item) if item else None

    async def save(
        self, job: IndexJobRow, notes: Sequence[JobNote] = (), *, worker: str
    ) -> IndexJobRow | None:
        """Write a job that `worker` holds, with its events."""
        values = {name: value for name, value in vars(job).items() if name not in INDEX_JOB_FIXED}
        return await self._update(
            job.id,
            lambda item: values if item["worker"] == worker != "" and not item["ended"] else None,
            notes,
        )

    async def cancel(self, job: str, how: str, note: JobNote) -> IndexJobRow | None:
        """Request the end of a job."""
        changed = await self._update(
            job,
            lambda item: (
                None if item["ended"] or item["cancel"] in {"rollback", how} else {"cancel": how, "due": 0}
            ),
            [note],
        )
        return changed or await self.get(job)

    async def change(
        self, job: str, *, priority: int, key: int, metadata: str, note: JobNote
    ) -> IndexJobRow | None:
        """Change a job that has not ended."""
        values = {"priority": priority, "key": key, "metadata": metadata}
        changed = await self._update(job, lambda item: None if item["ended"] else values, [note])
        return changed or await self.get(job)

    async def reopen(self, job: str, *, key: int, note: JobNote) -> IndexJobRow | None:
        """Queue a job that has ended again, from its first stage."""
        return await self._update(job, lambda item: reopened(key) if item["ended"] else None, [note])

    async def events(self, after: Mapping[str, int], *, limit: int) -> Sequence[IndexJobEvent]:
        """Return events of jobs that follow the number given for each."""
        found: list[IndexJobEvent] = []
        for job in sorted(job for job in after if not is_unstorable(job)):
            items = await all_of(self._table.query, f"index_job_events#{job}", after=f"{after[job]:012}")
            found += [row_of(IndexJobEvent, item) for item in items]
        return found[:limit]

    async def ahead(self, job: IndexJobRow) -> int:
        """Count the waiting jobs of its owner that come before a job."""
        return sum(
            row.owner == job.owner and not row.worker and (row.key, row.id) < (job.key, job.id)
            for row in await self._open()
        )

    async def depths(self, *, now: int) -> Mapping[str, QueueDepth]:
        """Return the depth of each stage's queue."""
        found: dict[str, QueueDepth] = {}
        rows = sorted(await self._open(), key=lambda row: row.stage)
        for stage, some in groupby(rows, key=lambda row: row.stage):
            jobs = list(some)
            free = [row.created for row in jobs if row.until < now and row.due <= now]
            held = sum(row.until >= now for row in jobs)
            found[stage] = QueueDepth(len(free), held, min(free, default=0))
        return found

    async def unfinished(self, collection: str) -> int:
        """Count the jobs of a collection that have not ended."""
        return sum(row.collection == collection for row in await self._open())

    async def workers(self) -> set[str]:
        """Return the workers that hold a job."""
        return {row.worker for row in await self._open() if row.worker}

    async def release(self, worker: str) -> int:
        """Release every hold of `worker`."""
        mine = [row.id for row in await self._open() if row.worker == worker != ""]
        released = [
            await self._update(
                job,
                lambda item: {"worker": "", "until": 0} if item["worker"] == worker else None,
                (),
            )
            for job in mine
        ]
        return sum(each is not None for each in released)

    async def forget(self, *, before: int, limit: int) -> Sequence[str]:
        """Delete jobs that ended before a time, with their events."""
        ended = await self._read([item["id"] for item in await all_of(self._table.query, ENDED)])
        old = sorted((row for row in ended if 0 < row.ended < before), key=lambda row: row.ended)[:limit]
        for row in old:
            for item in await all_of(self._table.query, f"index_job_events#{row.id}"):
                await until_answered(self._table, Delete(item["place"]))
            await until_answered(
                self._table,
                Delete((f"index_jobs#{row.owner}", _age(row))),
                Delete((ENDED, row.id)),
                Delete(_key(row.id)),
            )
        return [row.id for row in old]

    async def _update(
        self, job: str, change: Callable[[Item], Mapping[str, Any] | None], notes: Sequence[JobNote]
    ) -> IndexJobRow | None:
        """Change one job and record its events, in one step."""

        def counted(item: Item) -> Mapping[str, Any] | None:
            values = change(item)
            return None if values is None else {**values, "seq": item["seq"] + len(notes)}

        def beside(item: Item) -> list[Operation]:
            here, there = (ENDED, OPEN) if item["ended"] else (OPEN, ENDED)
            first = item["seq"] - len(notes) + 1
            return [
                *(_event(job, seq, note) for seq, note in enumerate(notes, start=first)),
                Put((here, job), {"record": "member", "id": job}, expected=None),
                Delete((there, job)),
            ]

        if is_unstorable(job):
            return None
        item = await update(self._table, _key(job), counted, beside=beside)
        return row_of(IndexJobRow, item) if item else None

    async def _open(self) -> Sequence[IndexJobRow]:
        rows = await self._read([item["id"] for item in await all_of(self._table.query, OPEN)])
        return [row for row in rows if not row.ended]

    async def _owners(self) -> Sequence[Item]:
        return await all_of(self._table.query, OWNERS)

    async def _read(self, ids: Sequence[str]) -> Sequence[IndexJobRow]:
        return [row_of(IndexJobRow, item) for item in await read_all(self._table, map(_key, ids))]


def _key(job: str) -> Key:
    return f"index_job#{job}", "-"


def _age(row: IndexJobRow) -> str:
    return f"{row.created:020}#{row.id}"


def _owner(owner: str) -> Item:
    return {"record": "Owner", "owner": owner, "start": 0, "finish": 0}


def _event(job: str, seq: int, note: JobNote) -> Put:
    item = {"record": "IndexJobEvent", "mark": "", "job": job, "seq": seq, **note._asdict()}
    return Put((f"index_job_events#{job}", f"{seq:012}"), item, expected=None)
