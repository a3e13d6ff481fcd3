"""What every ledger must do: one class of tests for each aggregate.

Subclass them with a fixture `ledger` that gives an empty, open ledger, and run them with pytest in asyncio's auto mode.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flowbed.errors import Conflict
from flowbed.ledger import BatchRow, ChunkRow, Cursor, DeadLetter, DocumentRow, Failure, RunRow, Swap
from flowbed.records import Status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from flowbed.ledger import Ledger

WAITING = (Status.NONE, Status.FAILED)  # what a plain run asks for
LATE = 10**18  # an end of a claim that no test reaches


def document(id: str = "d", **changes: Any) -> DocumentRow:  # noqa: A002, ANN401 - the record's own fields
    """Make a document of source `s`."""
    row = DocumentRow(source="s", id=id, etag="e1", hash="h1", chunks=1, generation=1)
    return replace(row, **changes)


def chunk(id: str = "s#d#00000", **changes: Any) -> ChunkRow:  # noqa: A002, ANN401 - the record's own fields
    """Make a chunk of document `d` of source `s`, in batch `b`."""
    row = ChunkRow(
        collection="c", id=id, source="s", document="d", ordinal=0, tokens=7, text_hash="t", row_hash="r",
        version=100, batch="b",
    )  # fmt: skip
    return replace(row, **changes)


def run(id: str = "r1", **changes: Any) -> RunRow:  # noqa: A002, ANN401 - the record's own fields
    """Make a run of collection `c`."""
    row = RunRow(
        id=id, collection="c", space="{}", key=f"c/delta/{id}/delta.arrow", sha256="0a", rows=1, lane="realtime",
        worker="w", created=1, texts=1, tokens=7, cost_usd=0.5, seconds=0.25,
    )  # fmt: skip
    return replace(row, **changes)


def letter(subject: str = "s#d#00000", **changes: Any) -> DeadLetter:  # noqa: ANN401 - the record's own fields
    """Make a letter about a chunk of collection `c`."""
    return replace(DeadLetter(kind="chunk", owner="c", subject=subject, reason="too long", at=1), **changes)


async def put(ledger: Ledger, chunks: Sequence[ChunkRow], source: str = "s") -> Cursor:
    """Swap rows in from where the source stands."""
    return await ledger.documents.swap(
        Swap(cursor=await ledger.documents.cursor(source), value="", chunks=chunks)
    )


async def claim(ledger: Ledger, batch: str = "b", worker: str = "w", **changes: Any) -> list[ChunkRow]:  # noqa: ANN401 - the call's own arguments
    """Claim what waits in a batch."""
    asked = {"statuses": WAITING, "now": 10, "until": LATE, "sources": (), "limit": 100, **changes}
    return await ledger.chunks.claim(batch, worker=worker, **asked)


async def waiting(ledger: Ledger, *statuses: Status, now: int = 10, sources: Sequence[str] = ()) -> list[str]:
    """List the batches with something to work on."""
    return await flat(ledger.chunks.batches(statuses or WAITING, now=now, sources=sources))


async def flat(pages: AsyncIterator[list[Any]]) -> list[Any]:
    """Read pages to their end."""
    return [row async for page in pages for row in page]


async def only(ledger: Ledger, id: str = "s#d#00000") -> ChunkRow:  # noqa: A002 - the record's own field
    """Read the one chunk of an id."""
    (row,) = await ledger.chunks.find(id)
    return row


class DocumentsContract:
    """`Documents`."""

    async def test_an_unknown_source_stands_at_the_start(self, ledger: Ledger) -> None:
        """A source never fetched has an empty cursor with token 0, and no documents."""
        assert await ledger.documents.cursor("s") == Cursor(source="s")
        assert await ledger.documents.count("s") == 0
        assert await flat(ledger.documents.pages("s")) == []

    async def test_a_swap_moves_everything_together(self, ledger: Ledger) -> None:
        """A swap puts documents and chunks and moves the cursor, which it returns."""
        swap = Swap(cursor=Cursor(source="s"), value="v1", documents=[document()], chunks=[chunk()])
        moved = await ledger.documents.swap(swap)
        assert moved == await ledger.documents.cursor("s")
        assert (moved.value, moved.token > 0) == ("v1", True)
        assert await ledger.documents.get("s", ["d"]) == {"d": document()}
        assert await ledger.chunks.of("s", ["d"]) == [chunk()]

    async def test_a_swap_from_an_old_cursor_leaves_no_trace(self, ledger: Ledger) -> None:
        """A swap whose cursor has moved raises Conflict and changes nothing."""
        first = Cursor(source="s")
        second = await ledger.documents.swap(Swap(cursor=first, value="v1", documents=[document()]))
        for old in (first, replace(second, token=second.token + 5)):
            swap = Swap(cursor=old, value="v2", documents=[document("e")], removed=["d"], chunks=[chunk()])
            await raises_conflict(ledger, swap)
            assert await ledger.documents.cursor("s") == second
            assert await flat(ledger.documents.pages("s")) == [document()]
            assert await ledger.chunks.find("s#d#00000") == []

    async def test_of_two_swaps_at_once_one_wins(self, ledger: Ledger) -> None:
        """Of several swaps from the same cursor exactly one is applied, whole, and the others leave no trace."""
        for _ in range(5):
            cursor = await ledger.documents.cursor("s")
            swaps = [
                Swap(
                    cursor=cursor,
                    value=f"v{number}",
                    documents=[document(generation=cursor.token * 10 + number)],
                    chunks=[chunk(version=cursor.token * 10 + number, row_hash=f"r{number}")],
                )
                for number in range(4)
            ]
            ends = await asyncio.gather(*map(ledger.documents.swap, swaps), return_exceptions=True)
            (won,) = [number for number, end in enumerate(ends) if isinstance(end, Cursor)]
            assert sum(isinstance(end, Conflict) for end in ends) == len(ends) - 1
            assert (await ledger.documents.cursor("s")).value == f"v{won}"
            assert await ledger.documents.get("s", ["d"]) == {"d": swaps[won].documents[0]}
            assert (await only(ledger)).row_hash == f"r{won}"

    async def test_documents_are_replaced_and_removed(self, ledger: Ledger) -> None:
        """A swap replaces the documents it names, removes those it says are gone, and leaves the others."""
        rows = [document(id) for id in ("a", "b", "c")]  # noqa: A001 - the record's own field
        moved = await ledger.documents.swap(Swap(cursor=Cursor(source="s"), value="", documents=rows))
        later = document("b", etag="e2", hash="h2", chunks=2, generation=2)
        await ledger.documents.swap(Swap(cursor=moved, value="", documents=[later], removed=["a", "unknown"]))
        assert await flat(ledger.documents.pages("s")) == [later, document("c")]
        assert await ledger.documents.count("s") == 2

    async def test_sources_do_not_meet(self, ledger: Ledger) -> None:
        """The same document id in two sources is two documents, each below its own cursor."""
        for source in ("s", "t"):
            rows = [document(source=source, etag=source)]
            await ledger.documents.swap(Swap(cursor=Cursor(source=source), value=source, documents=rows))
        await ledger.documents.swap(
            Swap(cursor=await ledger.documents.cursor("t"), value="t2", removed=["d"])
        )
        assert await ledger.documents.get("s", ["d", "x"]) == {"d": document(etag="s")}
        assert await ledger.documents.get("t", ["d"]) == {}
        assert (await ledger.documents.cursor("s")).value == "s"

    async def test_listings_have_no_ceiling(self, ledger: Ledger) -> None:
        """Thousands of documents are listed once each, in order of id, and read by name in one call."""
        rows = [document(f"d{number:05d}") for number in range(5_000)]
        await ledger.documents.swap(Swap(cursor=Cursor(source="s"), value="", documents=rows[::-1]))
        assert await flat(ledger.documents.pages("s")) == rows
        assert len(await ledger.documents.get("s", {row.id for row in rows})) == 5_000
        assert await ledger.documents.count("s") == 5_000

    async def test_a_listing_may_be_left_early(self, ledger: Ledger) -> None:
        """A swap goes through while a listing stands between two pages, and after one that was left."""
        rows = [document(f"d{number:05d}") for number in range(3_000)]
        moved = await ledger.documents.swap(Swap(cursor=Cursor(source="s"), value="", documents=rows))
        async for _ in ledger.documents.pages("s"):
            moved = await ledger.documents.swap(Swap(cursor=moved, value="v"))
            break
        await ledger.documents.swap(Swap(cursor=moved, value="w"))


class ChunksContract:
    """`Chunks`."""

    async def test_a_swap_replaces_rows_wholesale(self, ledger: Ledger) -> None:
        """A chunk swapped in again stands as given: no status, worker, run or error of its past is left."""
        await put(ledger, [chunk()])
        await claim(ledger)
        await ledger.chunks.fail([failure()], worker="w")
        later = chunk(version=200, row_hash="r2", batch="b2")
        await put(ledger, [later])
        assert await only(ledger) == later

    async def test_versions_only_grow(self, ledger: Ledger) -> None:
        """A changed row whose version is not above the stored one is put one above it; an equal row keeps its own."""
        await put(ledger, [chunk(version=100)])
        await put(ledger, [chunk(version=100, batch="b2")])
        assert await only(ledger) == chunk(version=100, batch="b2")
        await put(ledger, [chunk(version=100, row_hash="r2")])
        assert (await only(ledger)).version == 101
        await put(ledger, [chunk(version=50, row_hash="r3")])
        assert (await only(ledger)).version == 102

    async def test_chunks_are_found_by_id_or_document(self, ledger: Ledger) -> None:
        """A subject is an id or a document, in every collection and source."""
        rows = [
            chunk("one", collection="a"),
            chunk("one", collection="b"),
            chunk("two", document="one", source="t"),
            chunk("three"),
        ]
        await put(ledger, rows)
        assert sorted(await ledger.chunks.find("one"), key=lambda row: (row.id, row.collection)) == rows[:3]
        assert await ledger.chunks.find("nothing") == []

    async def test_chunks_of_documents_include_deleted_ones(self, ledger: Ledger) -> None:
        """The chunks of documents are read by the thousand, of the one source named, deleted ones among them."""
        rows = [
            chunk(f"s#d{number}#0", document=f"d{number}", deleted=number % 2 == 0) for number in range(3_000)
        ]
        await put(ledger, [*rows, chunk("t#d1#0", document="d1", source="t")])
        found = await ledger.chunks.of("s", [row.document for row in rows])
        assert {row.id: row for row in found} == {row.id: row for row in rows}

    async def test_batches_come_oldest_first(self, ledger: Ledger) -> None:
        """Batches are listed by the time they were registered, deletes before them, each once."""
        for id_, at in (("x", 30), ("y", 10), ("z", 20)):
            await ledger.batches.register(batch(id_, timestamp=at))
        rows = [chunk(f"{id_}{number}", batch=id_) for id_ in "xyz" for number in range(3)]
        await put(ledger, [*rows, chunk("gone", batch="", deleted=True)])
        assert await waiting(ledger) == ["y", "z", "x", ""]

    async def test_batches_have_no_ceiling(self, ledger: Ledger) -> None:
        """Thousands of batches are listed once each, registered or not."""
        await put(ledger, [chunk(f"i{number}", batch=f"b{number:05d}") for number in range(2_500)])
        assert await waiting(ledger) == [f"b{number:05d}" for number in range(2_500)]

    async def test_batches_and_claims_keep_to_their_sources(self, ledger: Ledger) -> None:
        """Where sources are named, chunks of others are neither listed nor claimed; none named means all."""
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

    async def test_only_statuses_asked_for_count(self, ledger: Ledger) -> None:
        """A batch is listed, and its chunks claimed, for the statuses asked for; SUCCESS may be one of them."""
        for status in Status:
            await put(ledger, [chunk(status, batch=status, status=status, until=LATE, worker="other")])
        assert await waiting(ledger, Status.NONE) == ["NONE"]
        assert await waiting(ledger, Status.SKIPPED, Status.REVERTED) == ["REVERTED", "SKIPPED"]
        assert await waiting(ledger, Status.SUCCESS) == ["SUCCESS"]
        assert await claim(ledger, "SUCCESS") == []
        (won,) = await claim(ledger, "SUCCESS", statuses=[Status.SUCCESS])
        assert (won.status, won.worker) == (Status.PENDING, "w")

    async def test_failed_chunks_wait_for_being_asked_for(self, ledger: Ledger) -> None:
        """FAILED counts with a transient failure only, unless FAILED alone is asked for."""
        for kind in ("transient", "rejected"):
            await put(ledger, [chunk(kind, batch=kind, status=Status.FAILED, failure=kind, error="why")])
        assert await waiting(ledger) == ["transient"]
        assert await waiting(ledger, Status.FAILED) == ["rejected", "transient"]
        assert await claim(ledger, "rejected") == []
        (won,) = await claim(ledger, "rejected", statuses=[Status.FAILED])
        assert (won.failure, won.error) == ("", "")
        assert [row.id for row in await claim(ledger, "transient")] == ["transient"]

    async def test_a_claim_returns_rows_as_they_stand(self, ledger: Ledger) -> None:
        """A claim makes chunks PENDING for its worker and returns them as they now are, up to its limit."""
        rows = [chunk(f"i{number}", ordinal=number) for number in range(5)]
        await put(ledger, rows)
        won = await claim(ledger, limit=3)
        assert len(won) == 3
        assert all((row.status, row.worker, row.until) == (Status.PENDING, "w", LATE) for row in won)
        assert [await only(ledger, row.id) for row in won] == won
        assert len(await claim(ledger, worker="v")) == 2
        assert await claim(ledger, worker="u") == []
        assert await waiting(ledger) == []

    async def test_claims_at_once_are_exclusive(self, ledger: Ledger) -> None:
        """Of many workers that claim one batch at once, each chunk is won by exactly one."""
        await put(ledger, [chunk(f"i{number}") for number in range(200)])
        claims = [claim(ledger, worker=f"w{number}", limit=30) for number in range(10)]
        won = [row.id for rows in await asyncio.gather(*claims) for row in rows]
        assert len(won) == len(set(won)) == 200

    async def test_claims_run_out(self, ledger: Ledger) -> None:
        """A claim in force is safe even where PENDING is asked for; after its end another worker takes it."""
        await put(ledger, [chunk()])
        await claim(ledger, until=50)
        assert await waiting(ledger, *Status, now=50) == []
        assert await claim(ledger, worker="v", statuses=list(Status), now=50) == []
        assert await waiting(ledger, Status.NONE, now=51) == ["b"]
        (won,) = await claim(ledger, worker="v", now=51)
        assert won.worker == "v"

    async def test_claims_are_renewed(self, ledger: Ledger) -> None:
        """A worker that renews keeps its claims, and only its own."""
        await put(ledger, [chunk("i1"), chunk("i2")])
        await claim(ledger, until=50, limit=1)
        await claim(ledger, until=50, worker="v")
        await ledger.chunks.renew("w", until=90)
        assert [row.worker for row in await claim(ledger, worker="u", now=60)] == ["u"]
        assert await ledger.chunks.workers() == {"w", "u"}

    async def test_claims_are_released(self, ledger: Ledger) -> None:
        """A worker gives back its own claims, except those whose chunks are in a run."""
        await put(ledger, [chunk("i1"), chunk("i2"), chunk("i3")])
        assert len(await claim(ledger, limit=2)) == 2
        await claim(ledger, worker="v")
        (mine, recorded) = [row for row in await ledger.chunks.find("d") if row.worker == "w"]
        await ledger.runs.record(run(), [(recorded.id, recorded.version)], worker="w")
        assert await ledger.chunks.workers() == {"v", "w"}
        assert await ledger.chunks.release("w") == 1
        assert await only(ledger, mine.id) == replace(mine, status=Status.NONE, worker="", until=0)
        assert (await only(ledger, recorded.id)).run == "r1"
        assert await ledger.chunks.workers() == {"v"}
        assert await ledger.chunks.release("w") == 0

    async def test_a_failure_is_kept_with_its_reason(self, ledger: Ledger) -> None:
        """A failed chunk carries kind and reason, counts its attempts, and is claimed no longer."""
        await put(ledger, [chunk()])
        for attempts in (1, 2):
            (won,) = await claim(ledger)
            await ledger.chunks.fail([failure(version=won.version)], worker="w")
            row = await only(ledger)
            assert (row.status, row.failure, row.error) == (Status.FAILED, "transient", "no answer")
            assert (row.attempts, row.worker, row.until) == (attempts, "", 0)

    async def test_a_failure_of_the_past_is_passed_over(self, ledger: Ledger) -> None:
        """A failure of another version, another worker or a chunk in a run changes nothing."""
        await put(ledger, [chunk()])
        (row,) = await claim(ledger)
        await ledger.chunks.fail([failure(version=99)], worker="w")
        await ledger.chunks.fail([failure()], worker="v")
        await ledger.chunks.fail([], worker="w")
        assert await only(ledger) == row
        await ledger.runs.record(run(), [(row.id, row.version)], worker="w")
        await ledger.chunks.fail([failure()], worker="w")
        assert (await only(ledger)).status == Status.PENDING

    async def test_failed_chunks_are_retried_at_a_later_version(self, ledger: Ledger) -> None:
        """Retrying makes FAILED chunks NONE at max(version + 1, now), the named ones or all."""
        rows = [
            chunk(f"i{number}", status=Status.FAILED, failure="rejected", error="why", attempts=3)
            for number in range(4)
        ]
        await put(ledger, [*rows, chunk("fine", status=Status.SUCCESS)])
        assert await ledger.chunks.retry(["i0", "fine", "unknown"], now=500) == 1
        assert await only(ledger, "i0") == replace(
            rows[0], status=Status.NONE, version=500, failure="", error=""
        )
        assert (await only(ledger, "i1")).status == Status.FAILED
        assert await ledger.chunks.retry([], now=50) == 3
        assert (await only(ledger, "i1")).version == 101
        assert await ledger.chunks.retry([], now=50) == 0

    async def test_claiming_what_failed_versions_it_anew(self, ledger: Ledger) -> None:
        """A chunk that failed is claimed at a later version, so that its next run is not named as the last one was."""
        await put(ledger, [chunk("a"), chunk("b")])
        await claim(ledger)
        await ledger.chunks.fail([failure(id="a", kind="rejected")], worker="w")
        await ledger.chunks.release("w")
        won = await claim(ledger, statuses={Status.FAILED}, now=1_000)
        won += await claim(ledger, statuses={Status.NONE}, now=1_000)
        assert {row.id: row.version for row in won} == {"a": 1_000, "b": 100}

    async def test_what_a_claim_would_give_can_be_read(self, ledger: Ledger) -> None:
        """The chunks that are ready are those that a claim then gives, and reading them changes nothing."""
        await put(ledger, [chunk("a"), chunk("b"), chunk("c", batch="other")])
        for _ in range(2):
            ready = await ledger.chunks.ready("b", WAITING, now=10, sources=())
            assert {row.id for row in ready} == {"a", "b"}
        assert {row.id for row in await claim(ledger)} == {"a", "b"}
        assert await ledger.chunks.ready("b", WAITING, now=10, sources=()) == []

    async def test_chunks_have_one_owner(self, ledger: Ledger) -> None:
        """The source that holds a chunk is told; a deleted or unknown chunk has none, and collections do not mix."""
        await put(ledger, [chunk("a"), chunk("b", deleted=True), chunk("c", collection="other")])
        assert await ledger.chunks.owners("c", ["a", "b", "c", "d"]) == {"a": "s"}

    async def test_the_chunks_of_a_refused_run_are_retried_by_its_name(self, ledger: Ledger) -> None:
        """Naming a refused run makes its chunks wait again, and no others."""
        await put(ledger, [chunk("a"), chunk("b")])
        await claim(ledger)
        await ledger.runs.record(run("r1"), [("a", 100)], worker="w")
        await ledger.chunks.fail([failure(id="b", kind="rejected")], worker="w")
        await ledger.runs.refuse("r1", reason="its bytes are not those recorded")
        assert await ledger.chunks.retry(["r1"], now=50) == 1
        assert (await only(ledger, "a")).status is Status.NONE
        assert (await only(ledger, "b")).status is Status.FAILED

    async def test_counts_are_of_live_chunks(self, ledger: Ledger) -> None:
        """Chunks are counted by collection and status; a deleted one until its deletion has succeeded."""
        rows = [
            chunk("1"),
            chunk("2", status=Status.SUCCESS),
            chunk("3", status=Status.SUCCESS, deleted=True),
            chunk("4", deleted=True),
            chunk("5", collection="k", status=Status.FAILED),
        ]
        await put(ledger, rows)
        assert await ledger.chunks.counts() == {
            ("c", Status.NONE): 2,
            ("c", Status.SUCCESS): 1,
            ("k", Status.FAILED): 1,
        }


class BatchesContract:
    """`Batches`."""

    async def test_a_batch_is_registered_once(self, ledger: Ledger) -> None:
        """A batch registered again comes back as it was the first time, with its first timestamp."""
        first = batch("x", timestamp=5)
        assert await ledger.batches.register(first) == first
        assert await ledger.batches.register(batch("x", timestamp=6, key="elsewhere")) == first
        assert await ledger.batches.get(["x", "unknown"]) == {"x": first}


class RunsContract:
    """`Runs`."""

    async def test_a_run_takes_the_chunks_that_were_claimed(self, ledger: Ledger) -> None:
        """Recording puts a run among the pending, and only chunks that its worker holds, at their version, into it."""
        await put(
            ledger, [chunk("mine"), chunk("theirs", batch="x"), chunk("free", batch="y"), chunk("newer")]
        )
        await claim(ledger)
        await claim(ledger, "x", worker="v")
        taken = [("mine", 100), ("theirs", 100), ("free", 100), ("newer", 99), ("unknown", 100)]
        await ledger.runs.record(run(), taken, worker="w")
        assert await ledger.runs.pending("c", limit=5) == [run()] == [await ledger.runs.get("r1")]
        assert await ledger.runs.collections() == ["c"]
        inside = {id_: (await only(ledger, id_)).run for id_, _ in taken[:4]}
        assert inside == {"mine": "r1", "theirs": "", "free": "", "newer": ""}
        mine = await only(ledger, "mine")
        assert (mine.status, mine.until) == (Status.PENDING, 0)
        assert await waiting(ledger, now=LATE) == ["y"]

    async def test_chunks_of_another_collection_stay(self, ledger: Ledger) -> None:
        """A run takes the chunks of its own collection, where two collections share an id."""
        await put(ledger, [chunk("one"), chunk("one", collection="k")])
        await claim(ledger)
        await ledger.runs.record(run(), [("one", 100)], worker="w")
        assert {row.collection: row.run for row in await ledger.chunks.find("one")} == {"c": "r1", "k": ""}

    async def test_a_commit_makes_chunks_successful(self, ledger: Ledger) -> None:
        """A commit marks the runs named and their chunks, and nothing of other runs."""
        await recorded(ledger, "i1", "r1")
        await recorded(ledger, "i2", "r2")
        await ledger.runs.commit(["r1", "unknown"], version=7)
        assert await ledger.runs.get("r1") == run(state="committed", version=7)
        assert await ledger.runs.pending("c", limit=5) == [run("r2")]
        one, two = await only(ledger, "i1"), await only(ledger, "i2")
        assert (one.status, one.run, one.worker) == (Status.SUCCESS, "r1", "")
        assert two.status == Status.PENDING

    async def test_a_commit_repeated_changes_nothing(self, ledger: Ledger) -> None:
        """A run committed twice keeps the version that held it first."""
        await recorded(ledger, "i1", "r1")
        await ledger.runs.commit(["r1"], version=7)
        await ledger.runs.commit(["r1"], version=8)
        assert await ledger.runs.get("r1") == run(state="committed", version=7)

    async def test_a_chunk_that_changed_meanwhile_stays_waiting(self, ledger: Ledger) -> None:
        """A chunk swapped between record and commit stays NONE at its newer version."""
        await recorded(ledger, "i1", "r1")
        later = chunk("i1", version=200, row_hash="r2")
        await put(ledger, [later])
        await ledger.runs.commit(["r1"], version=7)
        assert await only(ledger, "i1") == later
        await ledger.runs.refuse("r1", reason="late")
        assert await only(ledger, "i1") == later

    async def test_a_run_recorded_again_while_pending_stays_as_it_was(self, ledger: Ledger) -> None:
        """Recording twice keeps the first row."""
        await recorded(ledger, "i1", "r1")
        await ledger.runs.record(run(created=9, texts=99), [("i1", 100)], worker="w")
        assert await ledger.runs.pending("c", limit=5) == [run()]

    async def test_a_committed_run_recorded_again_is_committed_again(self, ledger: Ledger) -> None:
        """A committed run that gets newly claimed chunks is pending again, and the next commit makes them SUCCESS."""
        await recorded(ledger, "i1", "r1")
        await ledger.runs.commit(["r1"], version=7)
        await ledger.runs.record(run(), [("i1", 100)], worker="w")
        assert await ledger.runs.pending("c", limit=5) == []
        await recorded(ledger, "i1", "r1")
        (again,) = await ledger.runs.pending("c", limit=5)
        assert again.id == "r1"
        assert (await only(ledger, "i1")).status == Status.PENDING
        await ledger.runs.commit(["r1"], version=9)
        assert (await only(ledger, "i1")).status == Status.SUCCESS
        assert await ledger.runs.get("r1") == run(state="committed", version=9)

    async def test_a_refused_run_fails_its_chunks(self, ledger: Ledger) -> None:
        """A refused run is not pending, and its chunks are FAILED, rejected, for its reason."""
        await recorded(ledger, "i1", "r1")
        await ledger.runs.refuse("r1", reason="another space")
        assert await ledger.runs.get("r1") == run(state="refused", error="another space")
        assert await ledger.runs.pending("c", limit=5) == []
        row = await only(ledger, "i1")
        assert (row.status, row.failure, row.error) == (Status.FAILED, "rejected", "another space")
        assert (row.attempts, row.worker) == (1, "")

    async def test_a_refused_run_recorded_again_is_pending(self, ledger: Ledger) -> None:
        """A refused run whose delta was mended is pending again, as its recorder found the delta."""
        await recorded(ledger, "i1", "r1")
        await ledger.runs.refuse("r1", reason="damaged")
        (won,) = await claim(ledger, statuses=[Status.FAILED])
        assert won.run == ""
        await ledger.runs.record(run(sha256="0b"), [("i1", won.version)], worker="w")
        assert await ledger.runs.pending("c", limit=5) == [run(sha256="0b")]
        await ledger.runs.commit(["r1"], version=7)
        assert (await only(ledger, "i1")).status == Status.SUCCESS

    async def test_a_committed_run_is_not_refused(self, ledger: Ledger) -> None:
        """Refusing a run that is in the index leaves it and its chunks."""
        await recorded(ledger, "i1", "r1")
        await ledger.runs.commit(["r1"], version=7)
        await ledger.runs.refuse("r1", reason="late")
        assert await ledger.runs.get("r1") == run(state="committed", version=7)
        assert (await only(ledger, "i1")).status == Status.SUCCESS

    async def test_pending_runs_come_oldest_first(self, ledger: Ledger) -> None:
        """Pending runs are listed by age up to a limit, recent ones newest first, each collection on its own."""
        for id_, created, collection in (("r1", 3, "c"), ("r2", 1, "c"), ("r3", 2, "k"), ("r4", 2, "c")):
            await ledger.runs.record(run(id_, created=created, collection=collection), [], worker="w")
        assert [row.id for row in await ledger.runs.pending("c", limit=2)] == ["r2", "r4"]
        assert [row.id for row in await ledger.runs.recent(limit=2)] == ["r1", "r4"]
        assert await ledger.runs.collections() == ["c", "k"]
        assert await ledger.runs.get("unknown") is None


class DeadLettersContract:
    """`DeadLetters`."""

    async def test_a_letter_again_counts_its_attempts(self, ledger: Ledger) -> None:
        """A letter of the same kind, owner and subject replaces the one before and counts its attempts on."""
        await ledger.dead_letters.add([letter(), letter("other", at=2)])
        await ledger.dead_letters.add([letter(reason="still too long", at=3)])
        await ledger.dead_letters.add([])
        assert await flat(ledger.dead_letters.pages()) == [
            letter("other", at=2),
            letter(reason="still too long", at=3, attempts=2),
        ]
        assert await ledger.dead_letters.count() == 2

    async def test_letters_are_listed_without_a_ceiling(self, ledger: Ledger) -> None:
        """Thousands of letters, many of one moment, are listed once each, oldest first."""
        letters = [letter(f"i{number:05d}", at=number // 1_500) for number in range(4_000)]
        await ledger.dead_letters.add(letters[::-1])
        assert await flat(ledger.dead_letters.pages()) == letters

    async def test_letters_are_removed(self, ledger: Ledger) -> None:
        """Letters are removed by kind, and within it by owner and subject."""
        letters = [
            letter("i1"),
            letter("i2"),
            letter("i1", owner="k"),
            letter("i3", owner="k"),
            letter("i1", kind="run"),
        ]
        await ledger.dead_letters.add(letters)
        assert await ledger.dead_letters.remove("chunk", owner="c", subjects=["i1", "i9"]) == 1
        assert await ledger.dead_letters.remove("chunk", subjects=["i1"]) == 1
        assert await ledger.dead_letters.remove("source") == 0
        assert await ledger.dead_letters.remove("chunk", owner="k") == 1
        assert {row.subject for row in await flat(ledger.dead_letters.pages())} == {"i1", "i2"}
        assert await ledger.dead_letters.remove("chunk") == 1
        assert await ledger.dead_letters.count() == 1


def batch(id: str, **changes: Any) -> BatchRow:  # noqa: A002, ANN401 - the record's own fields
    """Make a batch file of source `s`."""
    return replace(BatchRow(id=id, source="s", key=f"k/{id}", timestamp=1, chunks=1), **changes)


def failure(**changes: Any) -> Failure:  # noqa: ANN401 - the record's own fields
    """Make a failure of the chunk that `chunk` makes."""
    reason = Failure(collection="c", id="s#d#00000", version=100, kind="transient", reason="no answer")
    return replace(reason, **changes)


async def recorded(ledger: Ledger, id: str, into: str) -> None:  # noqa: A002 - the record's own field
    """Swap a chunk in, claim it and record it in a run."""
    await put(ledger, [chunk(id)])
    await claim(ledger)
    await ledger.runs.record(run(into), [(id, 100)], worker="w")


async def raises_conflict(ledger: Ledger, swap: Swap) -> None:
    """Apply a swap that must be turned down."""
    try:
        await ledger.documents.swap(swap)
    except Conflict:
        return
    raise AssertionError("a swap from an old cursor was applied")
