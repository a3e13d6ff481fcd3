"""A slow tier behind a buffer for writes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from flowbed.embedding.cache.memory import VectorMemory
from flowbed.embedding.cache.write_behind import WriteBehind
from flowbed.errors import Transient

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pytest


class Slow:
    """A tier that answers when released, and records its calls; it fails while `failure` is set."""

    def __init__(self, *, free: bool = True) -> None:
        self.kept: dict[bytes, bytes] = {}
        self.read: list[list[bytes]] = []
        self.written: list[list[bytes]] = []
        self.failure: Exception | None = None
        self.free = asyncio.Event()
        if free:
            self.free.set()

    async def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        self.read.append(list(keys))
        await self._pass()
        return {key: self.kept[key] for key in keys if key in self.kept}

    async def put_many(self, vectors: Mapping[bytes, bytes]) -> None:
        self.written.append(list(vectors))
        await self._pass()
        self.kept.update(vectors)

    async def _pass(self) -> None:
        await self.free.wait()
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure


async def test_write_behind_put_returns_before_the_write() -> None:
    """A pending vector is found at once, and written together with those that arrive meanwhile."""
    slow = Slow(free=False)
    tier = WriteBehind(slow, delay=0)
    for number in range(5):
        await tier.put_many({bytes([number]): b"v%d" % number})
        await asyncio.sleep(0)
        assert await tier.get_many([bytes([number])]) == {bytes([number]): b"v%d" % number}
    assert slow.kept == {}
    slow.free.set()
    await tier.aclose()
    assert slow.kept == {bytes([number]): b"v%d" % number for number in range(5)}
    assert [key for batch in slow.written for key in batch] == [bytes([number]) for number in range(5)]
    assert len(slow.written) == 2


async def test_write_behind_concurrent_reads_are_joined() -> None:
    """Each key is read once, and each caller gets its own answer."""
    slow = Slow(free=False)
    slow.kept = {b"a": b"1", b"b": b"2"}
    tier = WriteBehind(slow, delay=0)
    reads = [asyncio.create_task(tier.get_many([b"a", b"c"]))]
    await asyncio.sleep(0.01)
    reads += [asyncio.create_task(tier.get_many([key])) for key in (b"a", b"b", b"b", b"d")]
    await asyncio.sleep(0.01)
    reads[2].cancel()
    slow.free.set()
    done = await asyncio.gather(*reads, return_exceptions=True)
    assert [each for each in done if isinstance(each, dict)] == [{b"a": b"1"}, {b"a": b"1"}, {b"b": b"2"}, {}]
    assert slow.read == [[b"a", b"c"], [b"a", b"b", b"d"]]


async def test_write_behind_failed_read_fails_all_waiters() -> None:
    """The next read is tried again."""
    slow = Slow()
    slow.failure = Transient("no answer")
    tier = WriteBehind(slow, delay=0)
    done = await asyncio.gather(*(tier.get_many([b"a"]) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(each, Transient) for each in done)
    slow.failure = None
    assert await tier.get_many([b"a"]) == {}


async def test_write_behind_failed_write_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """It raises nothing, logs no contents, and stops no later write."""
    slow = Slow()
    slow.failure = Transient("disk full")
    tier = WriteBehind(slow, delay=0)
    await tier.put_many({b"a": b"1"})
    await tier.aclose()
    assert "1 vectors could not be cached: disk full" in caplog.text
    slow.failure = None
    await tier.put_many({b"b": b"2"})
    await tier.aclose()
    assert slow.kept == {b"b": b"2"}


async def test_write_behind_clear_drops_pending_and_stored_vectors() -> None:
    memory = VectorMemory(limit=10_000, ttl=60)
    tier = WriteBehind(memory, delay=0)
    await tier.put_many({b"a": b"1"})
    await tier.clear()
    assert await tier.get_many([b"a"]) == {}
    slow = Slow()
    kept = WriteBehind(slow, delay=0)
    await kept.put_many({b"a": b"1"})
    await kept.clear()
    assert await kept.get_many([b"a"]) == {b"a": b"1"}


async def test_write_behind_full_buffer_waits_for_the_write() -> None:
    slow = Slow(free=False)
    tier = WriteBehind(slow, limit=10, delay=0)
    await tier.put_many({b"a": b"12345678"})
    late = asyncio.create_task(tier.put_many({b"b": b"12345678"}))
    await asyncio.sleep(0.01)
    assert not late.done()
    slow.free.set()
    await late
    assert set(slow.kept) == {b"a", b"b"}


@given(st.lists(st.tuples(st.sampled_from(["put", "get", "pause"]), st.integers(0, 5)), max_size=40))
def test_write_behind_finds_what_a_plain_tier_finds(steps: list[tuple[str, int]]) -> None:
    """Whatever is put and looked up, in any order; in the end the inner tier has everything."""

    async def run() -> None:
        slow = Slow()
        tier = WriteBehind(slow, delay=0)
        expected: dict[bytes, bytes] = {}
        for number, (step, key) in enumerate(steps):
            if step == "put":
                expected[bytes([key])] = b"v%d" % number
                await tier.put_many({bytes([key]): b"v%d" % number})
            elif step == "get":
                keys = [bytes([key]), bytes([key + 1])]
                assert await tier.get_many(keys) == {
                    each: expected[each] for each in keys if each in expected
                }
            else:
                await asyncio.sleep(0)
        await tier.aclose()
        assert slow.kept == expected

    asyncio.run(run())
