"""Verifying that index, ledger and store agree, and repairing them."""

from __future__ import annotations

import asyncio
import random
import shutil
from typing import TYPE_CHECKING, Any

import lance
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowbed.bed import aopen
from flowbed.errors import NotFound
from flowbed.index.audit import MAY, MUST, MUST_NOT, Expected, kind_of
from flowbed.ledger import ChunkMark
from flowbed.records import Status
from flowbed.testing.index import assert_same

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.projects import Project


def index_of(project: Project, collection: str = "notes") -> Path:
    """Return the folder of a collection's index."""
    (found,) = (project.folder / ".flowbed" / "store" / collection / "index").iterdir()
    return found


async def test_verify_after_a_run_finds_nothing_wrong(receipts: Project) -> None:
    """After a run every collection is complete, and each row, chunk and delta was checked."""
    async with await receipts.open() as bed:
        await bed.run()
        proved = await bed.verify()
        assert set(proved) == {"lines", "words"}
        for name, each in proved.items():
            assert each.faults == ()
            assert each.rows == each.chunks == len(receipts.documents(name)) > 0
            assert each.deltas == 1
        assert set(await bed.verify("lines")) == {"lines"}
        with pytest.raises(NotFound, match="there are: lines, words"):
            await bed.verify("nothing")


async def test_verify_waiting_chunks_are_no_fault(notes: Project) -> None:
    """Old rows of chunks that were edited, deleted or rolled back, and wait to be indexed again, are correct."""
    async with await notes.open() as bed:
        before = (await bed.versions("notes"))[0].version
        notes.write("notes/one.txt", "edited")
        (notes.folder / "notes" / "two.txt").unlink()
        notes.write("notes/new.txt", "new")
        await bed.run(limit=0)
        assert (await bed.status()).chunks["NONE"] == 3
        assert (await bed.verify())["notes"].faults == ()
        await bed.run()
        await bed.rollback("notes", before)
        assert (await bed.verify())["notes"].faults == ()


async def test_verify_repair_lost_index_is_rebuilt_for_free(notes: Project) -> None:
    """Repairing a lost index makes every chunk wait, and the next run pays for none of them."""
    healthy = notes.contents()
    shutil.rmtree(index_of(notes))
    async with await notes.open() as bed:
        (fault,) = (await bed.verify())["notes"].faults
        assert (fault.kind, fault.count) == ("missing", 4)
        repaired = (await bed.verify(repair=True))["notes"].repaired
        assert repaired is not None
        assert (repaired.waiting, repaired.removed) == (4, 0)
        assert (await bed.run()).embedded == 0
        assert (await bed.verify())["notes"].faults == ()
    assert not notes.sent()
    assert_same(notes.contents(), healthy)


async def test_verify_repair_nothing_wrong_changes_nothing(notes: Project) -> None:
    """Repairing a correct index makes no version, and no chunk waits."""
    async with await notes.open() as bed:
        before = await bed.versions("notes")
        assert (await bed.verify(repair=True))["notes"].repaired is None
        assert await bed.versions("notes") == before
        assert (await bed.run()).chunks == 0


async def test_verify_repair_many_unknown_rows_are_kept(notes: Project) -> None:
    """A store whose ledger was lost keeps its rows until a run has adopted those whose documents still exist."""
    (notes.folder / "notes" / "four.txt").unlink()
    for each in (notes.folder / ".flowbed").glob("ledger.db*"):
        each.unlink()
    async with await aopen(notes.folder, repair=True) as bed:
        assert "is now bound to this ledger" in bed.rebound
        repaired = (await bed.verify(repair=True))["notes"].repaired
        assert repaired is not None
        assert "are kept" in repaired.withheld
        assert len(notes.documents("notes")) == 4
        assert (await bed.run()).embedded == 0
        assert [fault.kind for fault in (await bed.verify())["notes"].faults] == ["unknown"]
        again = (await bed.verify(repair=True))["notes"].repaired
        assert again is not None
        assert (again.removed, again.withheld) == (1, "")
    assert not notes.sent()
    assert set(notes.documents("notes")) == {f"notes#{name}.txt#00000" for name in ("one", "two", "three")}


async def test_verify_during_commits_finds_nothing_wrong(project: Project) -> None:
    """Verifying while a run commits edit after edit finds nothing wrong."""
    for number in range(20):
        project.write(f"notes/{number}.txt", f"note {number}")
    async with await project.open() as bed, await project.open() as other:
        await bed.add("notes", kind="files", location="notes")
        await bed.run()
        chance = random.Random(3)

        async def edit() -> None:
            for turn in range(6):
                for number in chance.sample(range(20), 5):
                    project.write(f"notes/{number}.txt", f"note {number} of turn {turn}")
                await bed.run()

        editing = asyncio.create_task(edit())
        looked = 0
        while not editing.done():
            assert (await other.verify())["notes"].faults == ()
            looked += 1
        await editing
        assert looked > 1


def mark(name: str, **changes: Any) -> ChunkMark:
    """Make the mark of a chunk in the index."""
    return ChunkMark(name, 1, False, Status.SUCCESS, "t", "00", "b")._replace(**changes)


@settings(max_examples=50)
@given(
    rows=st.dictionaries(st.text(), st.tuples(st.sampled_from(list(Status)), st.booleans()), max_size=60),
    other=st.sets(st.text()),
    seen=st.randoms(use_true_random=False),
)
def test_expected_any_ids_finds_each_and_no_other(
    rows: dict[str, tuple[Status, bool]], other: set[str], seen: random.Random
) -> None:
    """Each id is found at its own place and no other is; an expected one without a row is missing."""
    marks = [mark(name, status=status, deleted=deleted) for name, (status, deleted) in rows.items()]
    expected = Expected()
    for start in range(0, len(marks), 7):
        expected.add(marks[start : start + 7])
    expected.sort()
    places = expected.find([each.id for each in marks])
    assert sorted(places) == list(range(len(marks)))
    assert [int(expected.kinds[at]) for at in places] == [kind_of(each) for each in marks]
    assert set(expected.find(sorted(other - set(rows)))) <= {-1}
    there = [each for each in marks if seen.random() < 0.5]
    expected.present[expected.find([each.id for each in there])] = True
    lacking = {each.id for each in marks if kind_of(each) == MUST} - {each.id for each in there}
    assert set(expected.missing(marks)) == lacking


@pytest.mark.parametrize(
    ("status", "deleted", "kind"),
    [
        (Status.SUCCESS, False, MUST),
        (Status.SUCCESS, True, MUST_NOT),
        *(
            (status, deleted, MAY)
            for status in Status
            if status is not Status.SUCCESS
            for deleted in (False, True)
        ),
    ],
)
def test_kind_of_only_done_chunks_are_expected(status: Status, deleted: bool, kind: int) -> None:
    """A chunk must, or must not, be in the index only once the ledger says that it is done."""
    assert kind_of(mark("x", status=status, deleted=deleted)) == kind


async def test_verify_tampered_rows_are_named(project: Project) -> None:
    """Exactly the rows that were tampered with are named."""
    project.write_lines("lines.jsonl", [{"id": number, "text": f"line {number}"} for number in range(300)])
    async with await project.open() as bed:
        await bed.add("lines", kind="jsonl", location="lines.jsonl")
        await bed.run()
        uri = str(index_of(project, "lines"))
        rows = lance.dataset(uri).to_table()
        chance = np.random.default_rng(5)
        touched = set(chance.choice(300, 40, replace=False).tolist())
        texts = [
            f"{text}!" if at in touched else text for at, text in enumerate(rows["document"].to_pylist())
        ]
        place = rows.schema.get_field_index("document")
        changed = rows.set_column(place, rows.schema.field(place), [texts])
        lance.write_dataset(changed, uri, mode="overwrite", data_storage_version="2.2")
        (fault,) = (await bed.verify())["lines"].faults
        assert (fault.kind, fault.count) == ("altered", 40)
        named = {rows["id"][at].as_py() for at in touched}
        assert set(fault.examples) < named
