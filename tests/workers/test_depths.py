"""How much waits in each queue, and for how long."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING

from flowbed.bed import aopen
from flowbed.cli.app import run as main
from flowbed.ledger import BatchRow, open_ledger
from flowbed.ledger.vector_stores import VectorStoreFileRow, VectorStoreRow
from flowbed.ledger.workers import DEATHS, PAUSED, HoldsWorkers
from flowbed.testing.ledger import chunk, job, put, run, submission
from flowbed.workers.depths import Depth, depths
from flowbed.workers.membership import DEATHS_MOST

if TYPE_CHECKING:
    import pytest

SECOND = 1_000_000


async def test_depths_are_what_nobody_holds() -> None:
    ledger = await open_ledger(":memory:", folder=Path(), new_id="0" * 32)
    now = 100 * SECOND
    assert set((await depths(ledger, now=now)).values()) == {Depth()}
    for name, at in (("b1", 10), ("b2", 20)):
        await ledger.batches.register(
            BatchRow(id=name, source="s", key=name, timestamp=at * SECOND, chunks=1)
        )
    await put(ledger, [chunk("c1", batch="b1"), chunk("c2", batch="b2"), chunk("c3", batch="b2")])
    await ledger.runs.record(run("r1", created=40 * SECOND), [], worker="w")
    await ledger.submissions.create(submission(created=50 * SECOND))
    # A provider works on this one, and that one is tried again in a while: no worker could do anything for them.
    await ledger.submissions.create(submission("sub_2", created=1 * SECOND, state="submitted"))
    await ledger.submissions.create(submission("sub_3", created=1 * SECOND, later=now + SECOND))
    for name in ("vs_1", "vs_2", "vs_3"):
        await ledger.vector_stores.create(VectorStoreRow(id=name, owner="", name="", created=1, active=1))
    for name, at in (("vs_1", 80), ("vs_2", 30)):
        file = VectorStoreFileRow(store=name, file="f", filename="f.txt", key="k", created=at * SECOND)
        await ledger.vector_store_files.attach([file])
    await ledger.vector_stores.hold("vs_2", worker="w", now=now, until=now + SECOND)
    await ledger.jobs.create(job("j1", created=60 * SECOND))
    await ledger.jobs.create(job("j2", created=70 * SECOND))
    await ledger.jobs.hold("j1", worker="w", now=now, until=now + SECOND)
    found = await depths(ledger, now=now)
    assert {name: (each.waiting, each.oldest_seconds) for name, each in found.items()} == {
        "embed": (2, 90.0),
        "commit": (1, 60.0),
        "batch": (1, 50.0),
        "jobs": (1, 30.0),
        "vector_stores": (1, 20.0),
        **dict.fromkeys(("index-chunking", "index-embedding", "index-storing"), (0, 0.0)),
    }
    await ledger.close()


async def test_depths_are_without_what_was_given_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No worker takes it, so nothing scales by it; the list of workers names it and the command."""
    (tmp_path / "flowbed.toml").write_text('model = "seeded:8"\n')
    async with await aopen(tmp_path) as bed:
        ledger = bed.ledger
        assert isinstance(ledger, HoldsWorkers)
        for name, at in (("b1", 10), ("b2", 20)):
            await ledger.batches.register(
                BatchRow(id=name, source="s", key=name, timestamp=at * SECOND, chunks=1)
            )
        await put(ledger, [chunk("c1", batch="b1"), chunk("c2", batch="b2")])
        await ledger.runs.record(run("r1", created=40 * SECOND), [], worker="w")
        (name,) = await ledger.runs.collections()
        for _ in range(DEATHS_MOST):
            await ledger.workers.add(DEATHS, ["embed(b1)", f"commit({name})"])
        await ledger.workers.add(DEATHS, ["embed(b2)"])
        found = await depths(ledger, now=100 * SECOND)
        assert {name: each for name, each in found.items() if each.waiting} == {
            "embed": Depth(waiting=1, oldest_seconds=80.0)
        }
        await ledger.workers.mark(PAUSED, "fetch", 1)
    given = ["workers", "list", "--config", str(tmp_path)]
    assert await asyncio.to_thread(main, given) == 0
    said = capsys.readouterr().out
    assert "embed(b1) was given up, since 5 workers died at it" in said
    assert "\nfetch: PAUSED\n" in said
    assert said.startswith("with the engine local, as over SQLite, a worker is not listed")
    assert await asyncio.to_thread(main, [*given, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["given_up"], shown["paused"]) == ({"embed(b1)": 5, f"commit({name})": 5}, ["fetch"])
