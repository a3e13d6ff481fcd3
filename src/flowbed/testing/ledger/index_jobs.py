"""What the index jobs of every ledger must do."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from flowbed.ledger.index_jobs import STAGES, TURN_COST, HoldsIndexJobs, IndexJobRow, JobNote
from flowbed.testing.ledger.rows import LATE

if TYPE_CHECKING:
    from flowbed.ledger import Ledger
    from flowbed.ledger.index_jobs import IndexJobs

AT = 1_800_000_000_000_000  # µs: the time of these tests
DAY = 86_400_000_000
NOTE = JobNote("job.created", "{}", AT)


def index_job(id: str = "job_1", **fields: Any) -> IndexJobRow:  # noqa: A002 - the record's own field
    """Make a job."""
    base: dict[str, Any] = {
        "owner": "o",
        "tier": "default",
        "collection": "docs",
        "kind": "texts",
        "created": AT,
        "key": AT,
        "fingerprint": "f",
    }
    return IndexJobRow(id=id, **{**base, **fields})


def jobs_of(ledger: Ledger) -> IndexJobs:
    """Return the index jobs of a ledger."""
    return cast("HoldsIndexJobs", ledger).index_jobs


class IndexJobsContract:
    """Tests of `IndexJobs`."""

    async def test_create_records_the_job_and_its_first_event(self, ledger: Ledger) -> None:
        """A job is returned as recorded, with event 1; an unknown id is not found."""
        jobs = jobs_of(ledger)
        made = await jobs.create(index_job(metadata='{"a":1}', estimated_usd=0.5), NOTE, since=0)
        assert made == index_job(metadata='{"a":1}', estimated_usd=0.5, seq=1) == await jobs.get("job_1")
        (event,) = await jobs.events({"job_1": 0}, limit=10)
        assert (event.job, event.seq, event.type, event.data, event.at) == ("job_1", 1, *NOTE)
        for unknown in ("job_2", "odd\0"):
            assert await jobs.get(unknown) is None
            assert await jobs.cancel(unknown, "keep", NOTE) is None
            assert await jobs.change(unknown, priority=1, key=1, metadata="{}", note=NOTE) is None
            assert not await jobs.events({unknown: 0}, limit=10)

    async def test_create_with_a_known_idempotency_key_returns_the_first_job(self, ledger: Ledger) -> None:
        """A key names one job of its owner; one that is too old names a new one, and other owners' keys are theirs."""
        jobs = jobs_of(ledger)
        first = await jobs.create(index_job("a", idempotency="k"), NOTE, since=0)
        assert await jobs.create(index_job("b", idempotency="k", created=AT + 5), NOTE, since=AT) == first
        assert await jobs.get("b") is None
        other = await jobs.create(index_job("c", idempotency="k", owner="p"), NOTE, since=AT)
        assert other.id == "c"
        later = await jobs.create(index_job("d", idempotency="k", created=AT + DAY), NOTE, since=AT + 1)
        assert later.id == "d"
        again = await jobs.create(index_job("e", idempotency="k", created=AT + DAY), NOTE, since=AT + 1)
        assert again == later
        assert {row.id for row in await jobs.list("o", limit=9)} == {"a", "d"}

    async def test_create_concurrent_with_one_key_makes_one_job(self, ledger: Ledger) -> None:
        """Of many requests with one key, one makes a job and all get it."""
        jobs = jobs_of(ledger)
        made = await asyncio.gather(
            *(jobs.create(index_job(f"j{n}", idempotency="k"), NOTE, since=0) for n in range(8))
        )
        assert len({row.id for row in made}) == 1
        assert [row.id for row in await jobs.list("o", limit=9)] == [made[0].id]

    async def test_list_filters_and_continues(self, ledger: Ledger) -> None:
        """Jobs are listed per owner or of all, newest first or oldest, by state and collection, after one of them."""
        jobs = jobs_of(ledger)
        rows = [
            ("a", "o", AT, "docs"),
            ("b", "p", AT + 9, "docs"),
            ("c", "o", AT + 2, "chat"),
            ("d", "o", AT + 2, "docs"),
        ]
        for id_, owner, created, collection in rows:
            row = index_job(id_, owner=owner, created=created, collection=collection)
            await jobs.create(row, NOTE, since=0)
        await finish(jobs, "a", "completed")
        await jobs.cancel("c", "keep", NOTE)

        async def listed(owner: str | None, **how: Any) -> list[str]:
            return [row.id for row in await jobs.list(owner, **{"limit": 9, **how})]

        assert await listed("o") == ["d", "c", "a"]
        assert await listed("o", descending=False) == ["a", "c", "d"]
        assert await listed(None) == ["b", "d", "c", "a"]
        assert await listed("o", after="d", limit=1) == ["c"]
        assert await listed("o", after="a", descending=False) == ["c", "d"]
        assert await listed("o", after="b") == await listed("o", after="odd\0") == []
        assert await listed("o", states=["completed"]) == ["a"]
        assert await listed("o", states=["queued"]) == ["d"]
        assert await listed("o", states=["cancelling", "completed"]) == ["c", "a"]
        assert await listed("o", collection="docs") == ["d", "a"]

    async def test_claim_follows_the_key_of_one_owner(self, ledger: Ledger) -> None:
        """Jobs of one owner are claimed in order of their keys, each once, and never before they are due."""
        jobs = jobs_of(ledger)
        for id_, key in (("a", 30), ("b", 10), ("c", 20)):
            await jobs.create(index_job(id_, key=key), NOTE, since=0)
        assert [row.id for row in await jobs.waiting("chunking", now=AT, limit=2)] == ["b", "c"]
        assert not await jobs.waiting("storing", now=AT, limit=2)
        held = await claimed(jobs, "w")
        assert held == "b"
        assert [row.id for row in await jobs.waiting("chunking", now=AT, limit=9)] == ["c", "a"]
        await jobs.change("a", priority=90, key=5, metadata="{}", note=NOTE)
        assert await claimed(jobs, "w") == "a"
        row = await jobs.get("a")
        assert row is not None
        assert (row.worker, row.until, row.attempts) == ("w", AT + 50, 1)
        assert await jobs.save(replace(row, worker="", until=0, due=AT + 7, stage="storing"), worker="w")
        assert await claimed(jobs, "w") == "c"
        assert await claimed(jobs, "w") is None
        assert await claimed(jobs, "w", now=AT + 7, stages=("chunking",)) is None
        assert await claimed(jobs, "w", now=AT + 7) == "a"
        # A hold that has run out is free.
        assert await claimed(jobs, "v", now=AT + 51) == "b"

    async def test_claim_shares_between_owners_by_cost(self, ledger: Ledger) -> None:
        """One owner with many jobs does not keep another's waiting, and a large job counts more; nobody catches up."""
        jobs = jobs_of(ledger)
        for n in range(6):
            await jobs.create(index_job(f"o{n}", key=n, cost=2), NOTE, since=0)
        assert [await claimed(jobs, "w") for _ in range(3)] == ["o0", "o1", "o2"]
        for n in range(2):
            await jobs.create(index_job(f"p{n}", owner="p", key=100 + n, cost=4), NOTE, since=0)
        # Each of p's is worth two of o's; p was idle before, and gets no more than its share for that.
        assert [await claimed(jobs, "w") for _ in range(5)] == ["p0", "o3", "o4", "p1", "o5"]

    async def test_claim_counts_a_huge_job_as_one_turn(self, ledger: Ledger) -> None:
        """A job larger than a turn costs its owner a turn."""
        jobs = jobs_of(ledger)
        await jobs.create(index_job("huge", key=1, cost=1_000 * TURN_COST), NOTE, since=0)
        await jobs.create(index_job("next", key=2, cost=1), NOTE, since=0)
        for n in range(3):
            await jobs.create(index_job(f"p{n}", owner="p", key=9 + n, cost=TURN_COST // 2), NOTE, since=0)
        assert [await claimed(jobs, "w") for _ in range(5)] == ["huge", "p0", "p1", "next", "p2"]

    async def test_claim_concurrent_gives_each_job_once(self, ledger: Ledger) -> None:
        """Concurrent claims hold different jobs, and none is left out."""
        jobs = jobs_of(ledger)
        for n in range(12):
            await jobs.create(index_job(f"j{n:02d}", owner=f"o{n % 3}", key=n), NOTE, since=0)
        held = await asyncio.gather(*(claimed(jobs, f"w{n}") for n in range(14)))
        assert sorted(filter(None, held)) == [f"j{n:02d}" for n in range(12)]

    async def test_save_numbers_events_and_keeps_what_others_write(self, ledger: Ledger) -> None:
        """Events are numbered without gaps; a cancel, a priority and metadata written meanwhile stay."""
        jobs = jobs_of(ledger)
        await jobs.create(index_job(), NOTE, since=0)
        mine = await jobs.claim(STAGES, worker="w", now=AT, until=AT + 50)
        assert mine is not None
        await jobs.cancel("job_1", "keep", JobNote("job.cancelling", "{}", AT))
        await jobs.change(
            "job_1", priority=9, key=7, metadata='{"b":2}', note=JobNote("job.changed", "{}", AT)
        )
        notes = [JobNote("job.stage", '{"stage":"embedding"}', AT), JobNote("job.progress", "{}", AT)]
        saved = await jobs.save(
            replace(mine, state="running", stage="embedding", chunks=3), notes, worker="w"
        )
        assert saved is not None
        assert saved == await jobs.get("job_1")
        assert (saved.cancel, saved.priority, saved.key, saved.metadata, saved.chunks, saved.seq) == (
            "keep",
            9,
            7,
            '{"b":2}',
            3,
            5,
        )
        events = await jobs.events({"job_1": 1}, limit=9)
        assert [(each.seq, each.type) for each in events] == [
            (2, "job.cancelling"),
            (3, "job.changed"),
            (4, "job.stage"),
            (5, "job.progress"),
        ]
        assert len(await jobs.events({"job_1": 1}, limit=2)) == 2
        assert not await jobs.events({"job_1": 5}, limit=9)

    async def test_save_without_hold_changes_nothing(self, ledger: Ledger) -> None:
        """A worker that lost its hold writes nothing, and records no event."""
        jobs = jobs_of(ledger)
        await jobs.create(index_job(), NOTE, since=0)
        mine = await jobs.claim(STAGES, worker="w", now=AT, until=AT + 5)
        assert mine is not None
        assert await jobs.hold("job_1", worker="v", now=AT + 5, until=LATE) is None
        theirs = await jobs.hold("job_1", worker="v", now=AT + 6, until=LATE)
        assert theirs is not None
        assert await jobs.save(replace(mine, stored=5), [NOTE], worker="w") is None
        assert await jobs.save(mine, [NOTE], worker="") is None
        assert await jobs.get("job_1") == theirs

    async def test_cancel_may_turn_into_a_rollback_and_not_back(self, ledger: Ledger) -> None:
        """A cancel wakes a job that waits; a rollback may follow it; ended jobs stay as they are."""
        jobs = jobs_of(ledger)
        await jobs.create(index_job(due=LATE), NOTE, since=0)
        for how, expected in (
            ("keep", "keep"),
            ("keep", "keep"),
            ("rollback", "rollback"),
            ("keep", "rollback"),
        ):
            row = await jobs.cancel("job_1", how, NOTE)
            assert row is not None
            assert (row.cancel, row.due) == (expected, 0)
        assert (await jobs.events({"job_1": 0}, limit=9))[-1].seq == 3
        ended = await finish(jobs, "job_1", "cancelled")
        assert await jobs.cancel("job_1", "keep", NOTE) == ended
        assert await jobs.change("job_1", priority=1, key=1, metadata="{}", note=NOTE) == ended
        assert await jobs.hold("job_1", worker="w", now=LATE, until=LATE) is None

    async def test_reopen_queues_an_ended_job_again(self, ledger: Ledger) -> None:
        """An ended job starts from its first stage, and one that has not ended is left alone."""
        jobs = jobs_of(ledger)
        await jobs.create(index_job(), NOTE, since=0)
        assert await jobs.reopen("job_1", key=9, note=NOTE) is None
        await finish(jobs, "job_1", "failed")
        row = await jobs.reopen("job_1", key=9, note=NOTE)
        assert row is not None
        assert (row.state, row.stage, row.ended, row.error, row.key) == ("queued", "chunking", 0, "", 9)
        assert await claimed(jobs, "w") == "job_1"
        assert await jobs.reopen("unknown", key=9, note=NOTE) is None

    async def test_depths_and_counts(self, ledger: Ledger) -> None:
        """The depth of each queue, the jobs ahead of one and the unfinished ones of a collection are counted."""
        jobs = jobs_of(ledger)
        for id_, key, stage in (
            ("a", 1, "chunking"),
            ("b", 2, "chunking"),
            ("c", 3, "storing"),
            ("d", 4, "storing"),
            ("e", 5, "storing"),
        ):
            # One waits for something else than a worker, such as the quota of the next day.
            due = AT + 10 if id_ == "e" else 0
            made = index_job(id_, key=key, stage=stage, created=AT + key, due=due)
            await jobs.create(made, NOTE, since=0)
        await finish(jobs, "d", "completed")
        row = await jobs.get("c")
        assert row is not None
        assert await jobs.ahead(row) == 2
        assert await claimed(jobs, "w") == "a"
        assert await jobs.ahead(row) == 1
        assert await jobs.depths(now=AT) == {"chunking": (1, 1, AT + 2), "storing": (1, 0, AT + 3)}
        assert (await jobs.depths(now=AT + 10))["storing"] == (2, 0, AT + 3)
        assert await jobs.unfinished("docs") == 4
        assert await jobs.unfinished("chat") == 0

    async def test_release_ends_the_holds_of_a_worker(self, ledger: Ledger) -> None:
        """Holds of a dead worker are ended at once; nobody else's are."""
        jobs = jobs_of(ledger)
        for n in range(3):
            await jobs.create(index_job(f"j{n}", key=n), NOTE, since=0)
        for worker in ("w", "v", "w"):
            await claimed(jobs, worker)
        assert await jobs.workers() == {"v", "w"}
        assert await jobs.release("w") == 2
        assert await jobs.workers() == {"v"}
        assert sorted([str(await claimed(jobs, "u")) for _ in range(3)]) == ["None", "j0", "j2"]

    async def test_forget_deletes_old_jobs_and_their_events(self, ledger: Ledger) -> None:
        """Jobs that ended before a time go with their events; others stay."""
        jobs = jobs_of(ledger)
        for n in range(3):
            await jobs.create(index_job(f"j{n}", idempotency=f"k{n}"), NOTE, since=0)
        for n in range(2):
            await finish(jobs, f"j{n}", "completed", ended=AT + n)
        assert list(await jobs.forget(before=AT + 1, limit=9)) == ["j0"]
        assert await jobs.get("j0") is None
        assert not await jobs.events({"j0": 0}, limit=9)
        assert {row.id for row in await jobs.list("o", limit=9)} == {"j1", "j2"}
        assert (await jobs.create(index_job("new", idempotency="k0"), NOTE, since=0)).id == "new"


async def claimed(
    jobs: IndexJobs, worker: str, *, now: int = AT, stages: tuple[str, ...] = STAGES
) -> str | None:
    """Claim the next job, and return its id."""
    row = await jobs.claim(stages, worker=worker, now=now, until=now + 50)
    return None if row is None else row.id


async def finish(jobs: IndexJobs, job: str, state: str, *, ended: int = AT) -> IndexJobRow:
    """Let a job end."""
    row = await jobs.hold(job, worker="ender", now=LATE, until=LATE)
    assert row is not None
    saved = await jobs.save(replace(row, state=state, ended=ended, worker="", until=0), worker="ender")
    assert saved is not None
    return saved
