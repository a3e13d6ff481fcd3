"""What every ledger must do for chunks whose texts are in a submission."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.records import Status
from flowbed.testing.ledger.rows import (
    LATE,
    carried,
    chunk,
    claim,
    end,
    failure,
    only,
    put,
    run,
    settle,
    submission,
    take,
    waiting,
)

if TYPE_CHECKING:
    from flowbed.ledger import Ledger

OTHER_SPACE = '{"model":"another"}'


class CarryingContract:
    """Tests of `Chunks`: which submission carries their texts."""

    async def test_claim_of_unrecorded_submission_expires(self, ledger: Ledger) -> None:
        """A claim for an unrecorded submission expires like any other, and another worker can take the chunks."""
        await put(ledger, [chunk()])
        (won,) = await claim(ledger, submission="x", until=50)
        assert won == chunk()._replace(status=Status.PENDING, worker="w", until=50, submission="x")
        assert await waiting(ledger, *Status, now=50) == []
        assert await waiting(ledger, now=51) == ["b"]
        (won,) = await claim(ledger, worker="v", now=51, submission="y")
        assert (won.worker, won.submission) == ("v", "y")
        assert await only(ledger) == won

    async def test_recorded_submission_keeps_its_chunks(self, ledger: Ledger) -> None:
        """Once a submission is recorded, its chunks belong to it until it has ended, even if no worker holds them."""
        await put(ledger, [chunk()])
        await claim(ledger, submission="x", until=50)
        await ledger.submissions.create(submission())
        assert await waiting(ledger, *Status, now=51) == []
        assert await claim(ledger, worker="v", statuses=list(Status), now=51) == []
        await settle(ledger)
        assert await ledger.chunks.ready("b", list(Status), now=LATE, sources=()) == []
        assert await ledger.chunks.hand_over("x", worker="w") == 1
        assert await waiting(ledger, *Status, now=LATE) == []
        assert await claim(ledger, worker="v", statuses=list(Status), now=LATE) == []
        await end(ledger, "x")
        assert await waiting(ledger) == ["b"]
        (won,) = await claim(ledger, worker="v")
        assert (won.worker, won.submission) == ("v", "")

    async def test_hand_over_leaves_chunks_to_their_submission(self, ledger: Ledger) -> None:
        """A worker hands chunks claimed for a submission over to it; chunks of other workers stay claimed."""
        rows = [
            chunk("a"),
            chunk("b"),
            chunk("c", batch="b2"),
            chunk("d", batch="b3"),
            chunk("e", batch="b4"),
        ]
        await put(ledger, rows)
        await claim(ledger, submission="x")
        await claim(ledger, "b2", submission="y")
        await claim(ledger, "b3", worker="v", submission="x")
        await claim(ledger, "b4")
        await ledger.submissions.create(submission())
        before = {row.id: row for row in await ledger.chunks.find("d") if row.id in "cde"}
        assert await ledger.chunks.hand_over("x", worker="w") == 2
        assert await ledger.chunks.hand_over("x", worker="w") == 0
        left = {"status": Status.PENDING, "worker": "", "until": 0, "submission": "x"}
        assert await only(ledger, "a") == rows[0]._replace(**left)  # type: ignore[arg-type]
        assert await only(ledger, "b") == rows[1]._replace(**left)  # type: ignore[arg-type]
        assert {row.id: row for row in await ledger.chunks.find("d") if row.id in "cde"} == before
        await settle(ledger)
        assert await ledger.chunks.workers() == {"w", "v"}

    async def test_workers_all_chunks_handed_over_is_empty(self, ledger: Ledger) -> None:
        """When all chunks belong to submissions, no worker is listed."""
        await carried(ledger, chunk("a"), chunk("b"), submission=submission())
        await settle(ledger)
        assert await ledger.chunks.workers() == set()

    async def test_hand_over_to_ended_submission_changes_nothing(self, ledger: Ledger) -> None:
        """Chunks for a submission that has ended or is not recorded stay claimed until the claim expires."""
        await put(ledger, [chunk("a"), chunk("b", batch="b2")])
        await claim(ledger, submission="x", until=50)
        await claim(ledger, "b2", submission="unrecorded", until=50)
        await ledger.submissions.create(submission())
        await end(ledger, "x")
        for name in ("x", "unrecorded", ""):
            assert await ledger.chunks.hand_over(name, worker="w") == 0
        assert {row.until for row in await ledger.chunks.find("d")} == {50}
        assert await waiting(ledger, now=50) == []
        assert await waiting(ledger, now=51) == ["b", "b2"]
        assert len(await claim(ledger, worker="v", now=51)) == 1

    async def test_release_leaves_chunks_to_live_submissions(self, ledger: Ledger) -> None:
        """Releasing a dead worker leaves its chunks of live submissions to these; everything else waits again."""
        rows = [chunk(name, batch=name) for name in ("live", "ended", "unrecorded", "none")]
        await put(ledger, rows)
        for name in ("live", "ended", "unrecorded"):
            await claim(ledger, name, submission=name)
        await claim(ledger, "none")
        for name in ("live", "ended"):
            await ledger.submissions.create(submission(name))
        await end(ledger, "ended")
        await settle(ledger)
        assert await ledger.chunks.release("w") == 4
        assert await only(ledger, "live") == rows[0]._replace(status=Status.PENDING, submission="live")
        for row in rows[1:]:
            assert await only(ledger, row.id) == row
        await settle(ledger)
        assert await ledger.chunks.workers() == set()
        assert await waiting(ledger, now=LATE) == ["ended", "none", "unrecorded"]

    async def test_bind_moves_held_chunks_to_another_submission(self, ledger: Ledger) -> None:
        """A worker moves chunks that it holds, at their version, to another submission, and no others."""
        await put(ledger, [chunk("a"), chunk("b"), chunk("c"), chunk("m", batch="b2")])
        a, b, c = await claim(ledger, submission="x")
        (m,) = await claim(ledger, "b2", worker="v", submission="x")
        await ledger.chunks.bind([a, b._replace(version=99), m], worker="w", submission="y")
        assert await only(ledger, "a") == a._replace(submission="y")
        assert [await only(ledger, row.id) for row in (b, c, m)] == [b, c, m]
        await ledger.chunks.bind([], worker="w", submission="y")
        for name in ("x", "y"):
            await ledger.submissions.create(submission(name))
        assert await ledger.chunks.hand_over("y", worker="w") == 1
        assert (await only(ledger, "a")).until == 0
        assert [row.id for row in await take(ledger, "y")] == ["a"]

    async def test_bind_realtime_chunk_can_be_handed_over(self, ledger: Ledger) -> None:
        """A chunk claimed for the realtime lane can be handed over to the submission that carries its text."""
        await carried(ledger, chunk("a"), submission=submission())
        await put(ledger, [chunk("b", batch="b2")])
        won = await claim(ledger, "b2")
        await ledger.chunks.bind(won, worker="w", submission="x")
        assert await ledger.chunks.hand_over("x", worker="w") == 1
        assert [row.id for row in await take(ledger, "x")] == ["a", "b"]

    async def test_give_back_resets_held_chunks(self, ledger: Ledger) -> None:
        """Released chunks wait again without a submission, unless others hold them or they have changed since."""
        rows = [chunk("a"), chunk("b"), chunk("c", batch="b2")]
        await put(ledger, rows)
        a, b = await claim(ledger, submission="x")
        (c,) = await claim(ledger, "b2", worker="v", submission="x")
        await ledger.chunks.give_back([a, b._replace(version=99), c], worker="w")
        assert [await only(ledger, row.id) for row in (a, b, c)] == [rows[0], b, c]
        await ledger.chunks.give_back([], worker="w")
        assert await waiting(ledger) == ["b"]

    async def test_gathered_reports_texts_of_unrecorded_submissions(self, ledger: Ledger) -> None:
        """A text counts as gathered if an unrecorded submission, other than those excluded, has claimed its chunk."""
        names = ("unrecorded", "live", "ended", "mine", "now")
        await put(ledger, [chunk(name, text_hash=f"text {name}", batch=name) for name in names])
        for name in names[:-1]:
            await claim(ledger, name, submission=name)
        await claim(ledger, "now")
        await ledger.submissions.create(submission("live"))
        await ledger.submissions.create(submission("ended"))
        await end(ledger, "ended")
        asked = [f"text {name}" for name in (*names, "unknown")]
        assert (await ledger.chunks.in_flight(asked, besides={"mine"})).gathered == {"text unrecorded"}
        assert (await ledger.chunks.in_flight(set(asked), besides={"unrecorded"})).gathered == {"text mine"}
        assert (await ledger.chunks.in_flight(asked[1:], besides={"mine"})).gathered == set()
        assert (await ledger.chunks.in_flight([], besides={"mine"})).gathered == set()

    async def test_gathered_finished_chunk_no_longer_counts(self, ledger: Ledger) -> None:
        """A text counts as gathered until its chunk is in a run, has failed, or waits again."""
        await put(ledger, [chunk(name, text_hash=name) for name in "abcd"])
        held = await claim(ledger, worker="p", submission="x")
        await ledger.runs.record(run(), [("a", 100)], worker="p")
        await ledger.chunks.fail([failure(id="b")], worker="p")
        await ledger.chunks.give_back([row for row in held if row.id == "c"], worker="p")
        assert (await ledger.chunks.in_flight("abcd", besides={""})).gathered == {"d"}
        assert (await only(ledger, "a")).submission == "x"
        assert (await only(ledger, "b")).submission == ""

    async def test_gathered_looks_up_many_texts_at_once(self, ledger: Ledger) -> None:
        """Any number of texts is looked up in one call."""
        rows = [chunk(f"i{n}", text_hash=f"{n:064x}"[::-1]) for n in range(1_200)]
        await put(ledger, rows)
        await claim(ledger, submission="x", limit=1_200)
        asked = {row.text_hash for row in rows}
        assert len((await ledger.chunks.in_flight(asked, besides={""})).gathered) == 1_200
