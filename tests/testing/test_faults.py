"""The store with faults on demand."""

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


async def test_fault_before_a_call_prevents_it(behind: Store) -> None:
    store = FaultyStore(behind, [Fault(operation="create", calls=[1], before=unavailable)])
    with pytest.raises(Transient):
        await store.create("k", b"x")
    with pytest.raises(NotFound):
        await behind.get("k")
    await store.create("k", b"x")
    assert store.calls == [("create", "k"), ("create", "k")]


async def test_fault_after_a_call_loses_only_its_answer(behind: Store) -> None:
    store = FaultyStore(behind, [Fault(operation="create", after=unavailable)])
    with pytest.raises(Transient):
        await store.create("k", b"x")
    assert (await behind.get("k")).body == b"x"
    with pytest.raises(Conflict):
        await store.create("k", b"x")


async def test_fault_affects_calls_by_operation_key_and_number(behind: Store) -> None:
    store = FaultyStore(behind, [Fault(operation="put", key="*/delta/*", calls=[2], before=unavailable)])
    await store.put("c/delta/1", b"x")
    await store.put("c/other/1", b"x")
    with pytest.raises(Transient):
        await store.put("c/delta/2", b"x")
    await store.put("c/delta/3", b"x")
    assert await keys(store, "c/delta") == ["c/delta/1", "c/delta/3"]


async def test_fault_applies_to_every_operation(behind: Store) -> None:
    await behind.put("k", b"x")
    store = FaultyStore(behind, [Fault(after=unavailable)])
    with pytest.raises(Transient):
        _ = [piece async for piece in store.stream("k")]
    with pytest.raises(Transient):
        await keys(store, "")
    with pytest.raises(Transient):
        await store.delete(["other", "k"])
    assert await keys(behind, "") == []


async def test_fault_probability_is_repeatable(behind: Store) -> None:
    """About the given share fails; another seed fails others."""

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
def test_die_ends_the_process_before_or_after_the_call(tmp_path: Path, moment: str, stored: bool) -> None:
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


def test_fixed_clock_moves_only_when_advanced() -> None:
    clock = FixedClock()
    assert clock() == clock() == START
    assert clock.advance(seconds=1.5, microseconds=2) == START + 1_500_002 == clock()
