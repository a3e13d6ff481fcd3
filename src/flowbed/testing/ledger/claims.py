"""What claims on the chunks of every ledger must do."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flowbed.records import Status
from flowbed.testing.ledger.rows import (
    LATE,
    WAITING,
    batch,
    chunk,
    claim,
    failure,
    only,
    put,
    run,
    settle,
    waiting,
)

if TYPE_CHECKING:
    from flowbed.ledger import Ledger


class ClaimsContract:
    """Tests of `Chunks`: which worker may embed which chunk."""

    async def test_batches_lists_oldest_first(self, ledger: Ledger) -> None:
        """Batches are listed by registration time, deletions before them, each once."""
        for id_, at in (("x", 30), ("y", 10), ("z", 20)):
            await ledger.batches.register(batch(id_, timestamp=at))
        rows = [chunk(f"{id_}{number}", batch=id_) for id_ in "xyz" for number in range(3)]
        await put(ledger, [*rows, chunk("gone", batch="", deleted=True)])
        assert await waiting(ledger) == ["y", "z", "x", ""]

    async def test_batches_lists_more_than_a_page(self, ledger: Ledger) -> None:
        """Thousands of batches are listed once each, registered or not."""
        await put(ledger, [chunk(f"i{number}", batch=f"b{number:05d}") for number in range(1_100)])
        assert await waiting(ledger) == [f"b{number:05d}" for number in range(1_100)]

    async def test_claims_respect_sources(self, ledger: Ledger) -> None:
        """With given sources, chunks of others are neither listed nor claimed; without any, all are."""
        await ledger.batches.register(batch("x"))
        rows = [
            chunk("1", batch="x"),
            chunk("2", source="t", batch="y"),
            chunk("3", batch="", deleted=True),
            chunk("4", source="t", batch="", deleted=True),
        ]
        await put(ledger, rows)
        assert await waiting(ledger, sources=["s"]) == ["x", ""]
        assert await waiting(ledger, sources=["t"]) == ["y", ""]
        assert await waiting(ledger, sources=["u"]) == []
        assert [row.id for row in await claim(ledger, "", sources=["t"])] == ["4"]
        assert await claim(ledger, "x", sources=["t"]) == []
        assert [row.id for row in await claim(ledger, "")] == ["3"]

    async def test_swap_of_claimed_chunks_makes_them_their_writers(self, ledger: Ledger) -> None:
        """A swap may write chunks as claimed already: their worker records them, and its death releases them."""
        claimed = {"status": Status.PENDING, "worker": "w", "until": LATE, "batch": "x"}
        await put(ledger, [chunk("1", **claimed), chunk("2", **claimed), chunk("3", deleted=True, **claimed)])
        assert await waiting(ledger) == []
        assert await claim(ledger, "x", worker="other") == []
        assert await ledger.chunks.workers() == {"w"}
        await ledger.runs.record(run(), [("1", 100), ("3", 100)], worker="w")
        await settle(ledger)
        assert [(await only(ledger, id_)).run for id_ in "123"] == ["r1", "", "r1"]
        assert await ledger.chunks.release("w") == 1
        await settle(ledger)
        assert (await only(ledger, "2")).status is Status.NONE
        assert await waiting(ledger) == ["x"]

    async def test_claims_respect_statuses(self, ledger: Ledger) -> None:
        """Only batches with the given statuses are listed, and only such chunks claimed; SUCCESS may be one of them."""
        for status in Status:
            await put(ledger, [chunk(status, batch=status, status=status, until=LATE, worker="other")])
        assert await waiting(ledger, Status.NONE) == ["NONE"]
        assert await waiting(ledger, Status.SKIPPED, Status.REVERTED) == ["REVERTED", "SKIPPED"]
        assert await waiting(ledger, Status.SUCCESS) == ["SUCCESS"]
        assert await claim(ledger, "SUCCESS") == []
        (won,) = await claim(ledger, "SUCCESS", statuses=[Status.SUCCESS])
        assert (won.status, won.worker) == (Status.PENDING, "w")

    async def test_claims_rejected_failures_need_failed_alone(self, ledger: Ledger) -> None:
        """FAILED includes only transient failures, unless FAILED is the only status given."""
        for kind in ("transient", "rejected"):
            await put(ledger, [chunk(kind, batch=kind, status=Status.FAILED, failure=kind, error="why")])
        assert await waiting(ledger) == ["transient"]
        assert await waiting(ledger, Status.FAILED) == ["rejected", "transient"]
        assert await claim(ledger, "rejected") == []
        (won,) = await claim(ledger, "rejected", statuses=[Status.FAILED])
        assert (won.failure, won.error) == ("", "")
        assert [row.id for row in await claim(ledger, "transient")] == ["transient"]

    async def test_claim_returns_updated_rows(self, ledger: Ledger) -> None:
        """A claim makes chunks PENDING for its worker and returns the updated rows, up to its limit."""
        rows = [chunk(f"i{number}", ordinal=number) for number in range(5)]
        await put(ledger, rows)
        won = await claim(ledger, limit=3)
        assert len(won) == 3
        assert all((row.status, row.worker, row.until) == (Status.PENDING, "w", LATE) for row in won)
        assert [await only(ledger, row.id) for row in won] == won
        assert len(await claim(ledger, worker="v")) == 2
        assert await claim(ledger, worker="u") == []
        assert await waiting(ledger) == []

    async def test_claim_concurrent_workers_are_exclusive(self, ledger: Ledger) -> None:
        """If many workers claim one batch at once, each chunk is claimed by exactly one."""
        await put(ledger, [chunk(f"i{number}") for number in range(200)])
        claims = [claim(ledger, worker=f"w{number}", limit=30) for number in range(10)]
        won = [row.id for rows in await asyncio.gather(*claims) for row in rows]
        assert len(won) == len(set(won)) == 200

    async def test_claim_expired_can_be_taken(self, ledger: Ledger) -> None:
        """An active claim is safe even if PENDING is requested; after it expires another worker can claim the chunk."""
        await put(ledger, [chunk()])
        await claim(ledger, until=50)
        assert await waiting(ledger, *Status, now=50) == []
        assert await claim(ledger, worker="v", statuses=list(Status), now=50) == []
        assert await waiting(ledger, Status.NONE, now=51) == ["b"]
        (won,) = await claim(ledger, worker="v", now=51)
        assert won.worker == "v"

    async def test_renew_extends_own_claims(self, ledger: Ledger) -> None:
        """A worker that renews keeps its claims, and only its own."""
        await put(ledger, [chunk("i1"), chunk("i2")])
        await claim(ledger, until=50, limit=1)
        await claim(ledger, until=50, worker="v")
        await settle(ledger)
        await ledger.chunks.renew("w", until=90)
        assert [row.worker for row in await claim(ledger, worker="u", now=60)] == ["u"]
        await settle(ledger)
        assert await ledger.chunks.workers() == {"w", "u"}

    async def test_release_resets_own_claims(self, ledger: Ledger) -> None:
        """A worker releases its own claims, except for chunks that are in a run."""
        await put(ledger, [chunk("i1"), chunk("i2"), chunk("i3")])
        assert len(await claim(ledger, limit=2)) == 2
        await claim(ledger, worker="v")
        (mine, recorded) = [row for row in await ledger.chunks.find("d") if row.worker == "w"]
        await ledger.runs.record(run(), [(recorded.id, recorded.version)], worker="w")
        await settle(ledger)
        assert await ledger.chunks.workers() == {"v", "w"}
        await settle(ledger)
        assert await ledger.chunks.release("w") == 1
        assert await only(ledger, mine.id) == mine._replace(status=Status.NONE, worker="", until=0)
        assert (await only(ledger, recorded.id)).run == "r1"
        await settle(ledger)
        assert await ledger.chunks.workers() == {"v"}
        await settle(ledger)
        assert await ledger.chunks.release("w") == 0

    async def test_fail_stores_reason_and_attempts(self, ledger: Ledger) -> None:
        """A failed chunk carries kind and reason, counts its attempts, and is claimed no longer."""
        await put(ledger, [chunk()])
        for attempts in (1, 2):
            (won,) = await claim(ledger)
            await ledger.chunks.fail([failure(version=won.version)], worker="w")
            row = await only(ledger)
            assert (row.status, row.failure, row.error) == (Status.FAILED, "transient", "no answer")
            assert (row.attempts, row.worker, row.until) == (attempts, "", 0)

    async def test_fail_of_changed_chunk_changes_nothing(self, ledger: Ledger) -> None:
        """A failure of another version, of another worker or of a chunk in a run changes nothing."""
        await put(ledger, [chunk()])
        (row,) = await claim(ledger)
        await ledger.chunks.fail([failure(version=99)], worker="w")
        await ledger.chunks.fail([failure()], worker="v")
        await ledger.chunks.fail([], worker="w")
        assert await only(ledger) == row
        await ledger.runs.record(run(), [(row.id, row.version)], worker="w")
        await ledger.chunks.fail([failure()], worker="w")
        assert (await only(ledger)).status == Status.PENDING

    async def test_retry_resets_failed_chunks_at_later_version(self, ledger: Ledger) -> None:
        """Retrying makes FAILED chunks NONE at max(version + 1, now), the named ones or all."""
        rows = [
            chunk(f"i{number}", status=Status.FAILED, failure="rejected", error="why", attempts=3)
            for number in range(4)
        ]
        await put(ledger, [*rows, chunk("fine", status=Status.SUCCESS)])
        assert await ledger.chunks.retry(["i0", "fine", "unknown"], now=500) == 1
        assert await only(ledger, "i0") == rows[0]._replace(
            status=Status.NONE, version=500, failure="", error=""
        )
        assert (await only(ledger, "i1")).status == Status.FAILED
        await settle(ledger)
        assert await ledger.chunks.retry([], now=50) == 3
        assert (await only(ledger, "i1")).version == 101
        await settle(ledger)
        assert await ledger.chunks.retry([], now=50) == 0

    async def test_claim_of_failed_chunk_raises_version(self, ledger: Ledger) -> None:
        """A failed chunk is claimed at a later version, so its next run gets another name."""
        await put(ledger, [chunk("a"), chunk("b")])
        await claim(ledger)
        await ledger.chunks.fail([failure(id="a", kind="rejected")], worker="w")
        await settle(ledger)
        await ledger.chunks.release("w")
        won = await claim(ledger, statuses={Status.FAILED}, now=1_000)
        won += await claim(ledger, statuses={Status.NONE}, now=1_000)
        assert {row.id: row.version for row in won} == {"a": 1_000, "b": 100}

    async def test_ready_returns_what_claim_would(self, ledger: Ledger) -> None:
        """The chunks reported as ready are those that a claim then returns; reading them changes nothing."""
        await put(ledger, [chunk("a"), chunk("b"), chunk("c", batch="other")])
        for _ in range(2):
            await settle(ledger)
            ready = await ledger.chunks.ready("b", WAITING, now=10, sources=())
            assert {row.id for row in ready} == {"a", "b"}
        assert {row.id for row in await claim(ledger)} == {"a", "b"}
        await settle(ledger)
        assert await ledger.chunks.ready("b", WAITING, now=10, sources=()) == []

    async def test_retry_of_refused_run_resets_its_chunks(self, ledger: Ledger) -> None:
        """Naming a refused run makes its chunks wait again, and no others."""
        await put(ledger, [chunk("a"), chunk("b")])
        await claim(ledger)
        await ledger.runs.record(run("r1"), [("a", 100)], worker="w")
        await ledger.chunks.fail([failure(id="b", kind="rejected")], worker="w")
        await ledger.runs.refuse("r1", reason="its bytes are not those recorded")
        assert await ledger.chunks.retry(["r1"], now=50) == 1
        assert (await only(ledger, "a")).status is Status.NONE
        assert (await only(ledger, "b")).status is Status.FAILED

    async def test_fail_escapes_unstorable_reasons(self, ledger: Ledger) -> None:
        """A provider's message is stored as the reason, with NUL and half characters escaped."""
        await put(ledger, [chunk("a"), chunk("b")])
        await claim(ledger)
        await ledger.chunks.fail([failure(id="a", reason="said \0 and \ud83d, é")], worker="w")
        assert (await only(ledger, "a")).error == "said \\u0000 and \\ud83d, é"
        await ledger.runs.record(run("r1"), [("b", 100)], worker="w")
        await ledger.runs.refuse("r1", reason="\0")
        assert (await only(ledger, "b")).error == "\\u0000"

    async def test_lookup_of_unstorable_id_finds_nothing(self, ledger: Ledger) -> None:
        """Looking up ids with a NUL or half of a character finds nothing, and changes nothing."""
        await put(ledger, [chunk("a")])
        for odd in ("a\0", "\ud83d"):
            assert await ledger.chunks.find(odd) == []
            assert await ledger.chunks.of("s", [odd]) == []
            assert await ledger.chunks.owners("c", [odd, "a"]) == {"a": "s"}
            assert await ledger.chunks.retry([odd], now=5) == 0
            assert await ledger.batches.get([odd]) == {}
