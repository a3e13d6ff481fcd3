"""Garbage collection of snapshots, and those who hold them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flowbed.publish.chroma import (
    Snapshot,
    move_pointer,
    pointer_key,
    read_pointer,
    snapshot_key,
)
from flowbed.publish.chroma.garbage import delete_snapshot, unneeded_snapshots
from flowbed.publish.chroma.readers import leased
from flowbed.publish.chroma.uploading import claims_key
from flowbed.records import canonical
from flowbed.storage import open_store

if TYPE_CHECKING:
    from pathlib import Path

    from flowbed.storage import Store

LATER = 2**62  # long after everything was written


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store("store", folder=tmp_path)


def version(number: int) -> str:
    return f"20260101_0000{number:02d}_000000"


async def put(store: Store, number: int, *, parent: int | None = None, whole: bool = True) -> str:
    """Write a small snapshot."""
    name = version(number)
    key = snapshot_key("docs", name)
    await store.put(f"{key}/chroma.sqlite3", b"rows")
    if whole:
        snapshot = Snapshot(
            version=name,
            collection="docs",
            name="docs",
            graph={},
            index_version=number,
            space="s",
            model="m",
            dimensions=1,
            rows=1,
            superseded=0,
            chromadb="1",
            created=1,
            parent=version(parent) if parent is not None else None,
        )
        await store.put(f"{key}/snapshot.json", snapshot.to_json())
    return name


async def point(store: Store, number: int) -> None:
    before = await read_pointer(store, "docs")
    await move_pointer(store, "docs", version(number), before=before)


async def found(store: Store, *, now: int = 0, before: int = LATER) -> list[str]:
    """List what would be deleted; at time 0 every lease and claim is fresh."""
    pages = unneeded_snapshots(store, "docs", now=now, before=before, dead=lambda worker: worker == "dead")
    return [each.key.rpartition("/")[2] async for each in pages]


async def test_gc_of_a_replaced_snapshot_deletes_it(store: Store) -> None:
    await put(store, 1)
    await put(store, 2, parent=1)
    await point(store, 2)
    assert await found(store) == [version(1)]
    await delete_snapshot(store, snapshot_key("docs", version(1)))
    assert [each async for each in store.list("docs/snapshot/timestamped/" + version(1))] == []
    assert await found(store) == []


async def test_gc_of_many_later_names_keeps_the_snapshot_that_the_pointer_names(store: Store) -> None:
    """Names do not decide: four orphans that sort after the current snapshot do not push it out."""
    await put(store, 1)
    await point(store, 1)
    for number in range(2, 7):
        await put(store, number, parent=1)
    assert version(1) not in await found(store)


async def test_gc_of_a_snapshot_that_a_reader_pulls_waits_for_it(store: Store) -> None:
    await put(store, 1)
    await point(store, 1)
    async with leased(store, "docs", "slow"):
        await put(store, 2, parent=1)
        await point(store, 2)
        assert await found(store) == []
    assert await found(store) == [version(1)]


async def test_gc_of_a_snapshot_replaced_just_now_waits_for_readers_without_a_lease(store: Store) -> None:
    """It may be older than a day and have been current until a moment ago."""
    await put(store, 1)
    await point(store, 1)
    (old,) = [
        each.modified
        async for each in store.list(f"docs/snapshot/timestamped/{version(1)}")
        if "sqlite" in each.key
    ]
    await put(store, 2, parent=1)
    await point(store, 2)
    assert await found(store, before=old + 1) == []


async def test_gc_without_a_pointer_deletes_nothing(store: Store) -> None:
    await put(store, 1)
    await put(store, 2, parent=1)
    assert await found(store) == []
    await store.put(pointer_key("docs"), b"???")
    assert await found(store) == []


async def test_gc_of_an_upload_in_progress_waits_while_its_publisher_lives(store: Store) -> None:
    await put(store, 1)
    await point(store, 1)
    await put(store, 2, whole=False)
    claim = f"{claims_key('docs')}/{version(2)}.json"
    await store.put(claim, canonical({"worker": "alive", "since": 1}))
    assert await found(store) == []
    await store.put(claim, canonical({"worker": "dead", "since": 1}))
    assert await found(store) == [version(2)]
    await delete_snapshot(store, snapshot_key("docs", version(2)))
    assert [each async for each in store.list(claims_key("docs"))] == []


async def test_gc_of_an_old_claim_does_not_wait_for_ever(store: Store) -> None:
    await put(store, 1)
    await point(store, 1)
    await put(store, 2, whole=False)
    await store.put(f"{claims_key('docs')}/{version(2)}.json", canonical({"worker": "alive", "since": 1}))
    assert await found(store, now=LATER) == [version(2)]
