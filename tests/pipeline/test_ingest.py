"""Rows that come with their vectors become rows of a collection, without a model."""

from __future__ import annotations

import asyncio
import math
import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from flowbed.bed import aopen
from flowbed.errors import Misconfigured, Rejected
from flowbed.index.datasets import Datasets
from flowbed.pipeline.ingest import ingest
from flowbed.records import Space
from flowbed.records.precomputed import PrecomputedRows, precomputed_source
from flowbed.testing.embedder import seeded
from flowbed.testing.index import assert_same

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.support.projects import Project


SPACE = Space(model="seeded:32", dimensions=32)


def rows(
    *ids: str, texts: Sequence[str | None] = (), deleted: Sequence[str] = (), **metadata: Any
) -> PrecomputedRows:
    """Make rows of these ids; without `texts`, each has a text of its own."""
    named = texts or [f"text of {each}" for each in ids]
    return PrecomputedRows(
        ids=ids,
        vectors=seeded([text or key for key, text in zip(ids, named, strict=True)], SPACE.dimensions),
        texts=named,
        metadata=[{"key": key, **metadata} for key in ids],
        deleted=deleted,
    )


async def test_rows_written_are_found_explained_and_verified_without_a_model(project: Project) -> None:
    async with await project.open() as bed:
        done = await bed.write_rows("docs", rows("a", "b/2", "ünï", color="red"))
        assert (done.written, done.unchanged, done.refused) == (3, 0, ())
        assert done.version is not None
        (hit,) = await bed.search(list(map(float, seeded(["text of b/2"], 32)[0])), limit=1)
        assert (hit.id, hit.document, hit.metadata) == ("b/2", "text of b/2", {"key": "b/2", "color": "red"})
        (reason,) = await bed.why("b/2")
        assert reason.chunk.status == "SUCCESS"
        assert reason.run is not None
        assert (reason.run.lane, reason.run.cost_usd) == ("precomputed", 0.0)
        assert (await bed.verify())["docs"].faults == ()
        assert (await bed.doctor()).findings == ()
        assert (await bed.status()).chunks == {"SUCCESS": 3}
        (source,) = await bed.sources()
        assert (source.name, source.documents, source.precomputed) == (precomputed_source("docs"), 3, True)
    assert project.sent() == {}


async def test_rows_written_again_make_no_version_and_changed_ones_one_row(project: Project) -> None:
    """A change of the vector, the text or the metadata alone is a change."""
    async with await project.open() as bed:
        first = await bed.write_rows("docs", rows("a", "b", "c", "d"))
        again = await bed.write_rows("docs", rows("a", "b", "c", "d"))
        assert (again.written, again.unchanged, again.run, again.version) == (0, 4, "", None)
        assert (await bed.versions("docs"))[0].version == first.version
        moved = replace(rows("a"), vectors=seeded(["elsewhere"], 32))
        for change in (moved, rows("b", texts=["another"]), rows("c", size=2)):
            assert (await bed.write_rows("docs", change)).written == 1
        assert (await bed.verify())["docs"].faults == ()
    found = project.contents()
    assert found.doubled == ()
    docs = found.rows["docs"]
    assert np.allclose(docs["a"].vector, seeded(["elsewhere"], 32)[0], atol=1e-6)
    assert (docs["b"].document, docs["c"].metadata) == ("another", {"key": "c", "size": 2})
    assert docs["d"].document == "text of d"


async def test_rows_deleted_are_gone_and_come_back_when_written_again(project: Project) -> None:
    async with await project.open() as bed:
        await bed.write_rows("docs", rows("a", "b"))
        done = await bed.write_rows("docs", rows("c", deleted=["a", "never"]))
        assert (done.written, done.deleted, done.unknown) == (1, 1, 1)
        assert set(project.documents("docs")) == {"b", "c"}
        (reason,) = await bed.why("a")
        assert reason.verdict == "deleted from the index"
        assert (await bed.write_rows("docs", PrecomputedRows(deleted=["a"]))).unknown == 1
        assert (await bed.write_rows("docs", rows("a"))).written == 1
        assert set(project.documents("docs")) == {"a", "b", "c"}
        assert (await bed.verify())["docs"].faults == ()


async def test_row_without_text_is_stored_with_an_empty_document_and_never_embedded(project: Project) -> None:
    """Neither a run, nor a repair after the index was lost, sends anything to a model."""
    async with await project.open() as bed:
        done = await bed.write_rows("docs", rows("a", "b", texts=[None, ""]))
        assert done.written == 2
        before = project.contents()
        assert {row.document for row in before.rows["docs"].values()} == {""}
        shutil.rmtree(project.folder / ".flowbed" / "store" / "docs" / "index")
    async with await project.open() as bed:
        (checked,) = (await bed.verify(repair=True)).values()
        assert checked.repaired is not None
        assert checked.repaired.waiting == 2
        report = await bed.run()
        assert (report.chunks, report.embedded, report.failed) == (2, 0, 0)
        assert (await bed.verify())["docs"].faults == ()
    assert_same(project.contents(), before)
    assert project.sent() == {}


async def test_index_lost_without_its_deltas_is_written_again_from_the_batch_files(project: Project) -> None:
    """Vectors cannot be computed, so they are kept until their rows change."""
    async with await project.open() as bed:
        for start in range(3):
            await bed.write_rows("docs", rows(f"a{start}", "shared", number=start))
        await bed.write_rows("docs", PrecomputedRows(deleted=["a1"]))
        before = project.contents()
        await bed.gc()
    for name in ("index", "delta"):
        shutil.rmtree(project.folder / ".flowbed" / "store" / "docs" / name)
    (project.folder / ".flowbed" / "store" / "docs" / "active.json").unlink()
    async with await project.open() as bed:
        await bed.verify(repair=True)
        report = await bed.run()
        assert (report.embedded, report.failed) == (0, 0)
        assert (await bed.verify())["docs"].faults == ()
        assert (await bed.doctor()).findings == ()
    assert_same(project.contents(), before)
    assert project.sent() == {}


async def test_ingest_lost_batch_file_fails_the_row_until_it_is_written_again(
    project: Project,
) -> None:
    async with await project.open() as bed:
        await bed.write_rows("docs", rows("a"))
        store = project.folder / ".flowbed" / "store"
        shutil.rmtree(store / "docs" / "index")
        shutil.rmtree(store / "docs.precomputed")
        await bed.verify(repair=True)
        assert (await bed.run()).failed == 1
        (letter,) = await bed.dead_letters()
        assert letter.subject == "a"
        assert letter.reason.endswith(
            "is missing, and its vector came with it: write or import the row again"
        )
        assert (await bed.write_rows("docs", rows("a"))).written == 1
        assert (await bed.verify())["docs"].faults == ()
        assert await bed.dead_letters() == []
    assert project.sent() == {}


async def test_run_of_the_sources_keeps_precomputed_rows(notes: Project) -> None:
    """Also where it may delete, and where the collection is the source's own."""
    async with await notes.open() as bed:
        await bed.write_rows("notes", rows("mine"))
        for file in (notes.folder / "notes").iterdir():
            file.unlink()
        (notes.folder / "notes" / "new.txt").write_text("new")
        report = await bed.run(allow_deletes=True)
        assert report.deleted == 4
        assert set(notes.documents("notes")) == {"mine", "notes#new.txt#00000"}
        with pytest.raises(Misconfigured, match=r"its rows came with their vectors"):
            await bed.run("notes.precomputed", allow_deletes=True)


async def test_row_of_a_source_is_refused_by_name_and_the_others_are_written(notes: Project) -> None:
    owned = "notes#one.txt#00000"
    async with await notes.open() as bed:
        with pytest.raises(Rejected, match=r"row 'notes#one.txt#00000': it belongs to source notes"):
            await bed.write_rows("notes", rows("mine", owned), strict=True)
        done = await bed.write_rows("notes", rows("mine", owned, deleted=["notes#two.txt#00000"]))
        assert done.written == 1
        assert {each.subject for each in done.refused} == {owned, "notes#two.txt#00000"}
        assert notes.documents("notes")[owned] == "note one"
        assert (await bed.run()).failed == 0
        assert (await bed.verify())["notes"].faults == ()


async def test_rows_survive_a_rollback_and_are_released_or_written_again(project: Project) -> None:
    async with await project.open() as bed:
        first = await bed.write_rows("docs", rows("a"))
        await bed.write_rows("docs", rows("a", "b", size=2))
        assert first.version is not None
        await bed.rollback("docs", first.version)
        assert set(project.documents("docs")) == {"a"}
        done = await bed.write_rows("docs", rows("a", size=2))
        assert (done.written, done.unchanged) == (1, 0)
        assert (await bed.release("docs")).version is not None
        assert set(project.documents("docs")) == {"a", "b"}
        assert (await bed.verify())["docs"].faults == ()


def _bad(**change: Any) -> PrecomputedRows:
    good = seeded(["good", "bad"], 32)
    columns: dict[str, Any] = {
        "ids": ["good", change.get("id", "bad")],
        "texts": ["fine", change.get("text", "fine")],
        "metadata": [{}, change.get("metadata", {})],
        "vectors": np.stack([good[0], change.get("vector", good[1])]),
    }
    return PrecomputedRows(**columns)


BAD: Mapping[str, tuple[PrecomputedRows, str]] = {
    "id empty": (_bad(id=""), "its id is not a text"),
    "id no text": (_bad(id=7), "its id is not a text"),
    "id with NUL": (_bad(id="a\0b"), "holds a NUL"),
    "id with half of a character": (_bad(id="a\ud800"), "half of a character"),
    "id too long": (_bad(id="é" * 513), "longer than 1,024 bytes"),
    "vector not a number": (_bad(vector=[math.nan] * 32), "not a finite number"),
    "vector infinite": (_bad(vector=[math.inf] * 32), "not a finite number"),
    "vector zero": (_bad(vector=[0.0] * 32), "only zeros"),
    "text no text": (_bad(text=b"bytes"), "its text is a bytes"),
    "text no Unicode": (_bad(text="\udc80"), "not valid Unicode"),
    "metadata nested": (_bad(metadata={"a": {"b": 1}}), "metadata 'a'"),
    "metadata a list": (_bad(metadata={"a": [1]}), "metadata 'a'"),
    "metadata not finite": (_bad(metadata={"a": math.inf}), "metadata 'a'"),
    "metadata too large": (_bad(metadata={"a": 2**63}), "metadata 'a'"),
    "metadata key no text": (_bad(metadata={1: "a"}), "metadata '1'"),
    "metadata no Unicode": (_bad(metadata={"a": "\ud800"}), "not valid Unicode"),
}


@pytest.mark.parametrize("name", BAD)
async def test_row_that_cannot_be_stored_is_refused_and_the_others_are_written(
    name: str, project: Project
) -> None:
    given, reason = BAD[name]
    async with await project.open() as bed:
        with pytest.raises(Rejected, match=reason):
            await bed.write_rows("docs", given, strict=True)
        assert (await bed.status()).chunks == {}
        done = await bed.write_rows("docs", given)
        assert done.written == 1
        (problem,) = done.refused
        assert reason in problem.reason
        assert set(project.documents("docs")) == {"good"}
        assert (await bed.verify())["docs"].faults == ()


async def test_columns_that_do_not_fit_are_refused_before_anything_is_written(project: Project) -> None:
    async with await project.open() as bed:
        for given, reason in (
            (
                replace(rows("a"), vectors=seeded(["a"], 8)),
                "the vectors have 8 dimensions, but space .* has 32",
            ),
            (replace(rows("a", "b"), vectors=seeded(["a"], 32)), "2 ids came with 1 vectors"),
            (replace(rows("a", "b"), texts=["a"]), "2 vectors, 1 texts"),
            (
                PrecomputedRows(ids=["a"], vectors=[[1.0] * 32, [1.0]]),
                "lists of numbers of one length",
            ),
            (rows("a", deleted=["a"]), "to be written and to be deleted at once"),
        ):
            with pytest.raises(Rejected, match=reason):
                await bed.write_rows("docs", given)
        with pytest.raises(Misconfigured, match="collection name"):
            await bed.write_rows("../docs", rows("a"))
        assert not (project.folder / ".flowbed" / "store" / "docs").exists()


async def test_vectors_of_any_length_are_normalized_once_and_null_metadata_dropped(project: Project) -> None:
    given = rows("a")
    vectors = np.asarray(given.vectors)
    long = replace(given, vectors=vectors * 7, metadata=[{"key": "a", "none": None}])
    async with await project.open() as bed:
        await bed.write_rows("docs", long)
        stored = project.contents().rows["docs"]["a"]
        assert np.allclose(stored.vector, vectors[0], atol=1e-6)
        assert stored.metadata == {"key": "a"}
        assert (await bed.write_rows("docs", long)).unchanged == 1
        assert (await bed.write_rows("docs", replace(long, vectors=stored.vector[None]))).unchanged == 1


async def test_id_given_twice_counts_with_its_last_row(project: Project) -> None:
    async with await project.open() as bed:
        done = await bed.write_rows("docs", rows("a", "b", "a", texts=["first", "b", "last"]))
        assert done.written == 2
        assert project.documents("docs") == {"a": "last", "b": "b"}
        assert (await bed.verify())["docs"].faults == ()


async def test_rows_without_a_commit_are_durable_and_appear_with_the_next(project: Project) -> None:
    async with await project.open() as bed:
        done = await bed.write_rows("docs", rows("a"), commit=False)
        assert done.run
        assert done.version is None
        assert project.contents().total == 0
        assert (await bed.write_rows("docs", rows("b"))).version is not None
        assert set(project.documents("docs")) == {"a", "b"}


async def test_write_rows_cached_vectors_are_reused_by_a_source(
    project: Project,
) -> None:
    """Only if asked: a writer that is not trusted must not decide the vectors of others."""
    project.write_lines("lines.jsonl", [{"id": "1", "text": "text of a"}, {"id": "2", "text": "text of b"}])
    async with await project.open() as bed:
        await bed.add("lines", kind="jsonl", location="lines.jsonl")
        await bed.write_rows("docs", rows("a"), cache=True)
        shutil.rmtree(project.folder / ".flowbed" / "store" / "docs")
        assert (await bed.run()).embedded == 1
    assert project.sent() == {"text of b": 1}


async def test_writers_at_once_write_every_row_once(project: Project) -> None:
    async with await project.open() as bed:
        done = await asyncio.gather(
            *(
                bed.write_rows("docs", rows(f"own-{each}", "shared", by=each), commit=False)
                for each in range(12)
            )
        )
        assert sum(each.written for each in done) == 24
        await bed.write_rows("docs", rows("last"))
        assert (await bed.verify())["docs"].faults == ()
        assert (await bed.status()).chunks == {"SUCCESS": 14}
    assert project.contents().doubled == ()
    assert len(project.documents("docs")) == 14


async def test_collection_of_another_space_is_refused(notes: Project) -> None:
    async with await notes.open() as bed:
        context = bed._context()
        with pytest.raises(Misconfigured, match="spaces are never mixed"):
            await ingest(rows("a"), context, collection="notes", space=replace(SPACE, revision="2"))


async def test_space_replaced_embeds_rows_with_text_and_reports_those_without(project: Project) -> None:
    async with await project.open() as bed:
        await bed.write_rows("docs", rows("a", "b", texts=["text of a", None]))
    shutil.rmtree(project.folder / ".flowbed" / "store" / "docs")
    project.set_model("seeded:16")
    async with await project.open() as bed:
        space = Space(model="seeded:16", dimensions=16)
        context = bed._context()  # a promotion to another model does the same
        await context.collections.begin("docs", space, now=1, datasets=Datasets(bed.store))
        await bed.verify(repair=True)
        report = await bed.run()
        assert (report.embedded, report.failed) == (1, 1)
        (letter,) = await bed.dead_letters()
        assert letter.subject == "b"
        assert "has no text to embed" in letter.reason
    assert project.sent() == {"text of a": 1}
    assert project.documents("docs") == {"a": "text of a"}


async def test_batch_file_of_the_name_with_other_rows_is_never_used(project: Project) -> None:
    """The name of a batch file covers everything in it, also the vectors."""
    async with await project.open() as bed:
        await bed.write_rows("docs", rows("a"))
        (file,) = (project.folder / ".flowbed" / "store" / "docs.precomputed").rglob("*.arrow")
        file.write_bytes(file.read_bytes()[:-100])
        shutil.rmtree(project.folder / ".flowbed" / "store" / "docs" / "index")
        await bed.verify(repair=True)
        await bed.run()
        (letter,) = await bed.dead_letters()
        assert "is damaged" in letter.reason


async def test_orphaned_batch_files_are_garbage_and_used_ones_are_not(project: Project) -> None:
    async with await project.open() as bed:
        await bed.write_rows("docs", rows("a"))
        await bed.write_rows("docs", rows("a", size=2))
        files = sorted((project.folder / ".flowbed" / "store" / "docs.precomputed").rglob("*.arrow"))
        assert len(files) == 2
        for file in files:
            os.utime(file, (1e9, 1e9))
        assert (await bed.gc()).objects == {"batch file": 1}
        left = sorted((project.folder / ".flowbed" / "store" / "docs.precomputed").rglob("*.arrow"))
        assert len(left) == 1
        assert (await bed.verify())["docs"].faults == ()


async def test_project_of_precomputed_rows_alone_plans_and_runs(project: Project) -> None:
    async with await project.open() as bed:
        with pytest.raises(Misconfigured, match="no sources yet"):
            await bed.run()
        await bed.write_rows("docs", rows("a"))
        assert (await bed.run()).failed == 0
        assert (await bed.plan()).tokens == 0
    async with await aopen(project.folder) as bed:
        assert (await bed.status()).collections["docs"].rows == 1
