"""Exports: plain programs read them, an import takes them back, and a failed one leaves nothing."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
from tests.support.publishing import difference, read_plainly

from flowbed.cli.app import run as command
from flowbed.errors import Misconfigured, NotFound, OutOfSpace, Rejected
from flowbed.testing.index import assert_same

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.projects import Project

    from flowbed.publish.exporting import Kind

KINDS: list[Kind] = ["chroma", "parquet", "jsonl"]


@pytest.mark.parametrize("kind", KINDS)
async def test_export_that_is_imported_gives_the_same_rows(
    notes: Project, tmp_path: Path, kind: Kind
) -> None:
    suffix = {"chroma": "", "parquet": ".parquet", "jsonl": ".jsonl"}[kind]
    path = tmp_path / "out" / f"rows{suffix}"
    async with await notes.open() as bed:
        done = await bed.export("notes", to=kind, path=path)
        assert (done.rows, done.path) == (4, str(path))
        assert done.bytes == sum(each.stat().st_size for each in [path, *path.rglob("*")] if each.is_file())
        assert [each.name for each in path.parent.iterdir()] == [path.name]
        imported = await bed.import_rows(path, collection="again")
        assert (imported.written, imported.refused) == (4, 0)
    rows = notes.contents().rows
    assert {key: (row.document, row.metadata) for key, row in rows["again"].items()} == {
        key: (row.document, row.metadata) for key, row in rows["notes"].items()
    }


async def test_export_to_chroma_is_opened_by_a_plain_client(notes: Project, tmp_path: Path) -> None:
    async with await notes.open() as bed:
        await bed.export("notes", to="chroma", path=tmp_path / "chroma")
    found = await asyncio.to_thread(read_plainly, tmp_path / "chroma", "notes")
    assert difference(found, notes.contents().rows["notes"]) == ""


async def test_export_to_parquet_is_read_by_others(notes: Project, tmp_path: Path) -> None:
    path = tmp_path / "notes.parquet"
    async with await notes.open() as bed:
        await bed.export("notes", to="parquet", path=path)
    assert sorted(pq.read_table(path)["document"].to_pylist()) == sorted(notes.documents("notes").values())
    assert {len(each) for each in pq.read_table(path)["vector"].to_pylist()} == {32}


async def test_export_of_a_filter_and_an_older_version(notes: Project, tmp_path: Path) -> None:
    async with await notes.open() as bed:
        (version, *_) = [each.version for each in await bed.versions("notes") if each.rows == 4]
        kept = notes.documents("notes")
        first = min(kept)
        source = notes.contents().rows["notes"][first].metadata
        notes.write("notes/five.txt", "note five")
        await bed.run()
        older = await bed.export("notes", to="jsonl", path=tmp_path / "old.jsonl", at=version)
        assert (older.rows, older.version) == (4, version)
        for kind in KINDS:
            done = await bed.export("notes", to=kind, path=tmp_path / kind, where={"path": source["path"]})
            assert done.rows == 1
        none = await bed.export("notes", to="jsonl", path=tmp_path / "none", where={"path": "nowhere"})
        assert (none.rows, (tmp_path / "none").read_bytes()) == (0, b"")
        plain = await bed.export("notes", to="jsonl", path=tmp_path / "plain.jsonl", vectors=False)
        assert plain.rows == 5
        lines = [json.loads(each) for each in (tmp_path / "plain.jsonl").read_text("utf-8").splitlines()]
        assert all(set(each) == {"id", "text", "metadata"} for each in lines)
        with pytest.raises(Rejected, match="line 1 has no vector"):
            await bed.import_rows(tmp_path / "plain.jsonl", collection="again")
        with pytest.raises(NotFound, match="has no version 999"):
            await bed.export("notes", to="jsonl", path=tmp_path / "x", at=999)
        with pytest.raises(Rejected, match="always has the vectors"):
            await bed.export("notes", to="parquet", path=tmp_path / "x", vectors=False)
    (only,) = [json.loads(each) for each in (tmp_path / "jsonl").read_text("utf-8").splitlines()]
    assert (only["id"], only["text"]) == (first, kept[first])
    assert_same(notes.contents(), notes.contents())


async def test_export_replaces_nothing_and_leaves_nothing_behind(
    notes: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine", "utf-8")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    async with await notes.open() as bed:
        with pytest.raises(Rejected, match="exists"):
            await bed.export("notes", to="jsonl", path=taken)
        with pytest.raises(Misconfigured, match="cannot be written"):
            await bed.export("notes", to="jsonl", path=taken / "below")
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OutOfSpace, match="no room for"):
            await bed.export("notes", to="parquet", path=tmp_path / "out.parquet")
    assert taken.read_text("utf-8") == "mine"
    assert await asyncio.to_thread(lambda: list(tmp_path.glob("*out.parquet*"))) == []


async def test_export_command_names_the_file_after_the_collection(
    notes: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(notes.folder)
    assert await asyncio.to_thread(command, ["export", "notes", "--to", "jsonl", "--json"]) == 0
    done = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (done["rows"], done["path"]) == (4, "notes.jsonl")
    assert (notes.folder / "notes.jsonl").exists()
    assert await asyncio.to_thread(command, ["export", "notes", "--to", "jsonl"]) == 2
    assert "exists" in capsys.readouterr().err
    assert await asyncio.to_thread(command, ["export", "notes", "--to", "csv"]) == 2
    assert "choose chroma, parquet or jsonl" in capsys.readouterr().err
