"""find_receipts_realtime: list the receipts that wait to be embedded, page by page."""

from __future__ import annotations

from typing import Any

from flowbed.aws.fields import fields, whole
from flowbed.aws.invocation import Invocation, lambda_handler
from flowbed.aws.receipts import place_of, receipts_after, statuses_of

# 70 bytes each, of a state that may have 256 kB.
MOST = 3_000


@lambda_handler
async def handler(event: Any, call: Invocation) -> dict[str, Any]:
    """List at most `limit` receipts; `last_evaluated_key` is passed on to get the next ones, and null at the end."""
    said = fields(event)
    statuses, place = statuses_of(said), place_of(said.get("last_evaluated_key"))
    limit = min(whole(said, "limit") or MOST, MOST)
    bed = await call.project()
    found: dict[tuple[str, int], dict[str, Any]] = {}
    more = False
    async for at, receipt in receipts_after(place, statuses, bed):
        if len(found) == limit:
            more = True
            break
        place = at
        found.setdefault((receipt["image_id"], receipt["receipt_id"]), receipt)
    call.lines.count(Receipts=len(found))
    return {
        "receipts": list(found.values()),
        "total_receipts": len(found),
        "last_evaluated_key": place.key() if more else None,
    }
