"""Rows are imported with their vectors from Chroma directories, Chroma servers and Parquet files."""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.servers.chroma import write_chroma

from flowbed.cli.app import run
from flowbed.errors import Misconfigured, NotFound, Rejected, Transient
from flowbed.pipeline import importing
from flowbed.testing.embedder import seeded
from flowbed.testing.faults import Fault, FaultyStore, unavailable
from flowbed.wiring import importing as wired

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.projects import Project

IDS = tuple(f"row-{number}" for number in range(30))


@pytest.fixture
def chroma(tmp_path: Path) -> Path:
    """Return a Chroma directory with rows of the project's model."""
    metadata = [{"n": number, "ok": True, "share": 0.5} for number in range(len(IDS))]
    return write_chroma(tmp_path / "chroma", "docs", IDS, dimensions=32, metadata=metadata)


def files(folder: Path) -> dict[str, bytes]:
    """Read all files of a folder."""
    return {str(each): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


async def test_chroma_directory_imported_is_searched_and_only_a_sample_is_sent(
    chroma: Path, project: Project
) -> None:
    before = files(chroma)
    async with await project.open() as bed:
        done = await bed.import_rows(chroma, collection="docs")
        assert (done.read, done.written, done.unchanged, done.refused) == (30, 30, 0, 0)
        assert done.sampled == 16
        assert done.cosine == pytest.approx(1.0, abs=1e-5)
        assert sum(project.sent().values()) == 16
        (hit,) = await bed.search("text of row-7", limit=1)
        assert (hit.id, hit.document) == ("row-7", "text of row-7")
        assert hit.metadata == {"n": 7, "ok": True, "share": 0.5}
        assert (await bed.verify())["docs"].faults == ()
        again = await bed.import_rows(chroma, collection="docs")
        assert (again.written, again.unchanged, again.version) == (0, 30, None)
    assert files(chroma) == before
    assert not list((project.folder / ".flowbed" / "scratch").iterdir())


async def test_import_vectors_are_reused_by_a_source_of_the_same_texts(
    chroma: Path, project: Project
) -> None:
    project.write_lines("lines.jsonl", [{"id": key, "text": f"text of {key}"} for key in IDS])
    async with await project.open() as bed:
        await bed.import_rows(chroma, collection="docs")
        shutil.rmtree(project.folder / ".flowbed" / "store" / "docs")  # so that only the cache has them
        project.sent()
        await bed.add("lines", kind="jsonl", location="lines.jsonl")
        report = await bed.run()
        assert (report.embedded, report.failed) == (0, 0)
    assert project.sent() == {}


async def test_vectors_of_another_model_are_refused_with_the_figure(tmp_path: Path, project: Project) -> None:
    other = write_chroma(
        tmp_path / "chroma", "docs", IDS, vectors=seeded([f"other {key}" for key in IDS], 32)
    )
    async with await project.open() as bed:
        with pytest.raises(
            Rejected, match=r"median cosine with what it gives for 16 of the texts is -?0\.\d{3}"
        ):
            await bed.import_rows(other, collection="docs")
        assert (await bed.status()).chunks == {}
        assert (await bed.import_rows(other, collection="docs", check=False)).written == 30
    narrow = write_chroma(tmp_path / "narrow", "docs", IDS, dimensions=8)
    async with await project.open() as bed:
        with pytest.raises(Rejected, match="the vectors have 8 dimensions, but seeded:32 gives 32"):
            await bed.import_rows(narrow, collection="docs")


async def test_rows_without_any_text_are_imported_only_unchecked(tmp_path: Path, project: Project) -> None:
    blind = write_chroma(tmp_path / "chroma", "docs", IDS, dimensions=32, texts=[None] * len(IDS))
    async with await project.open() as bed:
        with pytest.raises(Rejected, match="import them with --unchecked"):
            await bed.import_rows(blind, collection="docs")
        assert (await bed.import_rows(blind, collection="docs", check=False)).written == 30
        assert (await bed.verify())["docs"].faults == ()


async def test_model_stated_makes_the_collection_of_its_space(tmp_path: Path, project: Project) -> None:
    narrow = write_chroma(tmp_path / "chroma", "docs", IDS, dimensions=8)
    wide = write_chroma(tmp_path / "wide", "docs", IDS, dimensions=16)
    async with await project.open() as bed:
        done = await bed.import_rows(narrow, collection="narrow", space="seeded:8")
        assert done.written == 30
        with pytest.raises(Misconfigured, match="spaces are never mixed"):
            await bed.import_rows(wide, collection="narrow", space="seeded:16")


async def test_parquet_of_several_forms_is_imported(tmp_path: Path, project: Project) -> None:
    """Fixed and variable lists, metadata as JSON, as a struct, as a map, and as columns of its own."""
    vectors = seeded([f"text of {key}" for key in IDS], 32)
    texts = [f"text of {key}" for key in IDS]
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 32)
    variable = pa.array(vectors.astype(np.float64).tolist(), pa.list_(pa.float64()))
    pairs = pa.array([[("n", number)] for number in range(30)], pa.map_(pa.string(), pa.int64()))
    forms: list[dict[str, Any]] = [
        {"id": IDS, "document": texts, "vector": fixed, "metadata": [f'{{"n": {n}}}' for n in range(30)]},
        {"id": IDS, "text": texts, "embedding": variable, "metadata": [{"n": n} for n in range(30)]},
        {"id": IDS, "text": texts, "embedding": variable, "metadata": pairs},
        {"id": IDS, "text": texts, "vector": fixed, "n": list(range(30)), "none": [None] * 30},
    ]
    async with await project.open() as bed:
        for number, columns in enumerate(forms):
            pq.write_table(pa.table(columns), tmp_path / f"{number}.parquet")
            done = await bed.import_rows(tmp_path / f"{number}.parquet", collection=f"form{number}")
            assert (done.written, done.refused) == (30, 0)
        rows = project.contents().rows
        assert [rows[f"form{number}"]["row-3"].metadata for number in range(4)] == [{"n": 3}] * 4
        folder = tmp_path / "folder"
        folder.mkdir()
        for part in (0, 1):
            some = pa.table(forms[0]).slice(part * 15, 15)
            pq.write_table(some, folder / f"part-{part}.parquet")
        assert (await bed.import_rows(folder, collection="parts")).written == 30


async def test_parquet_rows_that_cannot_be_stored_are_refused_alone(tmp_path: Path, project: Project) -> None:
    """Also among the rows whose texts are embedded to check the model."""
    texts = [f"text of {key}" for key in IDS]
    vectors: list[list[float] | None] = seeded(texts, 32).tolist()
    vectors[1], vectors[2], vectors[3] = None, [math.nan] * 32, [0.0] * 32
    metadata = ['{"n": 1}'] * 25 + ["", "{broken", "[1, 2]", '"text"', "5"]
    pq.write_table(
        pa.table({"id": range(30), "text": texts, "vector": vectors, "metadata": metadata}),
        tmp_path / "some.parquet",
    )
    lists = [["a"]] * 29 + [[]]
    pq.write_table(
        pa.table({"id": IDS, "text": texts, "vector": seeded(texts, 32).tolist(), "metadata": lists}),
        tmp_path / "lists.parquet",
    )
    async with await project.open() as bed:
        done = await bed.import_rows(tmp_path / "some.parquet", collection="some")
        assert (done.read, done.written) == (30, 23)
        assert done.cosine == pytest.approx(1.0, abs=1e-5)
        assert {each.subject: each.reason.partition(":")[0] for each in done.problems} == {
            "1": "its vector has a value that is not a finite number",
            "2": "its vector has a value that is not a finite number",
            "3": "its vector has only zeros, so it has no direction to compare",
            "26": "its metadata are '{broken'",
            "27": "its metadata are '[1, 2]'",
            "28": "its metadata are 'text'",
            "29": "its metadata are '5'",
        }
        assert sorted(project.contents().rows["some"], key=int)[:3] == ["0", "4", "5"]
        assert (await bed.import_rows(tmp_path / "lists.parquet", collection="lists")).refused == 29


@pytest.mark.parametrize("first", [True, False])
async def test_parquet_page_without_any_vector_is_only_refused(
    first: bool, tmp_path: Path, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a page does not tell how long vectors are; the model is checked with the first group that has some."""
    monkeypatch.setattr("flowbed.publish.reading.parquet.PAGE", 10)
    monkeypatch.setattr(importing, "GROUP", 10 if first else 20)
    texts = [f"text of {key}" for key in IDS]
    vectors: list[list[float] | None] = seeded(texts, 32).tolist()
    empty = range(10) if first else range(10, 20)
    for place in empty:
        vectors[place] = None
    pq.write_table(pa.table({"id": IDS, "text": texts, "vector": vectors}), tmp_path / "some.parquet")
    async with await project.open() as bed:
        done = await bed.import_rows(tmp_path / "some.parquet", collection="some")
    assert (done.read, done.written, done.refused) == (30, 20, 10)
    assert {each.subject for each in done.problems} == {IDS[place] for place in empty}
    assert done.cosine == pytest.approx(1.0, abs=1e-5)


async def test_dates_and_times_of_parquet_are_texts(tmp_path: Path, project: Project) -> None:
    """With nanoseconds, which Python's have not; within a struct, those beyond Python's refuse the file."""
    texts = [f"text of {key}" for key in IDS[:2]]
    columns = {"id": list(IDS[:2]), "text": texts, "vector": seeded(texts, 32).tolist()}
    times = pa.array([1_700_000_000_123_456_789, None], pa.timestamp("ns"))
    days = pa.array([19_675, 19_676], pa.date32())
    pq.write_table(pa.table({**columns, "at": times, "day": days}), tmp_path / "times.parquet")
    far = pa.array([10**17, None], pa.timestamp("ms"))  # in three million years
    inner = pa.StructArray.from_arrays([far], names=["at"])
    pq.write_table(pa.table({**columns, "metadata": inner}), tmp_path / "inner.parquet")
    async with await project.open() as bed:
        assert (await bed.import_rows(tmp_path / "times.parquet", collection="docs")).written == 2
        rows = project.contents().rows["docs"]
        assert rows["row-0"].metadata == {"at": "2023-11-14 22:13:20.123456789", "day": "2023-11-14"}
        assert rows["row-1"].metadata == {"day": "2023-11-15"}
        with pytest.raises(Rejected, match=r"inner\.parquet cannot be read as Parquet"):
            await bed.import_rows(tmp_path / "inner.parquet", collection="inner")


async def test_json_lines_that_are_no_rows_are_named(project: Project) -> None:
    vector = seeded(["text of 7"], 32)[0].tolist()
    row = {"id": 7, "vector": vector, "text": "text of 7"}
    cases = {
        "list": ({**row, "id": ["x"]}, "line 2 is no object with an id"),
        "short": ({**row, "vector": vector[:3]}, "line 2: its vector has 3 numbers, not 32"),
        "texts": ({**row, "vector": ["x"] * 32}, "not lists of numbers of one length"),
        "pairs": ({**row, "vector": [{}] * 32}, "not lists of numbers of one length"),
    }
    async with await project.open() as bed:
        for name, (second, reason) in cases.items():
            project.write_lines(f"{name}.jsonl", [row, second])
            with pytest.raises(Rejected, match=reason):
                await bed.import_rows(f"{name}.jsonl", collection="docs")
        project.write_lines("whole.jsonl", [row])
        assert (await bed.import_rows("whole.jsonl", collection="docs")).written == 1
        assert list(project.contents().rows["docs"]) == ["7"]


async def test_location_that_cannot_be_read_is_named(tmp_path: Path, project: Project) -> None:
    (tmp_path / "text.parquet").write_text("no parquet")
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "bare.parquet")
    pq.write_table(pa.table({"id": ["a"], "vector": ["text"]}), tmp_path / "texts.parquet")
    ragged = pa.table({"id": ["a", "b"], "vector": [[1.0], [1.0, 2.0]]})
    pq.write_table(ragged, tmp_path / "ragged.parquet")
    cases: list[tuple[str, type[Exception], str]] = [
        ("nowhere", NotFound, "neither a Chroma directory"),
        ("s3://bucket/chroma", NotFound, "copy it to this machine first"),
        ("text.parquet", Rejected, "cannot be read as Parquet"),
        ("bare.parquet", Rejected, "has no column vector or embedding"),
        ("texts.parquet", Rejected, "have to be lists of numbers"),
        ("ragged.parquet", Rejected, "not all of one length"),
    ]
    async with await project.open() as bed:
        for name, kind, reason in cases:
            with pytest.raises(kind, match=reason):
                await bed.import_rows(name if "://" in name else tmp_path / name, collection="docs")


async def test_collection_of_a_chroma_directory_is_named_where_there_are_several(
    chroma: Path, project: Project
) -> None:
    write_chroma(chroma, "other", ["x"], dimensions=32)
    async with await project.open() as bed:
        with pytest.raises(Rejected, match="not clear which collection is meant; there are: docs, other"):
            await bed.import_rows(chroma, collection="docs")
        with pytest.raises(Rejected, match="no collection is called 'none'"):
            await bed.import_rows(chroma, collection="docs", name="none")
        assert (await bed.import_rows(chroma, collection="docs", name="other")).written == 1


async def test_damaged_chroma_directory_is_a_refusal_not_a_crash(chroma: Path, project: Project) -> None:
    with closing(sqlite3.connect(chroma / "chroma.sqlite3")) as database:
        database.execute("UPDATE embeddings_queue SET vector = x'00'")
        database.commit()
    async with await project.open() as bed:
        with pytest.raises(Rejected):
            await bed.import_rows(chroma, collection="docs")


async def test_import_whose_delta_cannot_be_written_is_completed_by_the_next(
    chroma: Path, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The delta of one group is written while the next goes into the ledger: its error ends the import."""
    monkeypatch.setattr(importing, "GROUP", 10)
    monkeypatch.setattr(wired, "PAGE", 10)
    async with await project.open() as bed:
        store = bed._store
        bed._store = FaultyStore(store, [Fault(operation="create", key="*delta.arrow", before=unavailable)])
        with pytest.raises(Transient):
            await bed.import_rows(chroma, collection="docs")
        bed._store = store
        again = await bed.import_rows(chroma, collection="docs")
        assert again.written + again.unchanged == 30
        assert (await bed.verify())["docs"].faults == ()
        status = await bed.status()
        assert (status.chunks, status.pending) == ({"SUCCESS": 30}, ())


async def test_import_commits_while_it_goes_on(
    chroma: Path, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of an import of hours can be searched meanwhile, and each commit leaves later runs to the next."""
    for module, name in ((importing, "GROUP"), (importing, "COMMIT"), (wired, "PAGE")):
        monkeypatch.setattr(module, name, 10)
    async with await project.open() as bed:
        done = await bed.import_rows(chroma, collection="docs")
        assert done.written == 30
        assert len(await bed.versions("docs")) >= 3
        assert (await bed.verify())["docs"].faults == ()


def test_import_command_prints_its_result_as_json(
    chroma: Path, project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.folder)
    assert run(["import", str(chroma), "-c", "docs", "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (said["read"], said["written"], said["refused"]) == (30, 30, 0)
    assert run(["import", str(chroma), "-c", "docs"]) == 0
    assert "30 rows read, 0 written, 30 there already, 0 refused" in capsys.readouterr().out
