"""What a worker that has died held is free at once, whatever kind of work it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.ledger import open_ledger
from flowbed.ledger.vector_stores import VectorStoreFileRow, VectorStoreRow
from flowbed.ledger.workers import BATCH_DEATHS, STORE_DEATHS, HoldsWorkers
from flowbed.testing.ledger import job
from flowbed.workers.relieving import relieve

if TYPE_CHECKING:
    from pathlib import Path

PROCESS = "another-host/7/1.00"


async def test_relieve_gives_the_vector_stores_of_a_dead_process_to_others(tmp_path: Path) -> None:
    ledger = await open_ledger("ledger.db", folder=tmp_path, new_id="0" * 32)
    try:
        for name in ("held", "of-another"):
            await ledger.vector_stores.create(VectorStoreRow(id=name, owner="", name="", created=1, active=1))
            row = VectorStoreFileRow(store=name, file="f", filename="f.txt", key="k", created=1)
            await ledger.vector_store_files.attach([row])
        for name, holder in (("held", f"{PROCESS}/stage"), ("of-another", "another-host/8/1.00/stage")):
            assert await ledger.vector_stores.hold(name, worker=holder, now=1, until=100)
        await relieve(ledger, f"{PROCESS}/worker", clock=lambda: 2)
        assert {row.id: row.worker for row in await ledger.vector_stores.due(now=2)} == {
            "held": "",
            "of-another": "another-host/8/1.00/stage",
        }
        assert isinstance(ledger, HoldsWorkers)
        assert await ledger.workers.marks(STORE_DEATHS) == [{"held": 1}]
    finally:
        await ledger.close()


async def test_relieve_counts_a_dead_process_at_each_batch_that_it_held(tmp_path: Path) -> None:
    """Relieving twice, as two workers may, counts it once."""
    ledger = await open_ledger("ledger.db", folder=tmp_path, new_id="0" * 32)
    try:
        for name, holder in (("held", f"{PROCESS}/stage"), ("of-another", "another-host/8/1.00/stage")):
            await ledger.jobs.create(job(name))
            assert await ledger.jobs.hold(name, worker=holder, now=1, until=100)
        for _ in range(2):
            await relieve(ledger, f"{PROCESS}/worker", clock=lambda: 2)
        held = await ledger.jobs.get("held")
        assert held is not None
        assert held.worker == ""
        assert isinstance(ledger, HoldsWorkers)
        assert await ledger.workers.marks(BATCH_DEATHS) == [{"held": 1}]
    finally:
        await ledger.close()
