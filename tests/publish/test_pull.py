"""Readers that pull snapshots."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.publishing import read_plainly

from flowbed.errors import Misconfigured, NotFound, Rejected, Transient
from flowbed.publish import open_publication
from flowbed.publish.chroma import LIST, current_snapshot, pointer_key, snapshot_key
from flowbed.publish.chroma.pull import latest, pull
from flowbed.publish.chroma.readers import leased, leased_versions
from flowbed.testing.faults import Fault, FaultyStore, unavailable
from flowbed.testing.publication import numbered

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flowbed.testing.publication import PublishBench


async def test_pull_of_a_snapshot_opens_in_chroma(published: PublishBench, tmp_path: Path) -> None:
    done = await pull(published.store, "docs", tmp_path / "mine")
    assert (done.rows, done.reused) == (40, 0)
    assert latest(tmp_path / "mine") == done.path
    found = await asyncio.to_thread(read_plainly, done.path, "docs")
    assert sorted(found["ids"]) == sorted(published.rows)


async def test_pull_into_a_relative_folder_is_below_the_current_one(
    published: PublishBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = await pull(published.store, "docs", Path("mine"))
    assert (tmp_path / done.path).is_dir()
    assert latest(Path("mine")).resolve() == (tmp_path / done.path).resolve()


async def test_pull_of_the_same_snapshot_transfers_nothing(published: PublishBench, tmp_path: Path) -> None:
    first = await pull(published.store, "docs", tmp_path / "mine")
    store = FaultyStore(published.store)
    again = await pull(store, "docs", tmp_path / "mine")
    assert (again.path, again.downloaded) == (first.path, 0)
    assert [operation for operation, _ in store.calls if operation == "stream"] == []


async def test_pull_interrupted_is_continued_with_the_files_that_are_missing(
    published: PublishBench, tmp_path: Path
) -> None:
    failing = FaultyStore(published.store, [Fault(operation="stream", calls={3}, before=unavailable)])
    with pytest.raises(Transient):
        await pull(failing, "docs", tmp_path / "mine")
    with pytest.raises(NotFound):
        latest(tmp_path / "mine")
    store = FaultyStore(published.store)
    done = await pull(store, "docs", tmp_path / "mine")
    snapshot = await current_snapshot(published.store, "docs")
    assert (
        len([operation for operation, _ in store.calls if operation == "stream"]) == len(snapshot.files) - 2
    )
    assert done.downloaded + done.reused == snapshot.size


async def test_pull_of_a_damaged_file_places_nothing(published: PublishBench, tmp_path: Path) -> None:
    snapshot = await current_snapshot(published.store, "docs")
    key = f"{snapshot_key('docs', snapshot.version)}/chroma.sqlite3"
    body = bytearray((await published.store.get(key)).body)
    body[5000] ^= 1
    await published.store.put(key, bytes(body))
    with pytest.raises(Transient, match="--reconcile"):
        await pull(published.store, "docs", tmp_path / "mine")
    assert [each.name for each in (tmp_path / "mine").iterdir() if not each.name.startswith(".")] == []


async def test_pull_of_a_file_longer_than_its_list_says_is_cut(
    published: PublishBench, tmp_path: Path
) -> None:
    """A download without an end must not fill the disk."""
    snapshot = await current_snapshot(published.store, "docs")
    sent = 0

    class Endless(FaultyStore):
        async def stream(self, key: str) -> AsyncIterator[bytes]:
            nonlocal sent
            while True:
                sent += 1
                yield bytes(1 << 20)

    with pytest.raises(Transient, match=r"longer than the [\d,]+ bytes of its list"):
        await pull(Endless(published.store), "docs", tmp_path / "mine")
    assert sent <= 3 * (max(file.size for file in snapshot.files.values()) // (1 << 20) + 1)
    assert not [each for each in (tmp_path / "mine").rglob("*") if each.name in snapshot.files]


async def test_pull_without_a_pointer_is_no_empty_collection(published: PublishBench, tmp_path: Path) -> None:
    await published.store.delete([pointer_key("docs")])
    with pytest.raises(NotFound, match=r"latest-pointer.*although 1 snapshots exist"):
        await pull(published.store, "docs", tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


async def test_pull_from_a_mount_copies_to_it_once(published: PublishBench, tmp_path: Path) -> None:
    (tmp_path / "mount").mkdir()
    snapshot = await current_snapshot(published.store, "docs")
    first = await pull(published.store, "docs", tmp_path / "one", mode="efs", root=tmp_path / "mount")
    assert first.downloaded == snapshot.size
    on_mount = tmp_path / "mount" / "snapshots" / "docs" / snapshot.version
    assert (on_mount / "chroma.sqlite3").is_file()
    store = FaultyStore(published.store)
    second = await pull(store, "docs", tmp_path / "two", mode="efs", root=tmp_path / "mount")
    assert (second.downloaded, second.reused) == (0, snapshot.size)
    assert [operation for operation, _ in store.calls if operation == "stream"] == []
    found = await asyncio.to_thread(read_plainly, second.path, "docs")
    assert found["count"] == 40


async def test_pull_in_mode_auto_goes_around_a_mount_that_fails(
    published: PublishBench, tmp_path: Path
) -> None:
    (tmp_path / "mount").write_text("not a folder", "utf-8")
    done = await pull(published.store, "docs", tmp_path / "one", mode="auto", root=tmp_path / "mount")
    assert done.rows == 40
    with pytest.raises(Misconfigured, match="CHROMA_ROOT"):
        await pull(published.store, "docs", tmp_path / "two", mode="efs", root=tmp_path / "mount")


async def test_pull_in_mode_auto_creates_no_mount(published: PublishBench, tmp_path: Path) -> None:
    """Where the file system is not mounted, snapshots must not fill the disk below its mount point."""
    done = await pull(published.store, "docs", tmp_path / "one", mode="auto", root=tmp_path / "mount")
    assert done.rows == 40
    assert not (tmp_path / "mount").exists()


async def test_pull_again_after_a_file_was_deleted_brings_it_back(
    published: PublishBench, tmp_path: Path
) -> None:
    """The other files are not downloaded again."""
    first = await pull(published.store, "docs", tmp_path / "mine")
    size = (first.path / "chroma.sqlite3").stat().st_size
    (first.path / "chroma.sqlite3").unlink()
    second = await pull(published.store, "docs", tmp_path / "mine")
    assert (second.path, second.downloaded) == (first.path, size)
    assert (await asyncio.to_thread(read_plainly, second.path, "docs"))["count"] == 40


async def test_pull_after_a_reader_changed_its_files_is_not_confused(
    published: PublishBench, tmp_path: Path
) -> None:
    """Chroma writes into a directory that it opens; the next snapshot takes nothing from there that differs."""
    first = await pull(published.store, "docs", tmp_path / "mine")
    for path in first.path.rglob("*.bin"):
        path.write_bytes(b"changed")
    await published.commit(numbered(3, color="blue"))
    await published.publish(open_publication("chroma", published.context(), {}))
    second = await pull(published.store, "docs", tmp_path / "mine")
    assert second.version > first.version
    assert latest(tmp_path / "mine") == second.path
    found = await asyncio.to_thread(read_plainly, second.path, "docs")
    assert sorted(found["ids"]) == sorted(published.rows)


async def test_pulls_at_once_into_one_folder_download_once(published: PublishBench, tmp_path: Path) -> None:
    done = await asyncio.gather(*(pull(published.store, "docs", tmp_path / "mine") for _ in range(4)))
    snapshot = await current_snapshot(published.store, "docs")
    assert sum(each.downloaded for each in done) == snapshot.size
    assert len({each.path for each in done}) == 1


async def test_lease_of_a_reader_names_its_snapshot_until_it_ends(published: PublishBench) -> None:
    now = 2**62
    async with leased(published.store, "docs", "me") as snapshot:
        assert await leased_versions(published.store, "docs", now=0) == {snapshot.version}
        assert await leased_versions(published.store, "docs", now=now) == set()  # long after it was renewed
    assert await leased_versions(published.store, "docs", now=0) == set()


async def test_pull_keeps_the_snapshot_before_and_removes_older_ones(
    published: PublishBench, tmp_path: Path
) -> None:
    seen = [(await pull(published.store, "docs", tmp_path / "mine")).path]
    directory = snapshot_key("docs", seen[0].name)
    for number in range(1, 3):
        # The same snapshot under a later name, which costs no build.
        published.clock.advance(seconds=1)
        await _copy(published, directory, number)
        seen.append((await pull(published.store, "docs", tmp_path / "mine")).path)
    assert [path.exists() for path in seen] == [False, True, True]
    shutil.rmtree(tmp_path / "mine")


async def _copy(bench: PublishBench, prefix: str, number: int) -> None:
    version = f"20990101_00000{number}_000000"
    async for listed in bench.store.list(prefix):
        body = (await bench.store.get(listed.key)).body
        if listed.key.endswith("snapshot.json"):
            body = body.replace(prefix.rpartition("/")[2].encode(), version.encode())
        name = listed.key.removeprefix(f"{prefix}/")
        await bench.store.put(f"{snapshot_key('docs', version)}/{name}", body)
    await bench.store.put(pointer_key("docs"), version.encode())


@pytest.mark.parametrize("named", ["../../outside", "/outside", "20260101_000000_000000"])
async def test_pull_of_a_list_that_names_another_version_writes_nothing(
    published: PublishBench, tmp_path: Path, named: str
) -> None:
    """The version becomes the name of a folder, so a store cannot choose one outside."""
    snapshot = await current_snapshot(published.store, "docs")
    key = f"{snapshot_key('docs', snapshot.version)}/{LIST}"
    await published.store.put(key, replace(snapshot, version=named).to_json())
    with pytest.raises(Rejected, match=r"snapshot\.json is damaged: it describes 'docs'"):
        await pull(published.store, "docs", tmp_path / "deep" / "mine")
    assert not (tmp_path / "deep").exists()
    assert not (tmp_path / "outside").exists()


async def test_pull_into_what_cannot_be_written_says_so(published: PublishBench, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Misconfigured, match=r"docs cannot be pulled into .*file \(File exists"):
        await pull(published.store, "docs", tmp_path / "file")
    (tmp_path / "mine" / "latest").mkdir(parents=True)
    with pytest.raises(Misconfigured, match=r"mine/latest\): choose a folder"):
        await pull(published.store, "docs", tmp_path / "mine")
    assert not list((tmp_path / "mine").glob(".latest*"))
    assert [each async for each in published.store.list("docs/snapshot/readers")] == []
