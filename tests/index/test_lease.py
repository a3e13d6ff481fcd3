"""The times of a maintenance lease are settings, and a holder that is silent for longer loses it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from flowbed.errors import Conflict
from flowbed.index.lease import LeaseTimes, held
from flowbed.storage import open_store

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from flowbed.index.lease import Lease
    from flowbed.storage import Store

QUICK = LeaseTimes(seconds=0.6, heartbeat=0.1)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"), folder=tmp_path)


def alive(_: str) -> bool:
    return False


async def body(store: Store) -> dict[str, object]:
    found: dict[str, object] = json.loads((await store.get("docs/lease.json")).body)
    return found


async def test_lease_is_renewed_as_often_as_set_and_names_its_time(store: Store) -> None:
    async with held(store, "docs", owner="one", dead=alive, monotonic=lambda: 0.0, wait=False, times=QUICK):
        first = await body(store)
        for _ in range(1_000):
            if (await body(store))["seq"] != first["seq"]:
                break
            await asyncio.sleep(0.02)
        else:
            pytest.fail("the lease was not renewed")
        assert first["ttl_s"] == QUICK.seconds
    assert (await body(store))["released"] is True


async def test_lease_of_a_silent_holder_is_taken_over_after_the_time_set(store: Store) -> None:
    """By the rival's own clock alone; without waiting it gives up at once."""
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.5  # the rival looks twice a second
        return now

    silent = LeaseTimes(seconds=0.6, heartbeat=3_600)

    def hold(owner: str, *, wait: bool) -> AbstractAsyncContextManager[Lease]:
        return held(store, "docs", owner=owner, dead=alive, monotonic=clock, wait=wait, times=silent)

    async with hold("one", wait=False):
        with pytest.raises(Conflict, match="one is compacting"):
            async with hold("two", wait=False):
                pass
        async with asyncio.timeout(20), hold("two", wait=True):
            assert (await body(store))["owner"] == "two"
