"""list_pending: name the submissions whose jobs have to be asked about."""

from __future__ import annotations

from typing import Any

from flowbed.aws.fields import fields, whole
from flowbed.aws.invocation import Invocation, lambda_handler
from flowbed.aws.submissions import batch_type, carries, of_this_model, to_poll

# Some 120 kB of a state that may have 256.
MOST = 1_000


@lambda_handler
async def handler(event: Any, call: Invocation) -> list[dict[str, Any]]:
    """List the submissions at the provider, oldest first, at most `max_batches` of them.

    Where there are more, every quarter of an hour starts with others.
    """
    said = fields(event)
    bed = await call.project()
    collections = batch_type(said, bed)
    rows = [row for row in await of_this_model(bed) if await carries(row, collections, bed.ledger)]
    limit = min(whole(said, "max_batches") or MOST, MOST)
    chosen = to_poll(rows, now=bed.clock(), limit=limit)
    call.lines.count(Pending=len(rows))
    return [{"batch_id": row.id, "openai_batch_id": row.job} for row in chosen]
