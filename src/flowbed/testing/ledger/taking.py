"""What every ledger must do for the chunks of a submission that has results."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flowbed.records import Status
from flowbed.testing.ledger.rows import (
    LATE,
    carried,
    chunk,
    claim,
    end,
    failure,
    flat,
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


class TakingContract:
    """Tests of `Chunks`: which worker writes the results of a submission."""

    async def test_take_returns_chunks_in_order(self, ledger: Ledger) -> None:
        """Chunks of a submission are taken by batch, collection, document, ordinal and id, up to a limit."""
        places = [
            ("b1", "c", "d1", 0, "i9"),
            ("b1", "c", "d1", 1, "i1"),
            ("b1", "c", "d1", 1, "i2"),
            ("b1", "c", "d2", 0, "i3"),
            ("b1", "k", "d1", 0, "i4"),
            ("b2", "a", "d1", 0, "i5"),
        ]
        rows = [
            chunk(id_, batch=batch, collection=collection, document=document, ordinal=ordinal)
            for batch, collection, document, ordinal, id_ in places
        ]
        await put(ledger, rows[::-1])
        for batch in ("b2", "b1"):
            await claim(ledger, batch, worker="finder", submission="x")
        await ledger.submissions.create(submission())
        await ledger.chunks.hand_over("x", worker="finder")
        first = await take(ledger, "x", limit=4)
        taken = {"status": Status.PENDING, "worker": "p", "until": LATE, "submission": "x"}
        assert first == [row._replace(**taken) for row in rows[:4]]  # type: ignore[arg-type]
        assert [row.id for row in await take(ledger, "x", limit=4)] == ["i4", "i5"]
        assert await take(ledger, "x") == []

    async def test_take_concurrent_is_exclusive(self, ledger: Ledger) -> None:
        """If many workers take from one submission at once, each chunk is taken by exactly one."""
        await carried(ledger, *(chunk(f"i{n}") for n in range(100)), submission=submission())
        takes = [take(ledger, "x", worker=f"w{number}", limit=15) for number in range(8)]
        taken = [row.id for rows in await asyncio.gather(*takes) for row in rows]
        taken += [row.id for row in await take(ledger, "x", worker="last", limit=100)]
        assert len(taken) == len(set(taken)) == 100

    async def test_take_expired_hold_is_free(self, ledger: Ledger) -> None:
        """Chunks that were taken, or claimed for a submission that was then recorded, are free after the hold ends."""
        await put(ledger, [chunk("a", ordinal=0), chunk("b", ordinal=1)])
        await claim(ledger, submission="x", until=50)
        await ledger.submissions.create(submission())
        assert await take(ledger, "x", now=50) == []
        first = await take(ledger, "x", now=51, until=70)
        assert [row.id for row in first] == ["a", "b"]
        assert await take(ledger, "x", worker="q", now=70) == []
        assert await ledger.chunks.hand_over("x", worker="w") == 0
        again = await take(ledger, "x", worker="q", now=71)
        assert again == [row._replace(worker="q", until=LATE) for row in first]
        await ledger.runs.record(run(), [("a", 100)], worker="p")
        assert (await only(ledger, "a")).run == ""

    async def test_take_needs_a_live_submission(self, ledger: Ledger) -> None:
        """Chunks of an unrecorded or ended submission cannot be taken, nor those already in a run."""
        await put(ledger, [chunk("a"), chunk("b")])
        await claim(ledger, worker="finder", submission="x", until=50)
        assert await take(ledger, "x", now=51) == []
        await ledger.submissions.create(submission())
        taken = await take(ledger, "x", now=51, limit=1)
        await ledger.runs.record(run(), [(taken[0].id, 100)], worker="p")
        assert [row.id for row in await take(ledger, "x", now=51)] == ["b"]
        await ledger.chunks.hand_over("x", worker="p")
        await end(ledger, "x")
        assert await take(ledger, "x", now=51) == []
        await put(ledger, [chunk("c", batch="b2")])
        assert await take(ledger, "") == []

    async def test_let_go_resets_chunks(self, ledger: Ledger) -> None:
        """Chunks that a submission has not put into a run wait again, held or not; other submissions keep theirs."""
        rows = [chunk("a", ordinal=0), chunk("b", ordinal=1), chunk("c", ordinal=2)]
        await carried(ledger, *rows, submission=submission())
        await put(ledger, [chunk("m", batch="b2"), chunk("n", batch="b3")])
        await claim(ledger, "b2", submission="y")
        await claim(ledger, "b3")
        others = [await only(ledger, name) for name in "mn"]
        (recorded,) = await take(ledger, "x", limit=1)
        await ledger.runs.record(run(), [(recorded.id, 100)], worker="p")
        await take(ledger, "x", worker="q", limit=1)
        assert await ledger.chunks.let_go("x") == 2
        assert (await only(ledger, "a")).run == "r1"
        assert [await only(ledger, row.id) for row in rows[1:]] == rows[1:]
        assert [await only(ledger, name) for name in "mn"] == others
        assert await ledger.chunks.let_go("x") == await ledger.chunks.let_go("") == 0
        assert [row.id for row in await claim(ledger)] == ["b", "c"]

    async def test_submitted_lists_more_than_a_page(self, ledger: Ledger) -> None:
        """More chunks than fit into a page are read once each, held or not, except for those in a run."""
        rows = [chunk(f"i{n:05d}", ordinal=n) for n in range(1_100)]
        await put(ledger, rows)
        await claim(ledger, submission="x", limit=1_100)
        await ledger.submissions.create(submission())
        await ledger.chunks.hand_over("x", worker="w")
        held = await take(ledger, "x", limit=3)
        await ledger.runs.record(run(), [("i00000", 100)], worker="p")
        found = await flat(ledger.chunks.submitted("x"))
        assert [row.id for row in found] == [row.id for row in rows[1:]]
        assert {row.id for row in found if row.worker} == {row.id for row in held[1:]}
        assert await flat(ledger.chunks.submitted("y")) == []
        assert await flat(ledger.chunks.submitted("")) == []

    async def test_swap_of_changed_chunk_leaves_submission(self, ledger: Ledger) -> None:
        """A chunk swapped in again leaves its submission and waits, whatever the result for its old text."""
        await carried(ledger, chunk("a", ordinal=0), chunk("b", ordinal=1), submission=submission())
        (old, _) = await take(ledger, "x")
        later = chunk("a", ordinal=0, version=200, row_hash="r2", text_hash="t2", batch="b2")
        await put(ledger, [later])
        await ledger.runs.record(run(), [("a", old.version)], worker="p")
        await ledger.chunks.fail([failure(id="a", version=old.version)], worker="p")
        await ledger.chunks.bind([old], worker="p", submission="y")
        await ledger.chunks.give_back([old], worker="p")
        assert await only(ledger, "a") == later
        assert [row.id for row in await flat(ledger.chunks.submitted("x"))] == ["b"]
        assert await ledger.chunks.let_go("x") == 1
        assert await waiting(ledger) == ["b", "b2"]

    async def test_renew_extends_holds_on_chunks(self, ledger: Ledger) -> None:
        """Renewing extends a worker's holds; it does not hold free chunks."""
        await carried(ledger, chunk("a", ordinal=0), chunk("b", ordinal=1), submission=submission())
        await take(ledger, "x", limit=1, until=50)
        await settle(ledger)
        await ledger.chunks.renew("p", until=90)
        assert [row.id for row in await take(ledger, "x", worker="q", now=60)] == ["b"]
        assert (await only(ledger, "a")).until == 90

    async def test_fail_leaves_submission(self, ledger: Ledger) -> None:
        """A chunk that failed or waits again has left its submission; a later one can carry it."""
        await carried(ledger, chunk("a", ordinal=0), chunk("b", ordinal=1), submission=submission())
        await take(ledger, "x")
        await ledger.chunks.fail([failure(id="a", kind="rejected")], worker="p")
        await ledger.runs.record(run(), [("b", 100)], worker="p")
        await ledger.runs.commit(["r1"], version=7)
        assert (await only(ledger, "b")).submission == "x"
        assert await ledger.chunks.retry(["a"], now=50) == 1
        assert await ledger.chunks.requeue("c", ["b"], now=50) == 1
        assert [(await only(ledger, name)).submission for name in "ab"] == ["", ""]
        assert {row.submission for row in await claim(ledger, submission="y")} == {"y"}

    async def test_claim_of_refused_chunk_leaves_submission(self, ledger: Ledger) -> None:
        """Chunks of a refused run can be claimed for another lane while their submission is still live."""
        await carried(ledger, chunk(), submission=submission())
        await take(ledger, "x")
        await ledger.runs.record(run(), [("s#d#00000", 100)], worker="p")
        await ledger.runs.refuse("r1", reason="damaged")
        (won,) = await claim(ledger, statuses=[Status.FAILED])
        assert (won.submission, won.run) == ("", "")
        assert await ledger.chunks.let_go("x") == 0
