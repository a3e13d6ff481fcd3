"""What the chunks of every ledger must do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.ledger import ChunkMark
from flowbed.records import Status
from flowbed.testing.ledger.rows import chunk, claim, failure, flat, only, put, settle, waiting

if TYPE_CHECKING:
    from flowbed.ledger import Ledger


class ChunksContract:
    """Tests of `Chunks`."""

    async def test_swap_replaces_whole_rows(self, ledger: Ledger) -> None:
        """A chunk swapped in again is stored as given, without its earlier status, worker, run or error."""
        await put(ledger, [chunk()])
        await claim(ledger)
        await ledger.chunks.fail([failure()], worker="w")
        later = chunk(version=200, row_hash="r2", batch="b2")
        await put(ledger, [later])
        assert await only(ledger) == later

    async def test_swap_versions_only_grow(self, ledger: Ledger) -> None:
        """A changed row whose version is not above the stored one gets the next version; an equal row keeps its own."""
        await put(ledger, [chunk(version=100)])
        await put(ledger, [chunk(version=100, batch="b2")])
        assert await only(ledger) == chunk(version=100, batch="b2")
        await put(ledger, [chunk(version=100, row_hash="r2")])
        assert (await only(ledger)).version == 101
        await put(ledger, [chunk(version=50, row_hash="r3")])
        assert (await only(ledger)).version == 102

    async def test_find_matches_id_or_document(self, ledger: Ledger) -> None:
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

    async def test_of_includes_deleted_chunks(self, ledger: Ledger) -> None:
        """The chunks of documents are read in bulk, of one source, including deleted ones."""
        rows = [
            chunk(f"s#d{number}#0", document=f"d{number}", deleted=number % 2 == 0) for number in range(1_200)
        ]
        await put(ledger, [*rows, chunk("t#d1#0", document="d1", source="t")])
        found = await ledger.chunks.of("s", [row.document for row in rows])
        assert {row.id: row for row in found} == {row.id: row for row in rows}

    async def test_owners_returns_source_of_live_chunks(self, ledger: Ledger) -> None:
        """A chunk has one source; deleted and unknown chunks have none, and collections are separate."""
        await put(ledger, [chunk("a"), chunk("b", deleted=True), chunk("c", collection="other")])
        assert await ledger.chunks.owners("c", ["a", "b", "c", "d"]) == {"a": "s"}

    async def test_requeue_resets_successful_chunks(self, ledger: Ledger) -> None:
        """The named chunks of the collection that are SUCCESS wait again at a later version; others stay."""
        rows = [
            chunk("a", status=Status.SUCCESS, run="r", version=50),
            chunk("b", status=Status.SUCCESS, run="r", version=50, deleted=True, batch=""),
            chunk("c", status=Status.FAILED, version=50),
            chunk("d", status=Status.SUCCESS, version=500),
            chunk("e", status=Status.SUCCESS, run="r", version=50),
            chunk("a", status=Status.SUCCESS, run="r", version=50, collection="other"),
        ]
        await put(ledger, rows)
        assert await ledger.chunks.requeue("c", ["a", "b", "c", "d", "nothing"], now=200) == 3
        found = {each.id: each for page in [await ledger.chunks.of("s", ["d"])] for each in page}
        assert found["b"] == rows[1]._replace(status=Status.NONE, run="", version=200)
        assert found["d"] == rows[3]._replace(status=Status.NONE, version=501)
        assert (found["c"], found["e"]) == (rows[2], rows[4])
        assert {row.collection: row.status for row in await ledger.chunks.find("a")} == {
            "c": Status.NONE,
            "other": Status.SUCCESS,
        }
        assert await waiting(ledger, Status.NONE) == ["b", ""]
        assert await ledger.chunks.requeue("c", [], now=200) == 0

    async def test_marks_lists_every_chunk_in_order(self, ledger: Ledger) -> None:
        """Every chunk of the collection is listed once as a mark, in order of id, with any status."""
        rows = [chunk(f"s#d#{number:05d}", row_hash=str(number)) for number in range(5_500)]
        gone = chunk("s#e#00000", deleted=True, status=Status.SUCCESS, batch="")
        await put(ledger, [*reversed(rows), gone, chunk("s#d#00000", collection="other")])
        await settle(ledger)
        marks = await flat(ledger.chunks.marks("c"))
        assert marks == [
            ChunkMark(row.id, row.version, row.deleted, row.status, row.text_hash, row.row_hash, row.batch)
            for row in [*rows, gone]
        ]
        await settle(ledger)
        assert await flat(ledger.chunks.marks("nothing")) == []

    async def test_used_reports_batches_that_chunks_name(self, ledger: Ledger) -> None:
        """A batch is in use as long as a chunk names it, done or not."""
        await put(ledger, [chunk("a", batch="b1", status=Status.SUCCESS), chunk("b", batch="b2")])
        await settle(ledger)
        assert await ledger.chunks.used(["b1", "b2", "b3"]) == {"b1", "b2"}
        await put(ledger, [chunk("b", batch="b4"), chunk("a", batch="", deleted=True)])
        await settle(ledger)
        assert await ledger.chunks.used(["b1", "b2", "b3", "b4"]) == {"b4"}
        await settle(ledger)
        assert await ledger.chunks.used([]) == set()

    async def test_counts_only_live_chunks(self, ledger: Ledger) -> None:
        """Chunks are counted by collection and status; deleted ones until their deletion has succeeded."""
        rows = [
            chunk("1"),
            chunk("2", status=Status.SUCCESS),
            chunk("3", status=Status.SUCCESS, deleted=True),
            chunk("4", deleted=True),
            chunk("5", collection="k", status=Status.FAILED),
        ]
        await put(ledger, rows)
        await settle(ledger)
        assert await ledger.chunks.counts() == {
            ("c", Status.NONE): 2,
            ("c", Status.SUCCESS): 1,
            ("k", Status.FAILED): 1,
        }
