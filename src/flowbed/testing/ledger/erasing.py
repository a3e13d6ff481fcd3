"""How every ledger must erase rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flowbed.errors import Conflict
from flowbed.ledger import Cursor, Erasure, Swap
from flowbed.ledger.rows import FORGOTTEN
from flowbed.testing.ledger.rows import chunk, document, run, settle, spend

if TYPE_CHECKING:
    from flowbed.ledger import Ledger


class ErasingContract:
    """Tests of `Erasing`."""

    async def test_erase_removes_rows_and_nothing_else(self, ledger: Ledger) -> None:
        """Chunks and documents are gone, others stay, and repeating it changes nothing."""
        one, two = chunk("i1", document="d1"), chunk("i2", document="d2")
        named = [document("d1"), document("d2")]
        await ledger.documents.swap(
            Swap(cursor=Cursor(source=one.source), value="", documents=named, chunks=[one, two])
        )
        erasure = Erasure(chunks=[(one.collection, "i1")], documents=[(one.source, "d1")])
        assert await ledger.erasing.erase(erasure) == 2
        assert await ledger.erasing.erase(erasure) == 0
        assert [row.id for row in await ledger.chunks.of(one.source, ["d1", "d2"])] == ["i2"]
        assert await ledger.chunks.find("d1") == await ledger.chunks.find("i1") == []
        assert set(await ledger.documents.get(one.source, ["d1", "d2"])) == {"d2"}
        left = await ledger.erasing.scrub()
        assert left == "" or "VACUUM FULL" in left or "backups" in left

    async def test_erase_ends_a_fetch_that_has_read_the_rows(self, ledger: Ledger) -> None:
        """The cursor keeps its value, unless it contains a name."""
        one = chunk("i1", document="d1")
        before = await ledger.documents.swap(
            Swap(cursor=Cursor(source=one.source), value="page 7", documents=[document("d1")], chunks=[one])
        )
        await ledger.erasing.erase(Erasure(chunks=[(one.collection, "i1")], sources=[one.source, "unknown"]))
        with pytest.raises(Conflict):
            await ledger.documents.swap(Swap(cursor=before, value="page 8", chunks=[one]))
        after = await ledger.documents.cursor(one.source)
        assert after.value == "page 7"
        named = await ledger.documents.swap(Swap(cursor=after, value="after d1"))
        await ledger.erasing.erase(Erasure(documents=[(one.source, "d1")], sources=[one.source]))
        assert (await ledger.documents.cursor(one.source)).value == ""
        assert (await ledger.documents.cursor(one.source)).token > named.token

    async def test_erase_keeps_what_was_spent_without_the_name(self, ledger: Ledger) -> None:
        """Sums stay the same, under one document for all that were forgotten."""
        await ledger.spending.record([spend("d1"), spend("d2")])
        before = await ledger.spending.totals("run", limit=9)
        source = spend("d1").source
        await ledger.erasing.erase(Erasure(documents=[(source, "d1"), (source, "d2")]))
        assert await ledger.spending.totals("run", limit=9) == before
        assert [each.name for each in await ledger.spending.totals("document", limit=9)] == [FORGOTTEN]

    async def test_erase_empties_errors_that_name_a_row(self, ledger: Ledger) -> None:
        """The error of a run that names an erased row is emptied; others stay."""
        for name in ("r1", "r2"):
            await ledger.runs.record(run(name), [], worker="w")
        await ledger.runs.refuse("r1", reason="row secret-id has no vector")
        await ledger.runs.refuse("r2", reason="it is missing")
        await settle(ledger)
        await ledger.erasing.erase(Erasure(chunks=[("c", "secret-id")]))
        await settle(ledger)
        found = {each.id: each.error for each in await ledger.runs.recent(limit=9)}
        assert found == {"r1": "", "r2": "it is missing"}
