"""The index in S3: Lance's own requests go through the faulty proxy too."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.servers.s3 import REGION, variables

from flowbed.errors import Transient
from flowbed.index import lease
from flowbed.index.active_space import begin_space
from flowbed.index.compaction import compact
from flowbed.index.datasets import Datasets
from flowbed.index.versions import state
from flowbed.storage import open_store
from flowbed.testing.s3proxy import (
    CONFLICT,
    CUT,
    INTERNAL_ERROR,
    PRECONDITION_FAILED,
    SLOW_DOWN,
    Answer,
    S3Fault,
    S3Proxy,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from tests.support.servers.s3 import S3Server

    from flowbed.storage import Store


@pytest.fixture(scope="module")
def running_proxy(s3_server: S3Server) -> Iterator[S3Proxy]:
    """A way to the server."""
    with S3Proxy(s3_server.url) as proxy:
        yield proxy


@pytest.fixture
def proxy(running_proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch) -> S3Proxy:
    """A way to the server that has no faults yet."""
    running_proxy.reset()
    for name, value in variables(running_proxy.url).items():
        monkeypatch.setenv(name, value)
    return running_proxy


def opened(proxy: S3Proxy, folder: Path) -> Store:
    """Open the store of a test anew, as another process would."""
    options = {"endpoint": proxy.url, "region": REGION}
    return open_store(f"s3://bucket/{folder.name}", folder=folder, options=options)


@pytest.fixture
def s3(bench: Any, proxy: S3Proxy, tmp_path: Path) -> Any:
    """The parts of an index, with the store in S3."""
    store = opened(proxy, tmp_path)
    return replace(bench, store=store, datasets=Datasets(store))


async def again(call: Callable[[], Awaitable[object]]) -> None:
    """Call, and repeat while the error asks for it."""
    for _ in range(10):
        with contextlib.suppress(Transient):
            await call()
            return
    await call()


MANIFESTS = "*/_versions/*.manifest"


@pytest.mark.parametrize(
    "fault",
    [
        S3Fault(method="PUT", key=MANIFESTS, calls=[1, 2], after=INTERNAL_ERROR),
        S3Fault(method="PUT", key=MANIFESTS, calls=[1, 2], after=CUT),
        S3Fault(method="PUT", key=MANIFESTS, calls=[1, 2], before=INTERNAL_ERROR),
        S3Fault(method="PUT", key=MANIFESTS, calls=[1, 2], before=SLOW_DOWN),
        S3Fault(method="PUT", key=MANIFESTS, calls=[1, 2], before=CUT),
        S3Fault(method="PUT", key=MANIFESTS, calls=[1, 2], before=CONFLICT),
        S3Fault(method="PUT", key=MANIFESTS, calls=[1, 2], before=PRECONDITION_FAILED),
        S3Fault(method="PUT", key="*/data/*", calls=[1], after=INTERNAL_ERROR),
        S3Fault(method="PUT", key="*/data/*", calls=[1], after=CUT),
        S3Fault(method="GET", calls=range(3, 100, 3), truncate=True),
        S3Fault(method="GET", calls=range(3, 100, 3), before=CUT),
    ],
    ids=str,
)
async def test_s3_commit_survives_each_fault(s3: Any, proxy: S3Proxy, tmp_path: Path, fault: S3Fault) -> None:
    """A new reader finds every committed row once."""
    await s3.lay_down([s3.upsert(f"r{number}", 1) for number in range(5)])
    await s3.commit()
    proxy.order(fault)
    await s3.lay_down([s3.upsert(f"r{number}", 2, f"new {number}") for number in range(3, 8)])
    try:
        await s3.commit()
    except Transient:  # Lance does not ask again for a listing that was cut off: the next commit does
        await s3.commit()
    assert proxy.struck
    proxy.order()
    reader = replace(s3, datasets=Datasets(opened(proxy, tmp_path)))
    rows = await reader.rows()
    assert {id: row["version"] for id, row in rows.items()} == {
        **{f"r{number}": 1 for number in range(3)},
        **{f"r{number}": 2 for number in range(3, 8)},
    }
    assert await s3.ledger.runs.pending("docs", limit=10) == []


@pytest.mark.parametrize(("many", "seed"), [(3, 0), pytest.param(4, 1, marks=pytest.mark.long)])
async def test_s3_concurrent_commits_over_a_bad_network_lose_no_row(
    s3: Any, proxy: S3Proxy, tmp_path: Path, many: int, seed: int
) -> None:
    """Many writers commit overlapping rows, each so many times, and each until it succeeds."""
    proxy.order(
        S3Fault(method="PUT", key=MANIFESTS, probability=0.1, after=INTERNAL_ERROR),
        S3Fault(method="PUT", key=MANIFESTS, probability=0.1, after=CUT),
        S3Fault(method="PUT", key=MANIFESTS, probability=0.1, before=CONFLICT),
        S3Fault(probability=0.02, before=SLOW_DOWN),
        S3Fault(probability=0.02, before=CUT),
        S3Fault(method="GET", probability=0.02, truncate=True),
        S3Fault(probability=0.2, delay=0.05, jitter=True),
        S3Fault(probability=0.05, reorder=True),
    )
    proxy.seed(seed)

    async def committing(name: int) -> None:
        mine = replace(s3, store=(store := opened(proxy, tmp_path)), datasets=Datasets(store))
        for step in range(many):
            rows = [
                mine.upsert(f"shared{number}", 10 * step + name + 1, f"{name}.{step}") for number in range(3)
            ]
            await mine.lay_down([*rows, mine.upsert(f"own{name}.{step}", 1)])
            await again(mine.commit)

    await asyncio.gather(*(committing(name) for name in range(many)))
    assert proxy.struck
    proxy.order()
    await s3.commit()
    reader = replace(s3, datasets=Datasets(opened(proxy, tmp_path)))
    rows = await reader.rows()
    assert {row["document"] for id, row in rows.items() if id.startswith("shared")} == {
        f"{many - 1}.{many - 1}"
    }
    assert set(rows) == {f"shared{number}" for number in range(3)} | {
        f"own{name}.{step}" for name in range(many) for step in range(many)
    }


async def test_s3_create_that_meets_a_conflict_is_tried_again(s3: Any, proxy: S3Proxy) -> None:
    """S3 refuses a conditional write while it handles another one, and may keep neither."""
    await s3.lay_down([s3.upsert("r", 1)])
    proxy.order(S3Fault(method="PUT", key=MANIFESTS, before=CONFLICT))
    with pytest.raises(Transient, match="another process was creating it at the same time; run again"):
        await s3.commit()
    proxy.order()
    await s3.commit()
    assert set(await s3.rows()) == {"r"}


@pytest.mark.parametrize("requests", range(1, 5))
async def test_s3_slow_creator_does_not_overwrite_a_filled_dataset(
    s3: Any, s3_server: S3Server, tmp_path: Path, requests: int
) -> None:
    """It found no dataset and was delayed while another created and filled it."""
    await s3.lay_down([s3.upsert("r", 1)])
    live = await begin_space(s3.store, "docs", s3.space, now=1)
    filled = threading.Event()
    with S3Proxy(s3_server.url, [S3Fault(calls=[requests + 1], until=filled)]) as slow:
        creating = asyncio.create_task(Datasets(opened(slow, tmp_path)).writable(live))
        await asyncio.to_thread(slow.wait_for, requests)
        await s3.commit()
        filled.set()
        await creating
    assert set(await s3.rows()) == {"r"}


@pytest.mark.parametrize("after", [INTERNAL_ERROR, CUT], ids=["error", "cut"])
async def test_s3_compaction_survives_lost_responses(
    s3: Any, proxy: S3Proxy, tmp_path: Path, after: Answer
) -> None:
    """The manifests are written although the server answers with an error."""
    for number in range(6):
        await s3.lay_down([s3.upsert(f"r{number}", 1)], {f"r{number - 1}": 2} if number % 3 == 2 else None)
        await s3.commit()
    before = await s3.rows()
    live = await begin_space(s3.store, "docs", s3.space, now=1)
    proxy.order(S3Fault(method="PUT", key=MANIFESTS, calls=range(1, 100, 2), after=after))
    await again(
        lambda: compact(
            live, datasets=s3.datasets, vector_index="always", oldest_pending=None, now=s3.clock()
        )
    )
    assert proxy.struck
    proxy.order()
    reader = replace(s3, datasets=Datasets(opened(proxy, tmp_path)))
    assert await reader.rows() == before
    state_now = await state(live, datasets=reader.datasets)
    assert (state_now.fragments, state_now.unindexed_rows) == (1, 0)


async def test_s3_lease_of_a_silent_holder_is_taken_over(
    s3: Any, proxy: S3Proxy, s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silence is measured by the rival's own clock."""
    monkeypatch.setattr(lease, "TTL", 0.06)  # beats, and looks, many times a second
    time = iter(range(0, 100_000, 5))

    def hold(store: Store, owner: str) -> Any:
        return lease.held(
            store, "docs", owner=owner, dead=lambda _: False, monotonic=lambda: float(next(time)), wait=True
        )

    with S3Proxy(s3_server.url) as cut_off:
        async with hold(opened(cut_off, tmp_path), "one") as first:
            cut_off.order(S3Fault(before=CUT))
            async with hold(s3.store, "other") as second:
                assert second.epoch == first.epoch + 1
                cut_off.order()
            assert b'"other"' in (await s3.store.get(first.key)).body


@pytest.mark.parametrize("after", [INTERNAL_ERROR, CUT], ids=["error", "cut"])
async def test_s3_lease_is_released_although_responses_are_lost(
    s3: Any, proxy: S3Proxy, after: Answer
) -> None:
    proxy.order(S3Fault(method="PUT", key="*/lease.json", after=after))
    for number in range(2):
        async with lease.held(
            s3.store, "docs", owner=f"{number}", dead=lambda _: False, monotonic=lambda: 0.0, wait=False
        ) as held:
            assert held.epoch == number + 1
    assert proxy.struck == 4
