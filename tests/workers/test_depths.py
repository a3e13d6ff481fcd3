"""How much waits in each queue, and for how long."""

from __future__ import annotations

from pathlib import Path

from flowbed.ledger import BatchRow, open_ledger
from flowbed.testing.ledger import chunk, job, put, run, submission
from flowbed.workers.depths import Depth, depths

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
    await ledger.jobs.create(job("j1", created=60 * SECOND))
    await ledger.jobs.create(job("j2", created=70 * SECOND))
    await ledger.jobs.hold("j1", worker="w", now=now, until=now + SECOND)
    found = await depths(ledger, now=now)
    assert {name: (each.waiting, each.oldest_seconds) for name, each in found.items()} == {
        "embed": (2, 90.0),
        "commit": (1, 60.0),
        "batch": (1, 50.0),
        "jobs": (1, 30.0),
        **dict.fromkeys(("index-chunking", "index-embedding", "index-storing"), (0, 0.0)),
    }
    await ledger.close()
