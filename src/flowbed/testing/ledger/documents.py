"""What the documents of every ledger must do."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from flowbed.errors import Conflict
from flowbed.ledger import Cursor, Swap
from flowbed.testing.ledger.rows import chunk, document, flat, only, put, raises_conflict, raises_rejected

if TYPE_CHECKING:
    from flowbed.ledger import Ledger


class DocumentsContract:
    """Tests of `Documents`."""

    async def test_cursor_unknown_source_has_token_zero(self, ledger: Ledger) -> None:
        """A source that was never fetched has an empty cursor with token 0, and no documents."""
        assert await ledger.documents.cursor("s") == Cursor(source="s")
        assert await ledger.documents.count("s") == 0
        assert await flat(ledger.documents.pages("s")) == []

    async def test_swap_stores_rows_and_moves_cursor(self, ledger: Ledger) -> None:
        """A swap stores documents and chunks and moves the cursor, which it returns."""
        swap = Swap(cursor=Cursor(source="s"), value="v1", documents=[document()], chunks=[chunk()])
        moved = await ledger.documents.swap(swap)
        assert moved == await ledger.documents.cursor("s")
        assert (moved.value, moved.token > 0) == ("v1", True)
        assert await ledger.documents.get("s", ["d"]) == {"d": document()}
        assert await ledger.chunks.of("s", ["d"]) == [chunk()]

    async def test_swap_old_cursor_is_conflict(self, ledger: Ledger) -> None:
        """A swap whose cursor has moved raises Conflict and changes nothing."""
        first = Cursor(source="s")
        second = await ledger.documents.swap(Swap(cursor=first, value="v1", documents=[document()]))
        for old in (first, replace(second, token=second.token + 5)):
            swap = Swap(cursor=old, value="v2", documents=[document("e")], removed=["d"], chunks=[chunk()])
            await raises_conflict(ledger, swap)
            assert await ledger.documents.cursor("s") == second
            assert await flat(ledger.documents.pages("s")) == [document()]
            assert await ledger.chunks.find("s#d#00000") == []

    async def test_swap_concurrent_one_wins(self, ledger: Ledger) -> None:
        """Of several concurrent swaps from one cursor exactly one is applied, completely; the others leave no trace."""
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

    async def test_swap_replaces_and_removes_documents(self, ledger: Ledger) -> None:
        """A swap replaces the documents it names, removes those named as gone, and leaves the others."""
        rows = [document(id) for id in ("a", "b", "c")]  # noqa: A001 - the record's own field
        moved = await ledger.documents.swap(Swap(cursor=Cursor(source="s"), value="", documents=rows))
        later = document("b", etag="e2", hash="h2", chunks=2, generation=2)
        await ledger.documents.swap(Swap(cursor=moved, value="", documents=[later], removed=["a", "unknown"]))
        assert await flat(ledger.documents.pages("s")) == [later, document("c")]
        assert await ledger.documents.count("s") == 2

    async def test_swap_keeps_sources_separate(self, ledger: Ledger) -> None:
        """The same document id in two sources means two documents, each with its source's cursor."""
        for source in ("s", "t"):
            rows = [document(source=source, etag=source)]
            await ledger.documents.swap(Swap(cursor=Cursor(source=source), value=source, documents=rows))
        await ledger.documents.swap(
            Swap(cursor=await ledger.documents.cursor("t"), value="t2", removed=["d"])
        )
        assert await ledger.documents.get("s", ["d", "x"]) == {"d": document(etag="s")}
        assert await ledger.documents.get("t", ["d"]) == {}
        assert await ledger.documents.etags("s", ["d", "x"]) == {"d": "s"}
        assert await ledger.documents.etags("t", ["d"]) == {}
        assert (await ledger.documents.cursor("s")).value == "s"

    async def test_pages_lists_more_than_a_page(self, ledger: Ledger) -> None:
        """Thousands of documents are listed once each, in order of id, and read by name in one call."""
        rows = [document(f"d{number:05d}") for number in range(2_100)]
        await ledger.documents.swap(Swap(cursor=Cursor(source="s"), value="", documents=rows[::-1]))
        assert await flat(ledger.documents.pages("s")) == rows
        assert len(await ledger.documents.get("s", {row.id for row in rows})) == 2_100
        assert len(await ledger.documents.etags("s", {row.id for row in rows})) == 2_100
        assert await ledger.documents.count("s") == 2_100

    async def test_pages_abandoned_does_not_block_swap(self, ledger: Ledger) -> None:
        """A swap succeeds while a listing is between two pages, and after an abandoned listing."""
        rows = [document(f"d{number:05d}") for number in range(2_100)]
        moved = await ledger.documents.swap(Swap(cursor=Cursor(source="s"), value="", documents=rows))
        async for _ in ledger.documents.pages("s"):
            moved = await ledger.documents.swap(Swap(cursor=moved, value="v"))
            break
        await ledger.documents.swap(Swap(cursor=moved, value="w"))

    async def test_swap_duplicate_keys_last_row_counts(self, ledger: Ledger) -> None:
        """If a swap names a document or chunk more than once, the last row is stored."""
        rows = [document(etag="e1"), document(etag="e2")]
        chunks = [chunk(row_hash="r1", version=100), chunk(row_hash="r2", version=105)]
        await ledger.documents.swap(
            Swap(cursor=Cursor(source="s"), value="", documents=rows, removed=["d"], chunks=chunks)
        )
        assert await ledger.documents.get("s", ["d"]) == {"d": rows[1]}
        assert await only(ledger) == chunks[1]

    async def test_swap_large_page_is_atomic(self, ledger: Ledger) -> None:
        """A swap of hundreds of documents and thousands of chunks is applied completely or not at all."""
        documents = [document(f"d{number:03d}", etag="e" * 1_000) for number in range(300)]
        chunks = [chunk(f"s#d{n:03d}#{m}", document=f"d{n:03d}") for n in range(300) for m in range(10)]
        swap = Swap(cursor=Cursor(source="s"), value="v1", documents=documents, chunks=chunks)
        await ledger.documents.swap(swap)
        assert await flat(ledger.documents.pages("s")) == documents
        found = await ledger.chunks.of("s", [row.id for row in documents])
        assert {row.id: row for row in found} == {row.id: row for row in chunks}
        changed = [row._replace(row_hash="r2", version=200) for row in chunks]
        removed = [row.id for row in documents]
        await raises_conflict(
            ledger, Swap(cursor=Cursor(source="s"), value="v2", removed=removed, chunks=changed)
        )
        assert await flat(ledger.documents.pages("s")) == documents
        found = await ledger.chunks.of("s", [row.id for row in documents])
        assert {row.id: row for row in found} == {row.id: row for row in chunks}

    async def test_swap_racing_fetchers_lose_nothing(self, ledger: Ledger) -> None:
        """If fetchers swap concurrently and retry after a Conflict, every applied swap is stored."""

        async def fetch(name: str) -> list[str]:
            applied = []
            for number in range(4):
                row = chunk(f"{name}{number}", document=f"{name}{number}")
                rows = [document(row.document)]
                while True:
                    cursor = await ledger.documents.cursor("s")
                    swap = Swap(cursor=cursor, value=row.id, documents=rows, chunks=[row])
                    try:
                        moved = await ledger.documents.swap(swap)
                    except Conflict:
                        continue
                    assert moved.token == cursor.token + 1
                    applied.append(row.id)
                    break
            return applied

        applied = [each for done in await asyncio.gather(*map(fetch, "abcd")) for each in done]
        assert (await ledger.documents.cursor("s")).token == len(applied) == 16
        assert [row.id for row in await flat(ledger.documents.pages("s"))] == sorted(applied)
        assert {row.id for row in await ledger.chunks.of("s", applied)} == set(applied)

    async def test_ids_of_every_script_are_stored_in_order(self, ledger: Ledger) -> None:
        """Ids are stored exactly, compared by every character, and listed in the order of code points."""
        names = [
            "a b",
            "a'b",
            'a"b',
            "a%",
            "a_",
            "a\\",
            "A",
            "a",
            "Z",
            "é",
            "e\u0301",
            "ß",
            "日本",
            "🦊",
            "a\nb",
            "~",
        ]
        rows = [document(name) for name in names]
        chunks = [chunk(f"s#{name}#0", document=name) for name in names]
        await ledger.documents.swap(Swap(cursor=Cursor(source="s"), value="", documents=rows, chunks=chunks))
        assert [row.id for row in await flat(ledger.documents.pages("s"))] == sorted(names)
        assert (await ledger.documents.get("s", names)).keys() == set(names)
        assert {row.document for row in await ledger.chunks.of("s", names)} == set(names)
        for name in names:
            assert [row.document for row in await ledger.chunks.find(name)] == [name]

    async def test_swap_unstorable_id_is_rejected(self, ledger: Ledger) -> None:
        """A NUL, half of a character or more than 1,024 bytes in an id is Rejected, and the swap leaves no trace."""
        for bad in ("a\0b", "\ud83d", "x" * 1_025, "é" * 513):
            for swap in (
                Swap(cursor=Cursor(source="s"), value="", documents=[document(), document(bad)]),
                Swap(cursor=Cursor(source="s"), value="", chunks=[chunk(), chunk(bad)]),
            ):
                await raises_rejected(ledger, swap)
            assert await ledger.chunks.find(bad) == []
            assert await ledger.documents.get("s", [bad, "d"]) == {}
        assert await ledger.documents.cursor("s") == Cursor(source="s")
        assert await ledger.chunks.find("d") == []
        longest = "x" * 1_024
        await put(ledger, [chunk(longest)])
        assert (await only(ledger, longest)).id == longest
