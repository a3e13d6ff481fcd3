"""Incremental runs: what is sent, reused and deleted."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import pytest

from flowbed.chunking import Rules
from flowbed.errors import Misconfigured
from flowbed.ledger import Swap
from flowbed.ledger.sql.ledger import open_sqlite
from flowbed.pipeline import ConfiguredSource
from flowbed.pipeline.changes import changes
from flowbed.pipeline.comparing.records import Scan
from flowbed.records import Document, Entry, Page, Reading
from flowbed.testing.embedder import seeded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.projects import Project


async def test_run_nothing_changed_sends_and_writes_nothing(notes: Project) -> None:
    """A second run of the same data sends no text, writes no chunk and makes no version."""
    async with await notes.open() as bed:
        before = await bed.versions("notes")
        report = await bed.run()
        assert await bed.versions("notes") == before
    assert not notes.sent()
    assert (report.fetched, report.chunks, report.embedded, report.deleted) == (0, 0, 0, 0)
    assert report.versions == {"notes": before[0].version}


async def test_run_touched_file_is_not_written_again(notes: Project) -> None:
    """A file with a new time and the same text makes no chunk."""
    (notes.folder / "notes" / "one.txt").touch()
    async with await notes.open() as bed:
        report = await bed.run()
    assert (report.fetched, report.chunks) == (0, 0)
    assert not notes.sent()


async def test_run_metadata_changed_updates_the_row_and_sends_nothing(project: Project) -> None:
    """A change of metadata only is in the row after the next run, and no text is sent for it."""
    project.write_lines("notes.jsonl", [{"id": 1, "text": "the same text", "tag": "old"}])
    async with await project.open() as bed:
        await bed.add("notes", kind="jsonl", location="notes.jsonl", options={"metadata": ["tag"]})
        assert (await bed.run()).embedded == 1
        project.sent()
        project.write_lines("notes.jsonl", [{"id": 1, "text": "the same text", "tag": "new"}])
        report = await bed.run()
        assert (report.chunks, report.embedded, report.reused) == (1, 0, 1)
        assert await bed.search("the same text", where={"tag": "old"}) == ()
        (hit,) = await bed.search("the same text", where={"tag": "new"})
    assert hit.score == pytest.approx(1.0)
    assert set(project.sent()) <= {"the same text"}  # by the searches
    assert [row.metadata["tag"] for row in project.contents().rows["notes"].values()] == ["new"]


async def test_run_renamed_file_reuses_its_vectors(notes: Project) -> None:
    """A renamed file is another row with the vector that was paid for."""
    shutil.move(notes.folder / "notes" / "one.txt", notes.folder / "notes" / "renamed.txt")
    async with await notes.open() as bed:
        report = await bed.run()
    assert (report.chunks, report.embedded, report.deleted) == (1, 0, 1)
    assert not notes.sent()
    assert "notes#renamed.txt#00000" in notes.documents("notes")
    assert "notes#one.txt#00000" not in notes.documents("notes")


async def test_run_cache_lost_reuses_vectors_of_the_index(notes: Project) -> None:
    """With the vector cache gone, the index itself still holds what was paid for."""
    shutil.rmtree(notes.folder / ".flowbed" / "vectors")
    shutil.move(notes.folder / "notes" / "one.txt", notes.folder / "notes" / "renamed.txt")
    async with await notes.open() as bed:
        report = await bed.run()
    assert (report.chunks, report.embedded) == (1, 0)
    assert not notes.sent()
    row = notes.contents().rows["notes"]["notes#renamed.txt#00000"]
    assert row.vector == pytest.approx(seeded([row.document], 32)[0], abs=1e-5)


async def test_run_inserted_paragraph_embeds_at_most_three_chunks(project: Project, data: Path) -> None:
    """A paragraph inserted into a long document re-embeds at most 3 chunks; those that moved reuse their vectors."""
    original = (data / "documents" / "rfc9002.md").read_text("utf-8")
    project.write("docs/rfc9002.md", original)
    async with await project.open() as bed:
        await bed.add("docs", kind="files", location="docs")
        whole = await bed.run()
        project.sent()
        paragraphs = original.split("\n\n")
        for turn, place in enumerate((len(paragraphs) // 5, len(paragraphs) // 2)):
            added = (
                f"This paragraph number {turn} was put in here, and is about nothing that its neighbours say."
            )
            paragraphs.insert(place, added)
            project.write("docs/rfc9002.md", "\n\n".join(paragraphs))
            report = await bed.run()
            assert 1 <= sum(project.sent().values()) <= 3
            assert report.failed == 0
            assert (
                report.chunks > 20 * report.embedded > 0
            )  # the others moved, and were written with known vectors
            (hit, *_) = [row for row in project.documents("docs").values() if added in row]
            assert added in hit
    assert whole.embedded > 40


async def test_run_deleted_file_disappears_and_returns_for_free(notes: Project) -> None:
    """A deleted file is not found any more; restored, it is found again at no cost."""
    path = notes.folder / "notes" / "two.txt"
    text = path.read_text("utf-8")
    async with await notes.open() as bed:
        assert (await bed.search(text))[0].document == text
        notes.sent()
        path.unlink()
        report = await bed.run()
        assert (report.deleted, report.chunks) == (1, 0)
        assert text not in {hit.document for hit in await bed.search(text)}
        path.write_text(text, "utf-8")
        report = await bed.run()
        assert (report.deleted, report.chunks, report.embedded) == (0, 1, 0)
        assert (await bed.search(text))[0].document == text


async def test_run_shortened_document_leaves_no_old_chunk(project: Project) -> None:
    """A document that has fewer chunks than before leaves none of the others in the index."""
    long = "\n\n".join(f"Paragraph {number} " + f"says word{number} " * 120 for number in range(6))
    project.write("docs/a.txt", long)
    async with await project.open() as bed:
        await bed.add("docs", kind="files", location="docs")
        await bed.run()
        assert len(project.documents("docs")) > 3
        project.write("docs/a.txt", "short now")
        report = await bed.run()
    assert report.deleted >= 3
    assert project.documents("docs") == {"docs#a.txt#00000": "short now"}


async def test_run_many_deletions_are_withheld_until_allowed(project: Project) -> None:
    """More than 30 % of a source, and at least 20 documents, are kept until deletions are allowed."""
    for number in range(60):
        project.write(f"docs/{number}.txt", f"document {number} of {project.folder}")
    async with await project.open() as bed:
        await bed.add("docs", kind="files", location="docs")
        await bed.run()
        for number in range(25):
            (project.folder / "docs" / f"{number}.txt").unlink()
        report = await bed.run()
        assert report.deleted == 0
        assert "25 of 60" in report.withheld["docs"]
        assert "--allow-deletes" in report.withheld["docs"]
        assert len(project.documents("docs")) == 60
        report = await bed.run(allow_deletes=True)
        assert (report.deleted, dict(report.withheld)) == (25, {})
        assert len(project.documents("docs")) == 35


async def test_run_emptied_folder_deletes_nothing(project: Project) -> None:
    """An empty listing, as of an unmounted disk, leaves the index unchanged."""
    for number in range(20):
        project.write(f"docs/{number}.txt", f"document {number} of {project.folder}")
    async with await project.open() as bed:
        await bed.add("docs", kind="files", location="docs")
        await bed.run()
        shutil.rmtree(project.folder / "docs")
        (project.folder / "docs").mkdir()
        report = await bed.run()
    assert report.deleted == 0
    assert report.withheld
    assert len(project.documents("docs")) == 20


@dataclass(frozen=True)
class Listing:
    """A source that lists the documents given, a page for each, with one etag."""

    documents: tuple[str, ...]
    location: str = "nowhere"

    async def fetch(self, cursor: str) -> AsyncIterator[Page]:
        for name in self.documents:
            read = partial(Document, id=name, kind="text", text=name)
            yield Page(entries=[Entry(document=name, etag="1", read=read)])
        yield Page(cursor=cursor, complete=True)


@pytest.mark.parametrize(
    ("listed", "gone"),
    [
        pytest.param(("a", "b", "c"), set(), id="all"),
        pytest.param(("a", "b", "c", "d"), set(), id="one more"),
        pytest.param(("a", "b"), {"c"}, id="one less"),
        pytest.param(("a", "b", "d"), {"c"}, id="another instead"),
        pytest.param(("a", "b", "b"), {"c"}, id="one twice"),
        pytest.param(("a", "d", "d", "b"), {"c"}, id="a new one twice"),
        pytest.param((), {"a", "b", "c"}, id="none"),
    ],
)
async def test_changes_document_no_longer_listed_is_removed(
    tmp_path: Path, listed: tuple[str, ...], gone: set[str]
) -> None:
    """A complete fetch removes what it did not list, and nothing else, however often it listed the rest."""
    ledger = await open_sqlite(":memory:", folder=tmp_path, new_id="test")
    rules = Rules(source="notes", collections=("notes",))
    try:
        for documents in (("a", "b", "c"), listed):
            feed = ConfiguredSource(source=Listing(documents), rules=rules)
            removed: set[str] = set()
            progress = (await ledger.documents.progress(["notes"]))["notes"]
            cursor = progress.cursor
            async for change in changes(
                feed,
                progress,
                ledger=ledger,
                read=lambda text: Reading(sent=text, tokens=len(text.split())),
                clock=lambda: 1,
                scan=Scan(),
                allow_deletes=True,
            ):
                cursor = await ledger.documents.swap(
                    Swap(
                        cursor=cursor,
                        value=change.value,
                        documents=change.documents,
                        removed=change.removed,
                        chunks=(),
                    )
                )
                removed.update(change.removed)
    finally:
        await ledger.close()
    assert removed == gone


async def test_run_unreadable_record_withholds_deletions(project: Project) -> None:
    """An unreadable record may be any of the missing ones: nothing is deleted until it can be read."""
    records: list[object] = [{"id": number, "text": f"{number} {project.folder}"} for number in range(3)]
    project.write_lines("notes.jsonl", records)
    async with await project.open() as bed:
        await bed.add("notes", kind="jsonl", location="notes.jsonl")
        await bed.run()
        project.write("notes.jsonl", '{"id": 0, "text": "changed"}\n{"id": 1, "text": \n')
        report = await bed.run()
        assert (report.deleted, report.chunks, report.failed) == (0, 1, 1)
        assert report.withheld
        assert set(project.documents("notes")) == {f"notes#{number}#00000" for number in range(3)}
        letters = await bed.dead_letters()
        assert [(letter.kind, letter.subject) for letter in letters] == [
            ("source", "notes.jsonl:2"),
            ("source", "withheld deletions"),
        ]
        project.write("notes.jsonl", '{"id": 0, "text": "changed"}\n')
        report = await bed.run()
        assert (report.deleted, report.failed) == (2, 0)
        assert await bed.dead_letters() == []
    assert project.documents("notes") == {"notes#0#00000": "changed"}


async def test_run_text_shared_by_many_chunks_is_sent_once(project: Project) -> None:
    """Chunks of one text share one vector that is paid for once, across documents and collections."""
    same = f"the very same text {project.folder}"
    for name in ("a", "b"):
        project.write_lines(f"{name}.jsonl", [{"id": number, "text": same} for number in range(50)])
    async with await project.open() as bed:
        for name in ("a", "b"):
            await bed.add(name, kind="jsonl", location=f"{name}.jsonl")
        report = await bed.run()
    assert project.sent() == {same: 1}
    assert (report.chunks, report.embedded, report.reused) == (100, 1, 99)
    assert {len(project.documents(name)) for name in ("a", "b")} == {50}


async def test_run_neighbours_make_another_text(receipts: Project) -> None:
    """A vector belongs to the text that was sent: words sent with their neighbours are other texts than words alone."""
    async with await receipts.open() as bed:
        await bed.run()
        assert set(receipts.sent()) == {
            *("GRAND TOTAL 7.80", "CASH 10.00", "TOTAL 7.80"),
            *("GRAND", "TOTAL", "7.80", "CASH", "10.00"),
        }
        await bed.add("receipts", kind="receipts", location="receipts.jsonl", options={"neighbours": 1})
        report = await bed.run()
        assert report.failed == 0
        hits = await bed.search("TOTAL (GRAND TOTAL 7.80)", collection="words", limit=1)
    assert "TOTAL (GRAND TOTAL 7.80)" in receipts.sent()
    assert hits[0].document == "TOTAL"
    assert hits[0].score == pytest.approx(1.0)
    words = receipts.contents().rows["words"]
    assert len([row for row in words.values() if row.document == "TOTAL"]) == 2
    assert len({row.text_hash for row in words.values() if row.document == "TOTAL"}) == 2


async def test_run_limit_leaves_the_rest_for_later_runs(project: Project) -> None:
    """`limit` embeds that many chunks; the next runs take up the rest."""
    for number in range(10):
        project.write(f"docs/{number}.txt", f"document {number} of {project.folder}")
    async with await project.open() as bed:
        await bed.add("docs", kind="files", location="docs")
        done = [(await bed.run(limit=4)).chunks for _ in range(4)]
    assert done == [4, 4, 2, 0]
    assert set(project.sent().values()) == {1}
    assert len(project.documents("docs")) == 10


async def test_run_other_model_is_refused_and_loses_nothing(notes: Project) -> None:
    """With another model a run stops and says what to do, sends nothing, and leaves everything searchable."""
    before = notes.contents()
    notes.write("notes/five.txt", "a fifth note")
    notes.set_model("seeded:16")
    async with await notes.open() as bed:
        with pytest.raises(Misconfigured, match=r"seeded:32.*seeded:16.*set the model back"):
            await bed.run()
        with pytest.raises(Misconfigured, match="seeded:32"):
            await bed.search("note", collection="notes")
    assert not notes.sent()
    assert notes.contents().rows.keys() == before.rows.keys()
    notes.set_model("seeded:32")
    async with await notes.open() as bed:
        report = await bed.run()
        assert (report.embedded, report.failed) == (1, 0)
    assert len(notes.documents("notes")) == 5
