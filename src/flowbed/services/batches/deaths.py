"""Processes that died at a job: where it does not get on in between, one of its lines may be what kills them.

A ledger that keeps no workers does not count them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.ledger.workers import BATCH_DEATHS, HoldsWorkers

if TYPE_CHECKING:
    from flowbed.ledger import Ledger

# Processes that may die at a job before it has failed: as many as at a task.
DEATHS_MOST = 5
# A process that dies takes all its jobs with it. From so many deaths on, those of one process are begun one after the
# other: the harmless ones get on, and are cleared.
SUSPECT = 2


async def note_death(ledger: Ledger, job: str) -> int:
    """Count a process that died while it held a job, and return how many did."""
    if not isinstance(ledger, HoldsWorkers):
        return 0
    return (await ledger.workers.add(BATCH_DEATHS, [job]))[job]


async def deaths_at(ledger: Ledger, job: str) -> int:
    """Return how many processes died at a job since it got on."""
    if not isinstance(ledger, HoldsWorkers):
        return 0
    return (await ledger.workers.marks(BATCH_DEATHS))[0].get(job, 0)


async def forget_deaths(ledger: Ledger, job: str) -> None:
    """Forget who died at a job, since it has got on or ended."""
    if isinstance(ledger, HoldsWorkers):
        await ledger.workers.unmark(BATCH_DEATHS, [job])
