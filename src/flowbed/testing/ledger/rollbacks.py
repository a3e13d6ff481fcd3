"""What the rollbacks of every ledger must do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.records import Status
from flowbed.testing.ledger.rows import (
    LATE,
    chunk,
    only,
    put,
    recorded,
    rollback,
    run,
    settle,
    states,
    waiting,
)

if TYPE_CHECKING:
    from flowbed.ledger import Ledger


class RollbacksContract:
    """Tests of `Rollbacks`, and their effect on runs."""

    async def test_record_reverts_runs_after_target(self, ledger: Ledger) -> None:
        """Runs between target and version are reverted with their chunks, except those that the target contains."""
        for number, version in ((1, 3), (2, 5), (3, 6), (4, 9)):
            await recorded(ledger, f"i{number}", f"r{number}")
            await ledger.runs.commit([f"r{number}"], version=version)
        done = await ledger.rollbacks.record(rollback(target=4, version=8), kept=["r3"])
        assert (done.runs, done.chunks) == (1, 1)
        assert await states(ledger) == {
            "r1": "committed",
            "r2": "reverted",
            "r3": "committed",
            "r4": "committed",
        }
        assert (await only(ledger, "i2")).status is Status.REVERTED
        assert await ledger.runs.reverted("c") == ["r2"]
        await settle(ledger)
        assert await ledger.runs.pending("c", limit=5) == []
        assert await waiting(ledger, now=LATE) == []

    async def test_record_again_changes_nothing(self, ledger: Ledger) -> None:
        """Recording a rollback again changes nothing and returns its effect; rollbacks are listed newest first."""
        await recorded(ledger, "i1", "r1")
        await ledger.runs.commit(["r1"], version=5)
        first = await ledger.rollbacks.record(rollback(target=4, version=8), kept=[])
        assert await ledger.rollbacks.record(rollback(target=4, version=8), kept=["r1"]) == first
        later = await ledger.rollbacks.record(rollback(target=3, version=9), kept=[])
        assert await ledger.rollbacks.of("c") == [later, first]
        assert await ledger.rollbacks.of("k") == []

    async def test_record_commits_runs_of_target(self, ledger: Ledger) -> None:
        """Reverted runs in a target are committed by its version, and a later rollback reverts them again."""
        await recorded(ledger, "i1", "r1")
        await ledger.runs.commit(["r1"], version=5)
        await ledger.rollbacks.record(rollback(target=4, version=6), kept=[])
        await ledger.rollbacks.record(rollback(target=5, version=7), kept=["r1"])
        assert await ledger.runs.get("r1") == run(state="committed", version=7)
        assert (await only(ledger, "i1")).status is Status.SUCCESS
        await ledger.rollbacks.record(rollback(target=6, version=8), kept=[])
        assert (await only(ledger, "i1")).status is Status.REVERTED

    async def test_commit_in_undone_version_stays_pending(self, ledger: Ledger) -> None:
        """A run marked late, in a version that a rollback has undone, stays pending for the next commit."""
        await recorded(ledger, "i1", "r1")
        await ledger.rollbacks.record(rollback(target=4, version=8), kept=[])
        await ledger.runs.commit(["r1"], version=7)
        await settle(ledger)
        assert await ledger.runs.pending("c", limit=5) == [run()]
        assert (await only(ledger, "i1")).status is Status.PENDING
        await ledger.runs.commit(["r1"], version=9)
        assert (await only(ledger, "i1")).status is Status.SUCCESS

    async def test_release_makes_reverted_runs_pending(self, ledger: Ledger) -> None:
        """Releasing makes the reverted runs of one collection pending again, with their chunks' current versions."""
        await recorded(ledger, "i1", "r1")
        await recorded(ledger, "i2", "r1")
        await ledger.runs.commit(["r1"], version=5)
        await ledger.rollbacks.record(rollback(target=4, version=8), kept=[])
        changed = chunk("i2", version=300)
        await put(ledger, [changed])
        assert await ledger.runs.release("k") == 0
        assert await ledger.runs.release("c") == 1
        await settle(ledger)
        assert [row.id for row in await ledger.runs.pending("c", limit=5)] == ["r1"]
        one = await only(ledger, "i1")
        assert (one.status, one.run) == (Status.PENDING, "r1")
        assert await only(ledger, "i2") == changed
        await ledger.runs.commit(["r1"], version=9)
        assert (await only(ledger, "i1")).status is Status.SUCCESS
        assert await only(ledger, "i2") == changed

    async def test_see_only_grows(self, ledger: Ledger) -> None:
        """How far the history was read is remembered for each collection, and only grows."""
        assert await ledger.rollbacks.seen("c") == 0
        await ledger.rollbacks.see("c", 5)
        await ledger.rollbacks.see("c", 3)
        assert await ledger.rollbacks.seen("c") == 5
        assert await ledger.rollbacks.seen("k") == 0
