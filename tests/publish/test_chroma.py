"""Publishing Chroma directories: what may go wrong on the way."""

from __future__ import annotations

import asyncio
import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
from tests.support.processes.preloaded import use_own
from tests.support.publishing import read_plainly

from flowbed.errors import Conflict, Misconfigured, NotFound, Transient
from flowbed.publish import open_publication
from flowbed.publish.chroma import (
    children,
    complete_snapshots,
    current_snapshot,
    pointer_key,
    read_pointer,
    snapshot_key,
)
from flowbed.publish.chroma.child import spread
from flowbed.publish.chroma.children import Damaged, ask
from flowbed.publish.chroma.pull import pull
from flowbed.publish.chroma.rows import chroma_metadata
from flowbed.publish.reading.child import Job
from flowbed.publish.reading.directory import ChromaDirectory
from flowbed.testing.faults import Fault, FaultyStore, unavailable
from flowbed.testing.publication import numbered, texts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from flowbed.publish import Publication, Published
    from flowbed.testing.publication import PublishBench

POINTER = "docs/snapshot/latest-pointer.txt"


def chroma(bench: PublishBench, faults: Sequence[Fault] = (), **options: str) -> Publication:
    store = FaultyStore(bench.store, faults)
    return open_publication("chroma", bench.context(store=store), options)


async def edit(bench: PublishBench) -> int:
    return await bench.commit({"row-00001": ("edited", {"color": "blue"})})


async def pointer(bench: PublishBench) -> str:
    found = await read_pointer(bench.store, "docs")
    assert found is not None
    return found.version


async def test_publication_whose_upload_is_cut_short_does_not_move_the_pointer(
    published: PublishBench,
) -> None:
    """A store that stored less than it was given is noticed before readers see it."""
    before = await pointer(published)
    await edit(published)

    class Cutting(FaultyStore):
        async def put(self, key: str, body: Any) -> None:
            pieces = body if isinstance(body, bytes) else b"".join([each async for each in body])
            await super().put(key, pieces[:-7] if key.endswith("chroma.sqlite3") else pieces)

    publication = open_publication("chroma", published.context(store=Cutting(published.store)), {})
    with pytest.raises(Transient, match=r"chroma\.sqlite3 has"):
        await published.publish(publication)
    assert await pointer(published) == before


async def test_publication_whose_pointer_answer_is_lost_finds_out_that_it_moved(
    published: PublishBench,
) -> None:
    before = await pointer(published)
    version = await edit(published)
    done = await published.publish(
        chroma(published, [Fault(operation="replace", key=POINTER, after=unavailable)])
    )
    assert (done.version, await pointer(published)) == (version, done.place)
    assert done.place > before


async def test_publication_that_is_overtaken_by_a_newer_version_changes_nothing(
    published: PublishBench,
) -> None:
    """The slower publisher has read the pointer before the faster one moved it."""
    old = await edit(published)
    slow = chroma(
        published, [Fault(operation="replace", key=POINTER, delay=0.0, before=lambda: Conflict("late"))]
    )
    await published.commit({"row-00002": ("edited too", {})})
    fast = await published.publish(chroma(published))
    done = await published.publish(slow, old)
    assert (done.already, done.place) == (True, fast.place)
    assert await pointer(published) == fast.place


async def test_publication_that_is_overtaken_by_an_older_version_builds_on_it(
    published: PublishBench,
) -> None:
    """Between reading the pointer and moving it, another publisher publishes the version before."""
    old = await edit(published)
    new = await published.commit({"row-00002": ("edited too", {})})
    live = await published.live()
    other = chroma(published)
    overtaken: list[Published] = []

    class Overtaken(FaultyStore):
        async def replace(self, key: str, body: bytes, *, etag: str) -> str:
            if key == POINTER and not overtaken:
                overtaken.append(await other.publish(live, old))
            return await super().replace(key, body, etag=etag)

    context = published.context(store=Overtaken(published.store), scratch="elsewhere")
    done = await published.publish(open_publication("chroma", context, {}))
    snapshot = await current_snapshot(published.store, "docs")
    assert (done.version, snapshot.index_version, snapshot.parent) == (new, new, overtaken[0].place)
    assert done.place > overtaken[0].place


async def test_publication_without_a_pointer_publishes_the_whole_collection(published: PublishBench) -> None:
    """A missing pointer may be a deleted one: what is published is never an empty collection."""
    before = await pointer(published)
    await published.store.delete([pointer_key("docs")])
    done = await published.publish(chroma(published))
    assert (done.rows, done.rebuilt) == (40, "nothing was published before")
    assert await pointer(published) == done.place
    assert done.place > before


async def test_publication_without_a_pointer_of_an_older_version_is_refused(published: PublishBench) -> None:
    old = await published.version()
    await edit(published)
    await published.publish(chroma(published))
    await published.store.delete([pointer_key("docs")])
    with pytest.raises(Conflict, match="was published before"):
        await published.publish(chroma(published), old)
    assert await read_pointer(published.store, "docs") is None


async def test_publication_with_a_damaged_base_in_the_store_writes_all_rows(
    published: PublishBench,
) -> None:
    snapshot = await current_snapshot(published.store, "docs")
    await published.store.put(f"{snapshot_key('docs', snapshot.version)}/chroma.sqlite3", b"damaged")
    await edit(published)
    context = published.context(scratch="another-machine")
    done = await published.publish(open_publication("chroma", context, {}))
    assert "the base cannot be used" in done.rebuilt
    assert done.rows == 40


async def test_publication_on_the_machine_that_published_before_downloads_nothing(
    published: PublishBench,
) -> None:
    await edit(published)
    store = FaultyStore(published.store)
    await published.publish(open_publication("chroma", published.context(store=store), {}))
    assert [key for operation, key in store.calls if operation == "stream"] == []


async def test_publication_of_more_than_a_quarter_writes_all_rows(published: PublishBench) -> None:
    await published.commit(numbered(11, color="blue"))
    done = await published.publish(chroma(published))
    assert done.rebuilt == "11 changes are more than a quarter of 40 rows"
    assert (await current_snapshot(published.store, "docs")).superseded == 0


async def test_publication_with_other_settings_writes_all_rows(published: PublishBench) -> None:
    done = await published.publish(chroma(published, name="documents"))
    assert done.rebuilt == "its settings have changed"
    assert (await current_snapshot(published.store, "docs")).name == "documents"


async def test_publication_over_a_snapshot_of_a_newer_chromadb_is_refused(published: PublishBench) -> None:
    """Chroma's upgrades cannot be undone, so the older package could not open it."""
    snapshot = await current_snapshot(published.store, "docs")
    key = f"{snapshot_key('docs', snapshot.version)}/snapshot.json"
    said = json.loads((await published.store.get(key)).body)
    await published.store.put(key, json.dumps({**said, "chromadb": "99.0.1"}).encode())
    await edit(published)
    with pytest.raises(Misconfigured, match=r"pip install 'chromadb>=99\.0\.1'"):
        await published.publish(chroma(published))


async def test_publication_under_a_name_that_chroma_refuses_names_the_option(published: PublishBench) -> None:
    with pytest.raises(Misconfigured, match=r"options\.name"):
        await published.publish(chroma(published, name="a"))
    with pytest.raises(Misconfigured, match="there is no option nmae"):
        chroma(published, nmae="docs")
    with pytest.raises(Misconfigured, match="max_neighbors is 'many'"):
        chroma(published, max_neighbors="many")


async def test_publication_leaves_nothing_to_replay_and_a_sound_database(
    published: PublishBench, tmp_path: Path
) -> None:
    """Rows that are only in Chroma's log would be replayed by the first query of every reader."""
    await edit(published)
    await published.publish(chroma(published))
    done = await pull(published.store, "docs", tmp_path / "mine")
    # Adding nothing tells how many operations the graph lacks.
    built = await ask(
        "build",
        tmp_path,
        size=40,
        directory=str(done.path),
        collection="docs",
        rows=_no_rows(tmp_path),
        deleted=[],
        graph={},
        fresh=False,
    )
    assert (built["rows"], built["unsynced"]) == (40, 0)


def _no_rows(folder: Path) -> str:

    path = folder / "none.arrow"
    with path.open("wb") as file, pa.ipc.new_stream(file, pa.schema([("id", pa.string())])):
        pass
    return str(path)


async def test_publication_of_changes_over_and_over_is_whole_each_time(published: PublishBench) -> None:
    """Dead vectors gather in Chroma's graph until a clean rebuild is due."""
    superseded = []
    for number in range(4):
        await published.commit(
            {**texts(f"new-{number}"), "row-00003": (f"edit {number}", {"n": number})}, f"row-0001{number}"
        )
        await published.publish(chroma(published))
        superseded.append((await current_snapshot(published.store, "docs")).superseded)
    assert superseded == [3, 6, 9, 0]
    found = await asyncio.to_thread(read_plainly, await _copy(published), "docs")
    assert sorted(found["ids"]) == sorted(published.rows)
    assert all(name in near for name, near in zip(found["ids"], found["near"], strict=False))


async def _copy(bench: PublishBench) -> Path:
    return (await pull(bench.store, "docs", bench.scratch / "reader")).path


async def test_child_that_opens_a_torn_graph_does_not_end_this_process(
    published: PublishBench, tmp_path: Path
) -> None:
    """Chroma answers a truncated graph with a segmentation fault or an error; either is reported."""
    done = await pull(published.store, "docs", tmp_path / "mine")
    for path in done.path.rglob("*.bin"):
        path.write_bytes(path.read_bytes()[:40])
    np.save(tmp_path / "queries.npy", np.ones((1, 16), np.float32))
    with pytest.raises(Damaged, match="Chroma"):
        await ask(
            "verify",
            tmp_path,
            size=40,
            directory=str(done.path),
            collection="docs",
            ids=["row-00001"],
            vectors=str(tmp_path / "queries.npy"),
            neighbours=3,
        )


async def test_database_that_is_damaged_is_found_beside_a_copy_that_opens(
    published: PublishBench, tmp_path: Path
) -> None:
    """A copy is opened while SQLite checks what will be uploaded."""
    done = await pull(published.store, "docs", tmp_path / "mine")
    copy = shutil.copytree(done.path, tmp_path / "copy")
    database = done.path / "chroma.sqlite3"
    content = database.read_bytes()
    database.write_bytes(content[: len(content) // 2] + bytes(8_192) + content[len(content) // 2 + 8_192 :])
    np.save(tmp_path / "queries.npy", np.ones((1, 16), np.float32))
    found = await ask(
        "verify",
        tmp_path,
        size=40,
        directory=str(copy),
        checked=str(done.path),
        collection="docs",
        ids=["row-00001"],
        vectors=str(tmp_path / "queries.npy"),
        neighbours=3,
    )
    assert found["ids"] == ["row-00001"]
    assert "chroma.sqlite3 is damaged" in found["fault"] or "cannot be read" in found["fault"]


async def test_publication_of_what_differs_from_the_index_is_refused(
    published: PublishBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verification compares what a reader finds with the index: here documents were mixed up on the way."""
    before = await pointer(published)
    await edit(published)
    wrong = "flowbed.publish.chroma.verification.sample"
    from flowbed.index.versions.samples import Sampled, sample

    def mixed(*arguments: Any) -> list[Sampled]:
        return [Sampled(**{**vars(row), "document": f"{row.document}?"}) for row in sample(*arguments)]

    monkeypatch.setattr(wrong, mixed)
    with pytest.raises(Damaged, match=r"has another document; nothing was published"):
        await published.publish(chroma(published))
    assert await pointer(published) == before
    assert len(await complete_snapshots(published.store, "docs")) == 1


async def test_publication_killed_while_building_leaves_no_folder_behind(published: PublishBench) -> None:
    left = published.scratch / "copy" / "docs" / "building-left"
    left.mkdir(parents=True)
    (left / "owner").write_text("another worker that has ended", "utf-8")
    await edit(published)
    await published.publish(chroma(published))
    names = sorted(each.name.partition("-")[0] for each in (published.scratch / "copy" / "docs").iterdir())
    assert names == ["held"]
    shutil.rmtree(published.scratch)


async def test_snapshot_file_list_with_a_path_out_of_the_folder_is_refused(published: PublishBench) -> None:
    snapshot = await current_snapshot(published.store, "docs")
    key = f"{snapshot_key('docs', snapshot.version)}/snapshot.json"
    said = json.loads((await published.store.get(key)).body)
    said["files"]["../../evil"] = {"size": 1, "sha256": "0"}
    await published.store.put(key, json.dumps(said).encode())
    with pytest.raises(Exception, match="cannot be part of a snapshot"):
        await current_snapshot(published.store, "docs")
    assert await complete_snapshots(published.store, "docs") == []
    await published.store.delete([key])
    with pytest.raises(NotFound, match="gone"):
        await current_snapshot(published.store, "docs")


@pytest.mark.parametrize(
    ("text", "metadata"),
    [
        (None, None),
        ("{}", None),
        ('{"a": null}', None),
        ('{"a": 1, "b": 1.0, "c": true, "d": "x"}', {"a": 1, "b": 1.0, "c": True, "d": "x"}),
        ('{"n": 9223372036854775807}', {"n": 9223372036854775807}),
        ('{"n": 9223372036854775808}', {"n": "9223372036854775808"}),
        ('{"chroma:document": "x"}', {"_chroma:document": "x"}),
    ],
)
def test_metadata_for_chroma_has_types_that_it_takes(
    text: str | None, metadata: dict[str, Any] | None
) -> None:
    assert chroma_metadata(text) == metadata


def test_rows_are_added_so_that_equal_vectors_are_far_apart() -> None:
    """Next to each other they would be each other's only neighbours in Chroma's graph."""
    vectors = {"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [1.0, 1.0]}
    batches = [_vectors_of(text, vectors) for text in ("aaab", "", "bca", "c")]
    (added,) = spread(batches)
    assert added["id"].to_pylist() == ["0a", "3b", "1c", "1a", "0b", "0c", "2a", "2a"]
    assert list(spread([])) == []


def _vectors_of(text: str, vectors: dict[str, list[float]]) -> pa.RecordBatch:
    made = pa.array([vectors[each] for each in text], pa.list_(pa.float32(), 2))
    return pa.record_batch({"id": [f"{place}{each}" for place, each in enumerate(text)], "vector": made})


async def test_ask_process_that_does_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a Chroma that hangs would hold up all publications for ever."""
    monkeypatch.setattr(children, "STARTED", 0.0)
    with pytest.raises(Damaged, match=r"Chroma did not end within 0 s on 0 rows"):
        await ask("verify", tmp_path, size=0)
    assert not [each for each in psutil.Process().children() if children.MODULE in each.cmdline()]


async def test_children_that_load_chromadb_themselves_publish_and_read(
    published: PublishBench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Other tests fork them off a process that has loaded it."""
    use_own(monkeypatch)
    await published.commit(texts("new"))
    done = await published.publish(open_publication("chroma", published.context(), {}))
    assert (done.rows, done.upserts, done.rebuilt) == (41, 1, "")
    job = Job(folder=str(await _copy(published)))
    reading = ChromaDirectory(job=job, scratch=tmp_path)
    assert {key async for page in reading.pages() for key in page.ids} == set(published.rows)
