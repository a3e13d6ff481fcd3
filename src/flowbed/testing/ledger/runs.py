"""What the runs of every ledger must do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.records import Status
from flowbed.testing.ledger.rows import LATE, chunk, claim, only, put, recorded, run, settle, waiting

if TYPE_CHECKING:
    from flowbed.ledger import Ledger


class RunsContract:
    """Tests of `Runs`."""

    async def test_record_takes_claimed_chunks(self, ledger: Ledger) -> None:
        """Recording makes a run pending, and adds only chunks that its worker holds, at their version."""
        await put(
            ledger, [chunk("mine"), chunk("theirs", batch="x"), chunk("free", batch="y"), chunk("newer")]
        )
        await claim(ledger)
        await claim(ledger, "x", worker="v")
        taken = [("mine", 100), ("theirs", 100), ("free", 100), ("newer", 99), ("unknown", 100)]
        await ledger.runs.record(run(), taken, worker="w")
        await settle(ledger)
        assert await ledger.runs.pending("c", limit=5) == [run()] == [await ledger.runs.get("r1")]
        await settle(ledger)
        assert await ledger.runs.collections() == ["c"]
        inside = {id_: (await only(ledger, id_)).run for id_, _ in taken[:4]}
        assert inside == {"mine": "r1", "theirs": "", "free": "", "newer": ""}
        mine = await only(ledger, "mine")
        assert (mine.status, mine.until) == (Status.PENDING, 0)
        assert await waiting(ledger, now=LATE) == ["y"]

    async def test_record_ignores_other_collections(self, ledger: Ledger) -> None:
        """A run takes only the chunks of its own collection, even if two collections share an id."""
        await put(ledger, [chunk("one"), chunk("one", collection="k")])
        await claim(ledger)
        await ledger.runs.record(run(), [("one", 100)], worker="w")
        assert {row.collection: row.run for row in await ledger.chunks.find("one")} == {"c": "r1", "k": ""}

    async def test_commit_makes_chunks_successful(self, ledger: Ledger) -> None:
        """A commit marks the named runs and their chunks, and no other runs."""
        await recorded(ledger, "i1", "r1")
        await recorded(ledger, "i2", "r2")
        await ledger.runs.commit(["r1", "unknown"], version=7)
        assert await ledger.runs.get("r1") == run(state="committed", version=7)
        await settle(ledger)
        assert await ledger.runs.pending("c", limit=5) == [run("r2")]
        one, two = await only(ledger, "i1"), await only(ledger, "i2")
        assert (one.status, one.run, one.worker) == (Status.SUCCESS, "r1", "")
        assert two.status == Status.PENDING

    async def test_commit_again_changes_nothing(self, ledger: Ledger) -> None:
        """A run committed twice keeps the version that contained it first."""
        await recorded(ledger, "i1", "r1")
        await ledger.runs.commit(["r1"], version=7)
        await ledger.runs.commit(["r1"], version=8)
        assert await ledger.runs.get("r1") == run(state="committed", version=7)

    async def test_commit_of_changed_chunk_leaves_it_waiting(self, ledger: Ledger) -> None:
        """A chunk swapped between record and commit stays NONE at its newer version."""
        await recorded(ledger, "i1", "r1")
        later = chunk("i1", version=200, row_hash="r2")
        await put(ledger, [later])
        await ledger.runs.commit(["r1"], version=7)
        assert await only(ledger, "i1") == later
        await ledger.runs.refuse("r1", reason="late")
        assert await only(ledger, "i1") == later

    async def test_record_again_keeps_first_row(self, ledger: Ledger) -> None:
        """Recording twice keeps the first row."""
        await recorded(ledger, "i1", "r1")
        await ledger.runs.record(run(created=9, texts=99), [("i1", 100)], worker="w")
        await settle(ledger)
        assert await ledger.runs.pending("c", limit=5) == [run()]

    async def test_record_committed_run_again_is_pending(self, ledger: Ledger) -> None:
        """A committed run that gets newly claimed chunks is pending again, and the next commit makes them SUCCESS."""
        await recorded(ledger, "i1", "r1")
        await ledger.runs.commit(["r1"], version=7)
        await ledger.runs.record(run(), [("i1", 100)], worker="w")
        await settle(ledger)
        assert await ledger.runs.pending("c", limit=5) == []
        await recorded(ledger, "i1", "r1")
        await settle(ledger)
        (again,) = await ledger.runs.pending("c", limit=5)
        assert again.id == "r1"
        assert (await only(ledger, "i1")).status == Status.PENDING
        await ledger.runs.commit(["r1"], version=9)
        assert (await only(ledger, "i1")).status == Status.SUCCESS
        assert await ledger.runs.get("r1") == run(state="committed", version=9)

    async def test_refuse_fails_chunks(self, ledger: Ledger) -> None:
        """A refused run is not pending, and its chunks are FAILED, as rejected, with its reason."""
        await recorded(ledger, "i1", "r1")
        await ledger.runs.refuse("r1", reason="another space")
        assert await ledger.runs.get("r1") == run(state="refused", error="another space")
        await settle(ledger)
        assert await ledger.runs.pending("c", limit=5) == []
        row = await only(ledger, "i1")
        assert (row.status, row.failure, row.error) == (Status.FAILED, "rejected", "another space")
        assert (row.attempts, row.worker) == (1, "")

    async def test_record_refused_run_again_is_pending(self, ledger: Ledger) -> None:
        """A refused run whose delta was repaired is pending again, with the delta that its recorder found."""
        await recorded(ledger, "i1", "r1")
        await ledger.runs.refuse("r1", reason="damaged")
        (won,) = await claim(ledger, statuses=[Status.FAILED])
        assert won.run == ""
        await ledger.runs.record(run(sha256="0b"), [("i1", won.version)], worker="w")
        await settle(ledger)
        assert await ledger.runs.pending("c", limit=5) == [run(sha256="0b")]
        await ledger.runs.commit(["r1"], version=7)
        assert (await only(ledger, "i1")).status == Status.SUCCESS

    async def test_refuse_committed_run_changes_nothing(self, ledger: Ledger) -> None:
        """Refusing a run that is in the index changes neither it nor its chunks."""
        await recorded(ledger, "i1", "r1")
        await ledger.runs.commit(["r1"], version=7)
        await ledger.runs.refuse("r1", reason="late")
        assert await ledger.runs.get("r1") == run(state="committed", version=7)
        assert (await only(ledger, "i1")).status == Status.SUCCESS

    async def test_pending_lists_oldest_first(self, ledger: Ledger) -> None:
        """Pending runs are listed by age up to a limit, recent ones newest first, separately for each collection."""
        for id_, created, collection in (("r1", 3, "c"), ("r2", 1, "c"), ("r3", 2, "k"), ("r4", 2, "c")):
            await ledger.runs.record(run(id_, created=created, collection=collection), [], worker="w")
        await settle(ledger)
        assert [row.id for row in await ledger.runs.pending("c", limit=2)] == ["r2", "r4"]
        await settle(ledger)
        assert [row.id for row in await ledger.runs.recent(limit=2)] == ["r1", "r4"]
        await settle(ledger)
        assert await ledger.runs.collections() == ["c", "k"]
        assert await ledger.runs.get("unknown") is None
