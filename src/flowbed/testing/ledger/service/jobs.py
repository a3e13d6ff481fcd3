"""What the jobs of every ledger must do."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from flowbed.testing.ledger.rows import LATE, flat, job, settle

if TYPE_CHECKING:
    from flowbed.ledger import JobRow, Ledger


class JobsContract:
    """Tests of `Jobs`; `more` is more jobs than a page of its listings."""

    more = 1_100

    async def test_create_again_changes_nothing(self, ledger: Ledger) -> None:
        """A job is returned as recorded; recording its id again changes nothing; an unknown id is not found."""
        row = job(keep=3_000_000_000, model="m", faults='[{"line":1}]', stamps='{"validating":1}')
        await ledger.jobs.create(row)
        await ledger.jobs.create(replace(row, owner="another", state="failed"))
        assert await ledger.jobs.get("batch_1") == row
        assert await listed(ledger, "another") == []
        for unknown in ("batch_2", "odd\0"):
            assert await ledger.jobs.get(unknown) is None
            assert await ledger.jobs.cancel(unknown) is None

    async def test_list_is_per_owner_newest_first(self, ledger: Ledger) -> None:
        """Each owner's jobs are listed newest first, up to a limit, including ended ones, and no others."""
        at = job().created
        for id_, owner, created in (
            ("a", "o", at),
            ("b", "", at + 9),
            ("c", "o", at + 2),
            ("d", "o", at + 2),
            ("e", "o", at + 1),
        ):
            await ledger.jobs.create(job(id_, owner=owner, created=created))
        await finish(ledger, "d")
        assert await listed(ledger, "o") == ["d", "c", "e", "a"]
        assert await listed(ledger, "o", limit=2) == ["d", "c"]
        assert await listed(ledger, "") == ["b"]
        assert await listed(ledger, "nobody") == []

    async def test_list_continues_after_a_job(self, ledger: Ledger) -> None:
        """A listing continues with older jobs; after an unknown job or another owner's it is empty."""
        at = job().created
        for id_, owner, created in (
            ("a", "o", at),
            ("b", "p", at + 9),
            ("c", "o", at + 2),
            ("d", "o", at + 2),
        ):
            await ledger.jobs.create(job(id_, owner=owner, created=created))
        assert await listed(ledger, "o", after="d") == ["c", "a"]
        assert await listed(ledger, "o", after="d", limit=1) == ["c"]
        assert await listed(ledger, "o", after="a") == []
        for unknown in ("unknown", "b", "odd\0"):
            assert await listed(ledger, "o", after=unknown) == []

    async def test_pages_lists_every_unfinished_job(self, ledger: Ledger) -> None:
        """Every unfinished job of all owners is read once, the oldest first, over any number of pages."""
        rows = [
            job(f"{n:05d}", owner=f"o{n % 3}", created=job().created + 2 * n // self.more)
            for n in range(self.more)
        ]
        for row in reversed(rows):
            await ledger.jobs.create(row)
        await finish(ledger, rows[3].id)
        await settle(ledger)
        assert await flat(ledger.jobs.pages()) == [row for row in rows if row.id != rows[3].id]

    async def test_hold_excludes_other_workers(self, ledger: Ledger) -> None:
        """A hold excludes other workers until it expires, and its worker can take it again."""
        await ledger.jobs.create(job())
        held = await ledger.jobs.hold("batch_1", worker="w", now=10, until=50)
        assert held == job(worker="w", until=50) == await ledger.jobs.get("batch_1")
        assert await ledger.jobs.hold("batch_1", worker="v", now=50, until=90) is None
        assert await ledger.jobs.hold("batch_1", worker="w", now=50, until=60) == job(worker="w", until=60)
        assert await ledger.jobs.hold("batch_1", worker="v", now=61, until=90) == job(worker="v", until=90)
        await finish(ledger, "batch_1")
        assert await ledger.jobs.hold("batch_1", worker="v", now=LATE, until=LATE) is None
        assert await ledger.jobs.hold("unknown", worker="v", now=10, until=50) is None

    async def test_hold_concurrent_one_wins(self, ledger: Ledger) -> None:
        """If many workers try to hold one job at once, one succeeds."""
        for turn in range(5):
            name = f"batch_{turn}"
            await ledger.jobs.create(job(name))
            held: list[JobRow | None] = await asyncio.gather(
                *(ledger.jobs.hold(name, worker=f"w{number}", now=10, until=LATE) for number in range(8))
            )
            (won,) = [row for row in held if row is not None]
            assert await ledger.jobs.get(name) == won

    async def test_save_without_hold_changes_nothing(self, ledger: Ledger) -> None:
        """A save by a worker without the hold changes nothing and reports that."""
        await ledger.jobs.create(job())
        assert not await ledger.jobs.save(job(state="in_progress"), worker="")
        mine = await ledger.jobs.hold("batch_1", worker="w", now=10, until=50)
        assert mine is not None
        going = replace(mine, state="in_progress", line=7, until=80)
        assert await ledger.jobs.save(going, worker="w")
        theirs = await ledger.jobs.hold("batch_1", worker="v", now=81, until=LATE)
        assert theirs == replace(going, worker="v", until=LATE)
        assert not await ledger.jobs.save(replace(mine, line=9), worker="w")
        assert await ledger.jobs.get("batch_1") == theirs

    async def test_save_keeps_fixed_fields(self, ledger: Ledger) -> None:
        """A save writes the job's progress and results; fields fixed at its creation stay."""
        await ledger.jobs.create(job())
        await ledger.jobs.hold("batch_1", worker="w", now=10, until=50)
        changed = job(
            expires=9,
            model="m",
            state="in_progress",
            total=50_000,
            completed=40_000,
            failed=2,
            line=40_002,
            tokens=3_000_000_000,
            queued=4_000_000_000,
            output="file-2",
            errors="file-3",
            faults='[{"line":3}]',
            stamps='{"in_progress":5}',
            worker="w",
            until=70,
        )
        other = {"owner": "p", "tier": "t", "input": "i", "endpoint": "/", "window": "1h", "created": 1}
        assert await ledger.jobs.save(replace(changed, metadata="{}", keep=5, **other), worker="w")  # type: ignore[arg-type]
        assert await ledger.jobs.get("batch_1") == changed
        assert await listed(ledger, "o") == ["batch_1"]

    async def test_save_without_worker_ends_hold(self, ledger: Ledger) -> None:
        """A save that names no worker ends the hold."""
        await ledger.jobs.create(job())
        mine = await ledger.jobs.hold("batch_1", worker="w", now=10, until=LATE)
        assert mine is not None
        assert await ledger.jobs.save(replace(mine, worker="", until=0), worker="w")
        assert not await ledger.jobs.save(mine, worker="w")
        assert await ledger.jobs.hold("batch_1", worker="v", now=10, until=LATE) is not None

    async def test_cancel_survives_a_save(self, ledger: Ledger) -> None:
        """A cancel is recorded even during a hold, and the holder's save does not undo it; ended jobs stay."""
        await ledger.jobs.create(job())
        mine = await ledger.jobs.hold("batch_1", worker="w", now=10, until=LATE)
        assert mine is not None
        assert await ledger.jobs.cancel("batch_1") == replace(mine, cancel=True)
        assert await ledger.jobs.save(replace(mine, state="in_progress"), worker="w")
        assert await ledger.jobs.get("batch_1") == replace(mine, state="in_progress", cancel=True)
        await ledger.jobs.create(job("batch_2"))
        await finish(ledger, "batch_2")
        ended = await ledger.jobs.get("batch_2")
        assert ended is not None
        assert not ended.cancel
        assert await ledger.jobs.cancel("batch_2") == ended
        assert not await ledger.jobs.save(replace(ended, ended=0, worker="w"), worker="ender")

    async def test_queued_sums_tokens_of_unfinished_jobs(self, ledger: Ledger) -> None:
        """The tokens of an owner's jobs count as queued until the job has ended; those of other owners do not count."""
        assert await ledger.jobs.queued("o") == 0
        for id_, owner in (("a", "o"), ("b", "o"), ("c", "")):
            await ledger.jobs.create(job(id_, owner=owner, queued=3_000_000_000))
        assert await ledger.jobs.queued("o") == 6_000_000_000
        await finish(ledger, "a")
        assert await ledger.jobs.queued("o") == 3_000_000_000
        assert await ledger.jobs.queued("") == 3_000_000_000


async def listed(ledger: Ledger, owner: str, *, after: str | None = None, limit: int = 20) -> list[str]:
    """List the ids of an owner's jobs."""
    rows = await ledger.jobs.list(owner, after=after, limit=limit)
    assert {row.owner for row in rows} <= {owner}
    return [row.id for row in rows]


async def finish(ledger: Ledger, name: str) -> None:
    """Let a job end."""
    row = await ledger.jobs.hold(name, worker="ender", now=LATE, until=LATE)
    assert row is not None
    assert await ledger.jobs.save(replace(row, state="completed", ended=5), worker="ender")
