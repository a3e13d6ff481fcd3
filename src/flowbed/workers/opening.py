"""Opens workers: beside the requests of a server, or as processes of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.ledger.workers import HoldsWorkers
from flowbed.services.batches import stage
from flowbed.services.batches.jobs import QUEUE as JOBS
from flowbed.services.batches.stage import UPKEEP
from flowbed.services.vector_stores.stage import AT_ONCE as STORES_AT_ONCE
from flowbed.services.vector_stores.stage import QUEUE as STORES
from flowbed.workers import Limits
from flowbed.workers.engines.local import open_local
from flowbed.workers.membership import Timing
from flowbed.workers.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.services.service import Service
    from flowbed.services.stages import Stage

# Seconds between two looks for work that other processes made or died of. Nothing is waited for at the end: a job goes
# on in another process, or with the next start.
BESIDE_REQUESTS = Timing(sweep=1.0, grace=0.0)


def worker_beside_requests(
    service: Service, stages: Sequence[Stage], *, timing: Timing = BESIDE_REQUESTS
) -> Worker:
    """Create the worker of a server's process, with an engine in this process; other processes are told nothing."""
    ledger = service.bed.ledger
    return Worker(
        service.bed.worker(),
        stages,
        {
            JOBS: Limits(worker=stage.AT_ONCE),
            UPKEEP: Limits(worker=1),
            STORES: Limits(worker=STORES_AT_ONCE),
        },
        open_local,
        clock=service.bed.clock,
        hints=service.hints,
        rows=ledger.workers if isinstance(ledger, HoldsWorkers) else None,
        timing=timing,
    )
