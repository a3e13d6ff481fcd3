"""Deltas are written in Chroma's form too, for a compactor that is not Flowbed's."""

from __future__ import annotations

import json
import signal
import sqlite3
import tarfile
from contextlib import closing
from typing import TYPE_CHECKING, Any

import chromadb
import numpy as np
import pyarrow as pa
import pytest
from chromadb.config import Settings
from tests.support.counting import CountingProcess
from tests.support.processes.killing import Project as Killed

from flowbed.publish.chroma.delta_files import ChromaDeltas
from flowbed.records.precomputed import PrecomputedRows
from flowbed.storage import open_store
from flowbed.testing.embedder import seeded
from flowbed.testing.faults import FaultyStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator
    from pathlib import Path

    from tests.support.projects import Project


def set_form(folder: Path, form: str) -> None:
    file = folder / "flowbed.toml"
    file.write_text(f'delta_format = "{form}"\n{file.read_text("utf-8")}', "utf-8")


def read(folder: Path, name: str) -> dict[str, tuple[Any, Any]]:
    """Read a directory as a compactor does."""
    with closing(sqlite3.connect(folder / "chroma.sqlite3")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    client: Any = chromadb.PersistentClient(str(folder), settings=Settings(anonymized_telemetry=False))
    try:
        found = client.get_collection(name, embedding_function=None).get(include=["documents", "metadatas"])
    finally:
        client.close()
    return dict(zip(found["ids"], zip(found["documents"], found["metadatas"], strict=True), strict=True))


def unpacked(project: Project, collection: str, target: Path) -> list[Path]:
    """Unpack every delta of a collection, the oldest first."""
    archives = sorted(
        (project.folder / ".flowbed" / "store" / collection / "delta").glob("*/delta.tar.gz"),
        key=lambda each: each.stat().st_mtime_ns,
    )
    folders = []
    for number, archive in enumerate(archives):
        folders.append(target / str(number))
        with tarfile.open(archive) as members:
            members.extractall(folders[-1], filter="data")
    return folders


async def test_run_with_packed_chroma_deltas_writes_what_chroma_opens(
    project: Project, tmp_path: Path
) -> None:
    set_form(project.folder, "chroma")
    project.write_lines("lines.jsonl", [{"id": str(n), "text": f"text {n}", "n": n} for n in range(3)])
    async with await project.open() as bed:
        await bed.add("lines", kind="jsonl", location="lines.jsonl")
        assert (await bed.run()).failed == 0
        project.write_lines("lines.jsonl", [{"id": "0", "text": "text 0", "n": 0}])
        await bed.run(allow_deletes=True)
        assert (await bed.verify())["lines"].faults == ()
        assert (await bed.doctor()).findings == ()
    first, second = unpacked(project, "lines", tmp_path)
    found = read(first, "lines")
    assert sorted(found) == [f"lines#{n}#00000" for n in range(3)]
    assert found["lines#1#00000"][0] == "text 1"
    assert not (first / "deleted.json").exists()
    assert read(second, "lines") == {}
    gone = json.loads((second / "deleted.json").read_text("utf-8"))
    assert sorted(gone["ids"]) == ["lines#1#00000", "lines#2#00000"]


async def test_chroma_delta_is_uploaded_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However large the archive is, a piece of it is in memory."""
    monkeypatch.setattr("flowbed.publish.chroma.files.PIECE", 1_000)
    rows = pa.table(
        {
            "id": ["a", "b"],
            "version": [1, 1],
            "deleted": [False, False],
            "vector": pa.FixedSizeListArray.from_arrays(np.eye(2, 4, dtype=np.float32).ravel(), 4),
            "document": ["one", "two"],
            "metadata": pa.array(["{}", "{}"]),
        }
    )
    pieces: list[int] = []

    class Counting(FaultyStore):
        async def put(self, key: str, body: bytes | AsyncIterable[bytes]) -> None:
            assert not isinstance(body, bytes)

            async def counted() -> AsyncIterator[bytes]:
                async for piece in body:
                    pieces.append(len(piece))
                    yield piece

            await super().put(key, counted())

    store = Counting(open_store("store", folder=tmp_path))
    await ChromaDeltas(store=store, scratch=tmp_path / "scratch", packed=True).write("docs", "run", rows)
    size = (tmp_path / "store/docs/delta/run/delta.tar.gz").stat().st_size
    assert (sum(pieces), max(pieces)) == (size, 1_000)


async def test_precomputed_rows_with_loose_chroma_deltas_are_read_back_as_a_delta(
    project: Project, tmp_path: Path
) -> None:
    """What one project writes, another adds."""
    set_form(project.folder, "chroma-files")
    rows = PrecomputedRows(
        ids=["a", "b"], vectors=seeded(["a", "b"], 32), texts=["a", "b"], metadata=[{"n": 1}, {"n": 2}]
    )
    async with await project.open() as bed:
        done = await bed.write_rows("docs", rows)
        store = project.folder / ".flowbed" / "store"
        delta = store / "docs" / "delta" / done.run
        names = {each.relative_to(delta).as_posix() for each in delta.rglob("*") if each.is_file()}
        assert {"delta.arrow", "chroma.sqlite3"} <= names
        assert (await bed.write_rows("docs", rows)).unchanged == 2
    other = tmp_path / "other"
    target = other / ".flowbed" / "store" / "docs" / "delta" / "from-the-first"
    target.parent.mkdir(parents=True)
    delta.rename(target)
    (other / "flowbed.toml").write_text('model = "seeded:32"\n')
    from flowbed.bed import aopen

    async with await aopen(other) as bed:
        added = await bed.add_deltas("docs/delta/from-the-first")
        assert (added.rows, added.refused) == (2, [])
        assert (await bed.verify())["docs"].faults == ()


@pytest.mark.parametrize("point", ["delta.written", "chroma_delta.written", "run.recorded"])
def test_run_killed_around_its_chroma_delta_writes_it_once(point: str, tmp_path: Path) -> None:
    """A recorded run always has both forms."""
    (tmp_path / "project").mkdir()
    project = Killed(tmp_path / "project")
    project.write_lines("lines.jsonl", [{"id": str(n), "text": f"text {n}"} for n in range(3)])
    project.write_source("lines", "jsonl", "lines.jsonl")
    set_form(project.folder, "chroma")
    with CountingProcess() as provider:
        killed = project.run(provider, at=point)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert project.run(provider).returncode == 0
    delta = project.folder / ".flowbed" / "store" / "lines" / "delta"
    assert [sorted(each.name for each in run.iterdir()) for run in delta.iterdir()] == [
        ["delta.arrow", "delta.tar.gz"]
    ]
    project.assert_finished()
    assert list((project.folder / ".flowbed" / "scratch").iterdir()) == []
