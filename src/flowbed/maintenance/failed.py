"""The chunks that failed, and those among them that fail in run after run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.records import Status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flowbed.lanes.contexts import Context
    from flowbed.ledger import ChunkRow

# Runs in which a text failed for a passing reason, from which on the reason is not likely to pass.
REPEATED = 3


async def failed_chunks(context: Context) -> AsyncIterator[list[ChunkRow]]:
    """Iterate over the chunks that are FAILED, batch by batch."""
    states, now = {Status.FAILED}, context.clock()
    async for page in context.ledger.chunks.batches(states, now=now, sources=()):
        for batch in page:
            yield await context.ledger.chunks.ready(batch, states, now=now, sources=())


def fails_repeatedly(row: ChunkRow) -> bool:
    """Tell whether a chunk has failed in several runs for reasons that should have passed."""
    return row.failure == "transient" and row.attempts >= REPEATED
