"""Effects of changed settings, sources and stores on an existing index."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from flowbed.errors import Misconfigured, NotFound

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.projects import Project

RECEIPT = {
    "image_id": "img",
    "receipt_id": 1,
    "merchant_name": "SHOP",
    "lines": [
        {
            "line_id": 1,
            "text": "GRAND TOTAL",
            "bounding_box": {"x": 1, "y": 1, "width": 9, "height": 2},
            "words": [
                {"word_id": 1, "text": "GRAND", "bounding_box": {"x": 1, "y": 1, "width": 4, "height": 2}},
                {"word_id": 2, "text": "TOTAL", "bounding_box": {"x": 6, "y": 1, "width": 4, "height": 2}},
            ],
        }
    ],
}


def long_ago(file: Path) -> None:
    """Make a file look untouched for a day, so that a fetch may skip it."""
    os.utime(file, (1_700_000_000, 1_700_000_000))


async def test_run_collection_changed_moves_the_source(project: Project) -> None:
    """Records of an untouched file move to the new collection of their source at no cost."""
    project.write_lines("r.jsonl", [{"id": n, "text": f"{project.folder} record {n}"} for n in range(5)])
    long_ago(project.folder / "r.jsonl")
    async with await project.open() as bed:
        await bed.add("r", kind="jsonl", location="r.jsonl")
        assert (await bed.run()).embedded == 5
        assert (await bed.run()).fetched == 0
        await bed.add("r", kind="jsonl", location="r.jsonl", collection="other")
        report = await bed.run()
        assert (report.fetched, report.chunks, report.embedded, report.deleted) == (5, 5, 0, 5)
    assert len(project.documents("other")) == 5
    assert project.documents("r") == {}


async def test_run_chunking_changed_chunks_again(project: Project) -> None:
    """Words of untouched receipts are sent with their neighbours once that is set."""
    project.write_lines("r.jsonl", [RECEIPT])
    long_ago(project.folder / "r.jsonl")
    async with await project.open() as bed:
        await bed.add("r", kind="receipts", location="r.jsonl")
        assert (await bed.run()).chunks == 3
        await bed.add("r", kind="receipts", location="r.jsonl", options={"neighbours": 1})
        report = await bed.run()
        assert report.fetched == 1
        assert any("(" in text for text in project.sent())


async def test_run_file_restored_to_old_content_is_read_again(project: Project) -> None:
    """After a partly applied fetch, a restored file does not count as unchanged."""
    good = [{"id": "a", "text": f"{project.folder} right"}, {"id": "b", "text": f"{project.folder} other"}]
    project.write_lines("r.jsonl", good)
    file = project.folder / "r.jsonl"
    long_ago(file)
    async with await project.open() as bed:
        await bed.add("r", kind="jsonl", location="r.jsonl")
        await bed.run()
        file.rename(project.folder / "kept")
        project.write("r.jsonl", json.dumps({"id": "a", "text": f"{project.folder} wrong"}) + "\nbroken\n")
        assert (await bed.run()).failed == 1
        (project.folder / "kept").rename(file)
        assert (await bed.run()).failed == 0
    assert sorted(project.documents("r").values()) == sorted(each["text"] for each in good)


async def test_run_receipt_in_two_sources_belongs_to_one(project: Project) -> None:
    """Of two sources with the same receipt the first keeps it, and the other reports that."""
    project.write_lines("a.jsonl", [RECEIPT])
    project.write_lines("b.jsonl", [RECEIPT, {**RECEIPT, "receipt_id": 2}])
    async with await project.open() as bed:
        await bed.add("a", kind="receipts", location="a.jsonl")
        await bed.add("b", kind="receipts", location="b.jsonl")
        report = await bed.run()
        (problem,) = report.failures
        assert "source a already has it in collection" in problem.reason
        assert len(project.documents("lines")) == 2
        project.write_lines("b.jsonl", [{**RECEIPT, "receipt_id": 2}])
        assert (await bed.run()).failed == 0
        assert len(project.documents("lines")) == 2
        project.write("a.jsonl", "")
        project.write_lines("b.jsonl", [RECEIPT, {**RECEIPT, "receipt_id": 2}])
        assert (await bed.run()).failed == 0
    assert len(project.documents("lines")) == 2


async def test_run_renamed_source_takes_over(project: Project) -> None:
    """The receipts of a removed source may be taken over by the source that replaces it."""
    project.write_lines("a.jsonl", [RECEIPT])
    async with await project.open() as bed:
        await bed.add("a", kind="receipts", location="a.jsonl")
        await bed.run()
    file = project.folder / "flowbed.toml"
    file.write_text(file.read_text().replace("[sources.a]", "[sources.b]"))
    async with await project.open() as bed:
        assert (await bed.run()).failed == 0
    assert len(project.documents("lines")) == 1


async def test_run_deletion_guard_counts_documents_before_the_fetch(project: Project) -> None:
    """A source that points to another location loses all its documents, which must be allowed, even if more are new."""
    for number in range(40):
        project.write(f"old/{number}.txt", f"{project.folder} old {number}")
    for number in range(160):
        project.write(f"new/n{number}.txt", f"{project.folder} new {number}")
    async with await project.open() as bed:
        await bed.add("s", kind="files", location="old")
        await bed.run()
        await bed.add("s", kind="files", location="new")
        planned = await bed.plan()
        report = await bed.run()
        assert set(planned.withheld) == set(report.withheld) == {"s"}
        assert "40 of 40" in report.withheld["s"]
        assert (await bed.run(allow_deletes=True)).deleted == 40


async def test_run_file_that_is_no_text_keeps_its_old_chunks(notes: Project) -> None:
    """A file that is no text any more fails, and its old text stays searchable until it can be read again."""
    file = notes.folder / "notes" / "one.txt"
    text = file.read_text()
    file.write_bytes(text.encode("utf-16-le"))
    async with await notes.open() as bed:
        report = await bed.run()
        (problem,) = report.failures
        assert "are kept until it can be read again" in problem.reason
        assert text in notes.documents("notes").values()
        file.unlink()
        assert (await bed.run()).failed == 0
        assert text not in notes.documents("notes").values()


async def test_run_other_model_is_refused_before_anything_changes(notes: Project) -> None:
    """A run with another model says that the collection lives in another space, though no document differs."""
    notes.set_model("seeded:16")
    async with await notes.open() as bed:
        with pytest.raises(Misconfigured, match="set the model back"):
            await bed.run()
        with pytest.raises(Misconfigured, match="set the model back"):
            await bed.plan()


async def test_plan_prices_chunks_that_earlier_runs_left(project: Project) -> None:
    """Waiting chunks are planned with their tokens, and the run pays for exactly these."""
    for number in range(10):
        project.write(f"docs/{number}.txt", f"{project.folder} text {number}")
    async with await project.open() as bed:
        await bed.add("docs", kind="files", location="docs")
        await bed.run(limit=4)
        plan = await bed.plan()
        assert (plan.new, plan.waiting, plan.reused) == (0, 6, 0)
        assert plan.tokens > 0
        assert (await bed.run()).tokens == plan.tokens


async def test_open_empty_store_with_a_full_ledger_is_refused(notes: Project) -> None:
    """A lost store does not count as up to date; restored, everything works as before."""
    store = notes.folder / ".flowbed" / "store"
    shutil.move(store, notes.folder / "kept")
    for _ in range(2):
        with pytest.raises(Misconfigured, match="restore that store"):
            await notes.open()
    shutil.rmtree(store)
    shutil.move(notes.folder / "kept", store)
    async with await notes.open() as bed:
        assert (await bed.run()).fetched == 0


async def test_why_document_without_chunks_says_so(notes: Project) -> None:
    """Why names the reason for a document that failed, and says of an empty one that it is empty."""
    notes.write("notes/empty.txt", "")
    (notes.folder / "notes" / "late.txt").write_bytes(b"x" * 70_000 + b"\xff")
    async with await notes.open() as bed:
        await bed.run()
        with pytest.raises(NotFound, match="contains no text"):
            await bed.why("empty.txt")
        with pytest.raises(NotFound, match=r"failed: .*UTF-8"):
            await bed.why("late.txt")
        with pytest.raises(NotFound, match="nothing is known"):
            await bed.why("never.txt")


async def test_run_text_moved_to_another_collection_is_not_paid_for_again(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a cache the index itself gives the vector, whichever collection holds the text."""
    monkeypatch.setenv("FLOWBED_VECTOR_CACHE_MB", "0")
    project.write("one/a.txt", f"{project.folder} the same text")
    async with await project.open() as bed:
        await bed.add("one", kind="files", location="one")
        assert (await bed.run()).embedded == 1
    shutil.copytree(project.folder / "one", project.folder / "two")
    async with await project.open() as bed:
        await bed.add("two", kind="files", location="two")
        assert (await bed.plan()).tokens == 0
        assert (await bed.run()).embedded == 0
