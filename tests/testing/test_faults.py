"""The store that fails to order."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from flowbed.errors import Conflict, NotFound, Transient
from flowbed.storage import Store, open_store
from flowbed.testing.clock import START, FixedClock
from flowbed.testing.faults import Fault, FaultyStore, unavailable
from flowbed.testing.storage import StoreContract, keys

if TYPE_CHECKING:
    from pathlib import Path


class TestFaultlessStore(StoreContract):
    """With no fault due, a faulty store is as good as the one behind it."""

    in_memory = True

    def open_store(self, folder: Path) -> Store:
        return FaultyStore(open_store("memory://", folder=folder), [Fault(key="never")])


@pytest.fixture
def behind(tmp_path: Path) -> Store:
    return open_store("memory://", folder=tmp_path)


async def test_an_error_before_leaves_the_call_undone(behind: Store) -> None:
    """A fault before a call means that the call was not made; the next one is."""
    store = FaultyStore(behind, [Fault(operation="create", calls=[1], before=unavailable)])
    with pytest.raises(Transient):
        await store.create("k", b"x")
    with pytest.raises(NotFound):
        await behind.get("k")
    await store.create("k", b"x")
    assert store.calls == [("create", "k"), ("create", "k")]


async def test_an_error_after_leaves_the_call_done(behind: Store) -> None:
    """A fault after a call loses its answer and not its effect, so that trying again finds it."""
    store = FaultyStore(behind, [Fault(operation="create", after=unavailable)])
    with pytest.raises(Transient):
        await store.create("k", b"x")
    assert (await behind.get("k")).body == b"x"
    with pytest.raises(Conflict):
        await store.create("k", b"x")


async def test_faults_are_chosen_by_operation_key_and_count(behind: Store) -> None:
    """Only the calls that match all of operation, key pattern and number fail."""
    store = FaultyStore(behind, [Fault(operation="put", key="*/delta/*", calls=[2], before=unavailable)])
    await store.put("c/delta/1", b"x")
    await store.put("c/other/1", b"x")
    with pytest.raises(Transient):
        await store.put("c/delta/2", b"x")
    await store.put("c/delta/3", b"x")
    assert await keys(store, "c/delta") == ["c/delta/1", "c/delta/3"]


async def test_streams_lists_and_deletes_fail_too(behind: Store) -> None:
    """Every operation can be made to fail."""
    await behind.put("k", b"x")
    store = FaultyStore(behind, [Fault(after=unavailable)])
    with pytest.raises(Transient):
        _ = [piece async for piece in store.stream("k")]
    with pytest.raises(Transient):
        await keys(store, "")
    with pytest.raises(Transient):
        await store.delete(["other", "k"])
    assert await keys(behind, "") == []


async def test_chance_is_repeatable(behind: Store) -> None:
    """The same seed fails the same calls, about as often as was asked for; another seed fails others."""

    async def outcomes(seed: int) -> list[bool]:
        store = FaultyStore(behind, [Fault(probability=0.3, delay=0.0, before=unavailable)], seed=seed)
        failed = []
        for _ in range(200):
            try:
                await store.put("k", b"x")
                failed.append(False)
            except Transient:
                failed.append(True)
        return failed

    first = await outcomes(1)
    assert first == await outcomes(1)
    assert first != await outcomes(2)
    assert 30 < sum(first) < 90


@pytest.mark.parametrize(("moment", "stored"), [("before", False), ("after", True)])
def test_a_crash_ends_the_process_at_the_call(tmp_path: Path, moment: str, stored: bool) -> None:
    """`die` kills the process before or after the effect of the call that was named."""
    code = (
        "import asyncio, pathlib\nfrom flowbed.storage import open_store\n"
        "from flowbed.testing.faults import Fault, FaultyStore, die\n"
        f"store = FaultyStore(open_store({str(tmp_path)!r}, folder=pathlib.Path()), "
        f"[Fault(operation='put', calls=[2], {moment}=die)])\n"
        "async def main():\n    await store.put('first', b'x')\n    await store.put('second', b'x')\n"
        "    await store.put('third', b'x')\nasyncio.run(main())"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert (tmp_path / "first").exists()
    assert (tmp_path / "second").exists() == stored
    assert not (tmp_path / "third").exists()


def test_a_fixed_clock_moves_when_told() -> None:
    """The clock stands still, and advances by what it is told to."""
    clock = FixedClock()
    assert clock() == clock() == START
    assert clock.advance(seconds=1.5, microseconds=2) == START + 1_500_002 == clock()
