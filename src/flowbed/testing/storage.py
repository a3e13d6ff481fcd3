"""The contract of a store, as tests to subclass.

    class TestMine(StoreContract):
        def open_store(self, folder):
            return Mine(folder)

Needs pytest and pytest-asyncio (in `auto` mode).
"""

from __future__ import annotations

import asyncio
import contextlib
import tracemalloc
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import pytest

from flowbed.errors import Conflict, NotFound, Rejected, Transient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from flowbed.storage import Store

# Names that have confused stores: separators of URLs, encoded-looking text, and Flowbed's own ids.
ODD_KEYS = [
    "IMAGE#7f3c#RECEIPT#00001#LINE#00002",
    "ends#1",
    "per%20cent/100%/%2F",
    "with space/and  two",
    "question?mark&ampersand=1+1",
    "ünïcödé/日本語/🧾",
    "e\u0301-and-\u00e9",
    "back\\slash:colon*star~tilde",
    ".hidden/.file",
    "a/b/c/d/e/f/g/h/deep.json",
    "x" * 255,
]

BAD_KEYS = [
    "",
    "/",
    "/absolute",
    "trailing/",
    "empty//name",
    ".",
    "..",
    "../escape",
    "a/../../escape",
    "a/./b",
    "nul\0",
    "new\nline",
    "\ud800",
    "x" * 256,
    "/".join(["name"] * 256),
]

# Bytes of an object so large that holding it in memory would show, and how many streaming may hold.
LARGE = 50 << 20
HELD = 24 << 20


async def halves(*pieces: bytes, error: Exception | None = None) -> AsyncIterator[bytes]:
    """Yield the pieces, and then raise `error`, if given."""
    for piece in pieces:
        await asyncio.sleep(0)
        yield piece
    if error is not None:
        raise error


async def keys(store: Store, prefix: str) -> list[str]:
    """Return the sorted keys below a prefix."""
    return sorted([listed.key async for listed in store.list(prefix)])


class StoreContract(ABC):
    """Subclass it and implement `open_store`; pytest then runs every test below.

    Set `in_memory` if objects are kept in this process's memory, and `more_than_a_page` to a lower number of objects
    if the store lists fewer at a time.
    """

    in_memory = False
    more_than_a_page = 1_100

    @abstractmethod
    def open_store(self, folder: Path) -> Store:
        """Open an empty store; `folder` is empty, and used by this test only."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        """Return a new store for each test."""
        return self.open_store(tmp_path)

    async def test_get_returns_last_put(self, store: Store) -> None:
        """An object is read as it was last put, even if it is empty."""
        await store.put("a/b", b"first")
        await store.put("a/b", b"second")
        await store.put("empty", b"")
        assert (await store.get("a/b")).body == b"second"
        assert (await store.get("empty")).body == b""
        assert [piece async for piece in store.stream("empty") if piece] == []

    async def test_etag_follows_the_body(self, store: Store) -> None:
        """Two reads of one state have the same etag; another body has another."""
        await store.put("k", b"first")
        first = await store.get("k")
        assert first.etag
        assert (await store.get("k")).etag == first.etag
        await store.put("k", b"other")
        assert (await store.get("k")).etag != first.etag

    @pytest.mark.parametrize("key", ["absent", "there", "there/is/more/below"])
    async def test_get_missing_key_is_not_found(self, store: Store, key: str) -> None:
        """Reading a missing object, a folder, or a key below an object raises NotFound."""
        await store.put("there/is/more", b"x")
        await store.put("there/is/more2", b"x")
        with pytest.raises(NotFound, match=key):
            await store.get(key)
        with pytest.raises(NotFound, match=key):
            _ = [piece async for piece in store.stream(key)]

    async def test_create_existing_key_is_conflict(self, store: Store) -> None:
        """A second create of a key is a Conflict and keeps the first body; its etag is that of a read."""
        etag = await store.create("k", b"first")
        with pytest.raises(Conflict, match="k"):
            await store.create("k", b"second")
        stored = await store.get("k")
        assert stored.body == b"first"
        assert stored.etag == etag

    async def test_create_concurrent_one_wins(self, store: Store) -> None:
        """Of 8 concurrent creates of one key one succeeds, and its body is stored."""
        bodies = [f"creator {number}".encode() for number in range(8)]
        outcomes = await asyncio.gather(*(store.create("k", body) for body in bodies), return_exceptions=True)
        won = [body for body, outcome in zip(bodies, outcomes, strict=True) if isinstance(outcome, str)]
        assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == len(bodies) - 1
        assert won == [(await store.get("k")).body]

    async def test_replace_succeeds_once_per_etag(self, store: Store) -> None:
        """A replacement succeeds once for an etag; a second one is a Conflict and changes nothing."""
        old = await store.create("k", b"first")
        new = await store.replace("k", b"second", etag=old)
        with pytest.raises(Conflict, match="k"):
            await store.replace("k", b"third", etag=old)
        stored = await store.get("k")
        assert (stored.body, stored.etag) == (b"second", new)

    async def test_replace_missing_object_is_conflict(self, store: Store) -> None:
        """A deleted object cannot be replaced, and is not created instead."""
        etag = await store.create("k", b"first")
        await store.delete(["k"])
        for key in ("k", "never/there"):
            with pytest.raises(Conflict, match=key):
                await store.replace(key, b"second", etag=etag)
            with pytest.raises(NotFound):
                await store.get(key)

    async def test_replace_concurrent_counters_lose_nothing(self, store: Store) -> None:
        """8 tasks that increment one number by replacing it, with retries on Conflict, lose no step."""
        await store.create("counter", b"0 by nobody")

        async def count(name: int) -> None:
            for step in range(5):
                await count_up(store, "counter", f"{name}.{step}")

        async with asyncio.TaskGroup() as group:
            for name in range(8):
                group.create_task(count(name))
        assert (await store.get("counter")).body.split()[0] == b"40"

    async def test_stream_large_object_uses_little_memory(self, store: Store) -> None:
        """50 MB are written and read in pieces, and never held whole."""
        piece = bytes(range(256)) * 4096

        async def produced() -> AsyncIterator[bytes]:
            for _ in range(LARGE // len(piece)):
                yield bytes(piece)

        tracemalloc.start()
        try:
            await store.put("large", produced())
            size = largest = 0
            async for read in store.stream("large"):
                size += len(read)
                largest = max(largest, len(read))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert size == LARGE
        assert largest < HELD
        assert self.in_memory or peak < HELD

    async def test_put_stream_is_stored_in_order(self, store: Store) -> None:
        """A stream of pieces of any size, even empty ones, is stored as their concatenation."""
        pieces = [b"", b"a", b"b" * 3_000_000, b"", b"c" * 70_000, b"d"]
        await store.put("k", halves(*pieces))
        assert b"".join([piece async for piece in store.stream("k")]) == b"".join(pieces)
        assert (await store.get("k")).body == b"".join(pieces)

    async def test_put_failing_stream_changes_nothing(self, store: Store) -> None:
        """If the stream raises, its error is raised, and the old object, or none, remains."""
        await store.put("old", b"old")
        for key in ("old", "new"):
            with pytest.raises(ZeroDivisionError):
                await store.put(key, halves(b"x" * 6_000_000, b"y", error=ZeroDivisionError()))
        assert (await store.get("old")).body == b"old"
        assert await keys(store, "") == ["old"]

    async def test_put_cancelled_stream_changes_nothing(self, store: Store) -> None:
        """If a put of a stream is cancelled, the old object remains."""
        await store.put("k", b"old")
        begun = asyncio.Event()

        async def endless() -> AsyncIterator[bytes]:
            yield b"x" * 6_000_000
            begun.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(store.put("k", endless()))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await store.get("k")).body == b"old"
        assert await keys(store, "") == ["k"]

    async def test_list_matches_whole_folder_names(self, store: Store) -> None:
        """Listing a folder shows what is below it, but no folder or object whose name merely starts the same."""
        for key in ("a/1", "a/b/2", "ab/3", "a.json", "z"):
            await store.put(key, key.encode())
        assert await keys(store, "a") == ["a/1", "a/b/2"]
        assert await keys(store, "a/") == ["a/1", "a/b/2"]
        assert await keys(store, "") == ["a.json", "a/1", "a/b/2", "ab/3", "z"]
        assert await keys(store, "z") == []
        assert await keys(store, "nothing/here") == []

    async def test_folders_lists_direct_subfolders(self, store: Store) -> None:
        """The direct subfolders of a prefix are listed once each, in order, without objects and deeper folders."""
        for key in ("b/1", "a/x/1", "a/y/2", "a/z", "c"):
            await store.put(key, b"x")
        assert list(await store.folders("")) == ["a", "b"]
        assert list(await store.folders("a")) == ["x", "y"]
        assert list(await store.folders("nothing/here")) == []

    async def test_list_reports_size_and_time(self, store: Store) -> None:
        """A listing has the size of each object and its time of writing, in microseconds since 1970."""
        await store.put("k", b"12345")
        (listed,) = [listed async for listed in store.list("")]
        assert listed.size == 5
        assert listed.modified > 1_700_000_000_000_000

    async def test_list_more_than_a_page_is_complete(self, store: Store) -> None:
        """A listing of more than a page has every object once, and can be abandoned."""
        names = [f"folder/{number:05d}" for number in range(self.more_than_a_page)]
        for start in range(0, len(names), 100):
            await asyncio.gather(*(store.put(name, b"") for name in names[start : start + 100]))
        assert await keys(store, "folder") == names
        async for _ in store.list(""):
            break

    async def test_delete_removes_only_named_keys(self, store: Store) -> None:
        """Deleting removes the named keys and nothing else; missing keys, or none at all, are no error."""
        for key in ("a/1", "a/2", "b"):
            await store.put(key, b"x")
        await store.delete(["a/1", "never/there"])
        await store.delete(["a/1"])
        await store.delete([])
        assert await keys(store, "") == ["a/2", "b"]
        await store.delete(["a/2", "b"])
        assert await keys(store, "") == []
        await store.put("a", b"the name of a folder that held something")
        assert await keys(store, "") == ["a"]

    @pytest.mark.parametrize("key", ODD_KEYS)
    async def test_unusual_keys_are_supported(self, store: Store, key: str) -> None:
        """A key with unusual characters is written, read, listed and deleted unchanged."""
        etag = await store.create(key, b"first")
        await store.replace(key, b"second", etag=etag)
        assert (await store.get(key)).body == b"second"
        assert await keys(store, "") == [key]
        await store.put(key, halves(b"third"))
        assert b"".join([piece async for piece in store.stream(key)]) == b"third"
        if "/" in key:
            assert await keys(store, key.rpartition("/")[0]) == [key]
        await store.delete([key])
        assert await keys(store, "") == []

    @pytest.mark.parametrize("key", BAD_KEYS)
    async def test_invalid_keys_are_rejected(self, store: Store, key: str) -> None:
        """A key that is empty, absolute, too long, outside the store or not writable is Rejected by every call."""
        with pytest.raises(Rejected):
            await store.get(key)
        with pytest.raises(Rejected):
            await anext(aiter(store.stream(key)))
        with pytest.raises(Rejected):
            await store.put(key, b"x")
        with pytest.raises(Rejected):
            await store.put(key, halves(b"x"))
        with pytest.raises(Rejected):
            await store.create(key, b"x")
        with pytest.raises(Rejected):
            await store.replace(key, b"x", etag="etag")
        with pytest.raises(Rejected):
            await store.delete([key])
        with pytest.raises(Rejected):
            store.location(key)
        assert await keys(store, "") == []

    async def test_location_differs_by_key(self, store: Store) -> None:
        """Each key has its own place for Lance, always the same one."""
        assert store.location("a/index") == store.location("a/index")
        assert store.location("a/index").uri != store.location("b/index").uri


async def count_up(store: Store, key: str, name: str) -> None:
    """Increment the number at the start of an object and append `name`, by replacing it.

    The names make all bodies differ, and show after a lost answer whether this step was already counted.
    """
    while True:
        stored = await store.get(key)
        number, _, names = stored.body.decode().partition(" by ")
        if name in names.split():
            return
        with contextlib.suppress(Conflict, Transient):
            body = f"{int(number) + 1} by {names} {name}"
            await store.replace(key, body.encode(), etag=stored.etag)
            return
