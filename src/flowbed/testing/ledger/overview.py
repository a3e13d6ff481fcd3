"""What the overview of every ledger must say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.ledger import Cursor, Overview, Progress, Swap
from flowbed.records import Status
from flowbed.testing.ledger.rows import (
    chunk,
    claim,
    document,
    letter,
    put,
    recorded,
    rollback,
    run,
    settle,
    submission,
)

if TYPE_CHECKING:
    from flowbed.ledger import Ledger


class OverviewContract:
    """`Ledger.overview`, `Documents.progress`, and what a run and its commit settle at once."""

    async def test_overview_of_an_empty_ledger_is_empty(self, ledger: Ledger) -> None:
        """Nothing was written: nothing is left."""
        assert await ledger.overview() == Overview(
            workers=frozenset(),
            pending=(),
            seen={},
            submissions=(),
            unfinished={},
            troubled=frozenset(),
        )

    async def test_overview_lists_unfinished_work(self, ledger: Ledger) -> None:
        """Claims, pending runs, live submissions, unfinished chunks and sources with dead letters are in it."""
        await recorded(ledger, "i1", "r1")
        await recorded(ledger, "i2", "r2")
        await ledger.runs.commit(["r2"], version=7)
        await put(ledger, [chunk("waits", batch="x"), chunk("held", batch="y")])
        await claim(ledger, "y", worker="v")
        await ledger.submissions.create(submission("s2", created=2))
        await ledger.submissions.create(submission("s1", created=1))
        await ledger.submissions.create(submission("ended", ended=3, created=0))
        await ledger.dead_letters.add([letter("a"), letter("b", kind="source", owner="notes")])
        await ledger.rollbacks.see("c", 5)
        await settle(ledger)
        found = await ledger.overview()
        assert found.workers == {"v"}
        assert found.pending == ("c",)
        assert found.seen == {"c": 5}
        assert [row.id for row in found.submissions] == ["s1", "s2"]
        assert found.submissions[0] == await ledger.submissions.get("s1")
        assert found.unfinished == {("c", Status.PENDING): 2, ("c", Status.NONE): 1}
        assert found.troubled == {"notes"}

    async def test_progress_returns_cursor_and_document_count(self, ledger: Ledger) -> None:
        """A source that was never fetched has token 0 and no documents."""
        assert await ledger.documents.progress(["s"]) == {
            "s": Progress(cursor=Cursor(source="s"), documents=0)
        }
        swap = Swap(cursor=Cursor(source="s"), value="v", documents=[document("d1"), document("d2")])
        cursor = await ledger.documents.swap(swap)
        found = await ledger.documents.progress(["s", "other"])
        assert found["s"] == Progress(cursor=cursor, documents=2)
        assert found["other"] == Progress(cursor=Cursor(source="other"), documents=0)

    async def test_record_removes_dead_letters_of_its_chunks(self, ledger: Ledger) -> None:
        """Recording a run removes the letters about its chunks in its collection, and no others."""
        await put(ledger, [chunk("one"), chunk("two")])
        await claim(ledger)
        letters = [letter("one", owner="c"), letter("two", owner="c"), letter("one", owner="k")]
        await ledger.dead_letters.add([*letters, letter("one", kind="run", owner="c")])
        await ledger.runs.record(run(), [("one", 100)], worker="w")
        left = [each async for page in ledger.dead_letters.pages() for each in page]
        assert {(each.kind, each.owner, each.subject) for each in left} == {
            ("chunk", "c", "two"),
            ("chunk", "k", "one"),
            ("run", "c", "one"),
        }

    async def test_commit_onto_known_version_is_known(self, ledger: Ledger) -> None:
        """Up to the version it was merged onto the history is known, or that version is the first."""
        for number, (onto, version, known) in enumerate(((1, 2, 2), (2, 3, 3), (5, 6, 3), (0, 9, 3))):
            await recorded(ledger, f"i{number}", f"r{number}")
            await ledger.runs.commit([f"r{number}"], version=version, onto=onto)
            assert await ledger.rollbacks.seen("c") == known, (onto, version)
        await ledger.rollbacks.record(rollback(target=2, version=10), kept=[])
        assert await ledger.rollbacks.seen("c") == 3
