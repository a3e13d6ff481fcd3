"""Publishing through the project: settings, runs, commands, and plain readers of real receipts."""

from __future__ import annotations

import asyncio
import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.support.publishing import difference, read_plainly
from tests.support.servers.chroma import write_chroma

import flowbed
from flowbed.bed import aopen
from flowbed.cli.app import run as command
from flowbed.errors import Misconfigured, NotFound
from flowbed.publish.due import interval
from flowbed.settings import read_settings, snapshot_store
from flowbed.testing.faults import Fault, FaultyStore, unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.support.projects import Project

    from flowbed.testing.index import Row

# The share of the ten nearest rows that a reader must find, and how far two computations of a distance may be apart.
RECALL, CLOSE = 0.97, 1e-4
FEW = 3  # receipts, among whose words a search misses none


def publish_by(project: Project, every: str = "commit", kind: str = "chroma") -> None:
    file = project.folder / "flowbed.toml"
    text = file.read_text("utf-8")
    file.write_text(f'{text}\n[publish.notes]\nkind = "{kind}"\nevery = "{every}"\n', "utf-8")


async def test_run_that_commits_publishes_what_a_plain_client_opens(notes: Project, tmp_path: Path) -> None:
    publish_by(notes)
    notes.write("notes/five.txt", "note five")
    async with await notes.open() as bed:
        report = await bed.run()
        assert list(report.published) == ["notes notes"]
        assert report.failures == ()
        pulled = await bed.pull("notes", tmp_path / "mine")
        (record,) = await bed.publications()
        again = await bed.run()
    assert pulled.version == report.published["notes notes"] == record.place
    assert again.published == {}
    found = await asyncio.to_thread(read_plainly, pulled.path, "notes")
    assert difference(found, notes.contents().rows["notes"]) == ""
    assert len(found["ids"]) == 5


async def test_run_with_nothing_new_reads_one_record_for_a_publication(notes: Project) -> None:
    """Whether something is due is known without opening an index."""
    publish_by(notes)
    async with await notes.open() as bed:
        await bed.run()
        bed._store = FaultyStore(bed._store)
        await bed.publish_due()
        assert [key for operation, key in bed._store.calls if operation == "get"] == [
            "notes/active.json",
            "notes/publication/notes.json",
        ]


async def test_run_rebuilt_index_with_the_same_version_number_is_published(
    notes: Project,
) -> None:
    publish_by(notes, kind="parquet")
    async with await notes.open() as bed:
        await bed.run()
        (before,) = await bed.publications()
    shutil.rmtree(notes.folder / ".flowbed" / "store" / "notes" / "index")
    notes.write("notes/one.txt", "another text of note one")
    async with await notes.open() as bed:
        await bed.verify("notes", repair=True, allow_deletes=True)
        report = await bed.run()
        (after,) = await bed.publications()
        assert (await bed.run()).published == {}
    assert report.published == {"notes notes": after.place}
    assert (after.version, after.place != before.place) == (before.version, True)


async def test_run_whose_publication_fails_reports_it_and_tries_again(notes: Project) -> None:
    publish_by(notes)
    async with await notes.open() as bed:
        store = bed._store
        bed._store = FaultyStore(store, [Fault(operation="create", key="*snapshot.json", before=unavailable)])
        report = await bed.run()
        assert [each.subject for each in report.failures] == ["publication notes of notes"]
        assert report.failed == 0
        bed._store = store
        assert list((await bed.run()).published) == ["notes notes"]


async def test_publication_by_the_hour_waits_for_the_hour(
    notes: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_by(notes, every="1h")
    async with await notes.open() as bed:
        assert (await bed.run()).published
        notes.write("notes/five.txt", "note five")
        assert (await bed.run()).published == {}
        from flowbed.wiring import process

        now = process.now()
        monkeypatch.setattr(process, "now", lambda: now + 3_600_000_000)
        assert (await bed.run()).published


async def test_publication_by_command_only_is_made_by_command(
    notes: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    publish_by(notes, every="manual")
    async with await notes.open() as bed:
        assert (await bed.run()).published == {}
    monkeypatch.chdir(notes.folder)
    assert await asyncio.to_thread(command, ["publish", "notes", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)["published"]
    assert [(each["rows"], each["already"]) for each in done] == [(4, False)]
    assert await asyncio.to_thread(command, ["publish"]) == 0
    assert "is published already, 4 rows at" in capsys.readouterr().out
    target = str(tmp_path / "mine")
    assert await asyncio.to_thread(command, ["pull", "notes", target, "--json"]) == 0
    pulled = json.loads(capsys.readouterr().out)
    assert pulled["path"] == f"{target}/{done[0]['place']}"
    monkeypatch.chdir(tmp_path)
    store = str(notes.folder / ".flowbed" / "store")
    elsewhere = await asyncio.to_thread(flowbed.pull, "notes", tmp_path / "other", store=store, mode="s3")
    assert elsewhere.rows == 4


async def test_publish_of_what_no_publication_has_says_what_to_write(notes: Project) -> None:
    async with await notes.open() as bed:
        with pytest.raises(Misconfigured, match=r'\[publish\.notes\] with kind = "chroma"'):
            await bed.publish("notes")
        with pytest.raises(NotFound, match="flowbed publish notes"):
            await bed.pull("notes", notes.folder / "mine")


@pytest.mark.parametrize("named", [None, "notes"])
async def test_publish_of_a_kind_that_does_not_exist_names_the_one_that_was_meant(
    named: str | None, notes: Project
) -> None:
    """Also before anything was indexed: the collection may not be what is missing."""
    publish_by(notes, kind="chorma")
    async with await notes.open() as bed:
        (failure,) = (await bed.publish(named)).failures
    assert failure.subject == "publication notes"
    assert failure.reason == (
        "publish.notes: there is no kind 'chorma' (did you mean chroma?); the kinds are: chroma, chroma-server, parquet"
    )


async def test_publish_of_a_collection_that_does_not_exist_says_so(notes: Project) -> None:
    """A wrong name in `collections` would otherwise publish nothing, silently."""
    publish_by(notes, every="manual")
    file = notes.folder / "flowbed.toml"
    text = file.read_text("utf-8").replace(
        "[publish.notes]", '[publish.notes]\ncollections = ["nots", "notes"]'
    )
    file.write_text(text, "utf-8")
    async with await notes.open() as bed:
        await bed.run()
        done = await bed.publish()
    assert [each.collection for each in done.published] == ["notes"]
    assert [each.subject for each in done.failures] == ["publication notes of nots"]
    assert "`flowbed run` has not filled it yet, or the name is wrong" in done.failures[0].reason


async def test_run_whose_scratch_folder_cannot_be_written_reports_it(notes: Project) -> None:
    publish_by(notes, kind="parquet")
    async with await notes.open() as bed:
        blocked = notes.folder / ".flowbed" / "publish"
        blocked.touch()
        report = await bed.run()
        assert [each.subject for each in report.failures] == ["publication notes of notes"]
        assert str(blocked) in report.failures[0].reason
        blocked.unlink()
        assert list((await bed.run()).published) == ["notes notes"]


async def test_publication_recorded_by_a_clock_that_is_ahead_does_not_stop_the_next(
    notes: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_by(notes, kind="parquet")
    from flowbed.wiring import process

    async with await notes.open() as bed:
        now = process.now()
        with monkeypatch.context() as patch:
            patch.setattr(process, "now", lambda: now + 3_600_000_000)
            assert (await bed.run()).published
        notes.write("notes/five.txt", "note five")
        assert (await bed.run()).published
        (record,) = await bed.publications()
        assert record.rows == 5
        assert (await bed.run()).published == {}


@pytest.mark.parametrize(
    ("every", "seconds"), [("commit", 0), ("manual", None), ("90s", 90), ("2h", 7_200), ("1d", 86_400)]
)
def test_interval_of_a_publication_is_a_time_or_a_word(every: str, seconds: float | None) -> None:
    assert interval(every) == seconds


def test_settings_of_a_publication_with_a_fault_name_it(tmp_path: Path) -> None:
    for text, fault in (
        ('[publish.a]\nkind = "chroma"\nevery = "hourly"\n', r"publish\.a\.every"),
        ('[publish.a]\nkind = "chroma"\nwhen = "now"\n', r"publish\.a\.when: no such setting"),
        ('[publish."A B"]\nkind = "chroma"\n', "publication name 'A B'"),
        (
            '[publish.a]\nkind = "chroma"\ncollections = ["*"]\n[publish.b]\nkind = "chroma"\n',
            r"publish\.a and publish\.b both publish b as chroma",
        ),
    ):
        (tmp_path / "flowbed.toml").write_text(text, "utf-8")
        with pytest.raises(Misconfigured, match=fault):
            read_settings(tmp_path)


def test_token_of_a_publication_comes_from_the_environment_and_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flowbed.toml").write_text(
        '[publish.lines]\nkind = "chroma-server"\noptions = { url = "http://localhost:8000" }\n', "utf-8"
    )
    monkeypatch.setenv("FLOWBED_PUBLISH__LINES__OPTIONS__TOKEN", "secret")
    found = read_settings(tmp_path).publish["lines"]
    assert found.options == {"url": "http://localhost:8000", "token": "secret"}
    assert "secret" not in repr(found)


def test_bucket_of_an_existing_deployment_counts_where_the_settings_name_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHROMADB_BUCKET", "old-bucket")
    assert snapshot_store(read_settings(tmp_path)) == "s3://old-bucket"
    (tmp_path / "flowbed.toml").write_text('store = "elsewhere"\n', "utf-8")
    assert snapshot_store(read_settings(tmp_path)) == "elsewhere"


@pytest.mark.parametrize("receipts", [FEW, pytest.param(313, marks=pytest.mark.long)])
async def test_plain_client_finds_the_receipts_of_an_index(data: Path, tmp_path: Path, receipts: int) -> None:
    """Counts, ids, documents, metadata and neighbours are those of the index, after a change too.

    Chroma's graph finds nearly all neighbours. It misses some where many rows have one vector, as words of receipts
    do: more of them if Chroma is given the same rows by itself.
    """
    folder = tmp_path / "project"
    folder.mkdir()
    lines = (data / "receipts.jsonl").read_text("utf-8").splitlines()[:receipts]
    (folder / "receipts.jsonl").write_text("\n".join(lines), "utf-8")
    (folder / "flowbed.toml").write_text(
        'model = "seeded:32"\n[sources.receipts]\nkind = "receipts"\nlocation = "receipts.jsonl"\n'
        '[publish.copies]\nkind = "chroma"\ncollections = ["lines", "words"]\n',
        "utf-8",
    )
    for edit in (False, True):
        if edit:
            (folder / "receipts.jsonl").write_text("\n".join(lines[1:]), "utf-8")
        async with await aopen(folder) as bed:
            report = await bed.run()
            assert (report.failures, sorted(report.published)) == ((), ["copies lines", "copies words"])
            for name in ("lines", "words"):
                pulled = await bed.pull(name, tmp_path / name)
                copy = shutil.copytree(pulled.path, tmp_path / "opened")
                found = await asyncio.to_thread(read_plainly, copy, name)
                shutil.rmtree(copy)
                from flowbed.testing.index import contents

                rows = (await contents(bed.store)).rows[name]
                assert difference(found, rows) == ""
                recall = _recall(found, rows)
                assert recall >= RECALL
                if edit and receipts > FEW:
                    plain = await asyncio.to_thread(_plain_copy, tmp_path / f"plain-{name}", name, rows)
                    assert recall >= _recall(plain, rows)


def _plain_copy(folder: Path, name: str, rows: Mapping[str, Row]) -> dict[str, Any]:
    """Let chromadb alone make a collection of the same rows, and read it."""
    vectors = np.stack([row.vector for row in rows.values()])
    texts = [row.document for row in rows.values()]
    return read_plainly(write_chroma(folder, name, list(rows), texts=texts, vectors=vectors), name)


def _recall(found: Mapping[str, Any], rows: Mapping[str, Row]) -> float:
    """Return the share of the nearest rows that searches find; of rows at one distance any will do."""
    places = {key: place for place, key in enumerate(rows)}
    vectors = np.stack([row.vector for row in rows.values()])
    reached, possible = 0, 0
    for key, near in zip(found["asked"], found["near"], strict=True):
        distances = 1 - vectors @ vectors[places[key]]
        farthest = np.sort(distances)[len(near) - 1]
        reached += int(np.sum(distances[[places[each] for each in near]] <= farthest + CLOSE))
        possible += len(near)
    return reached / possible
