"""find_unembedded: gather the chunks that wait into submissions, for submit_openai."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbed.aws.fields import fields, whole
from flowbed.aws.invocation import Invocation, lambda_handler
from flowbed.aws.submissions import batch_type, carries, of_this_model
from flowbed.storage import bucket_of

if TYPE_CHECKING:
    from flowbed.bed import Flowbed
    from flowbed.ledger import SubmissionRow

UNSUBMITTED = ("ready", "submitting")
# Some 90 kB of a state that may have 256; where there are more, the next call returns them.
MOST = 400


@lambda_handler
async def handler(event: Any, call: Invocation) -> dict[str, Any]:
    """Gather, and return what has to be submitted: also what an earlier call gathered and nobody has submitted.

    A call that was killed after gathering is repeated, so its submissions are in the answer of the next.
    """
    said = fields(event)
    limit = whole(said, "limit")
    bed = await call.project()
    collections = batch_type(said, bed)
    found = await bed.find_unembedded(limit=limit, collections=collections)
    for each in found.failures:
        call.lines.tell(each.reason, subject=each.subject)
    if found.stopped:
        call.lines.tell(found.stopped)
    rows = [
        row
        for row in await of_this_model(bed)
        if row.state in UNSUBMITTED and await carries(row, collections, bed.ledger)
    ][:MOST]
    call.lines.count(Submissions=len(found.submissions), Texts=found.texts, Failures=len(found.failures))
    return {
        "batches": [_batch(row, bed) for row in rows],
        "total_lines": sum(row.texts for row in rows),
        "batch_count": len(rows),
    }


def _batch(row: SubmissionRow, bed: Flowbed) -> dict[str, Any]:
    bucket, prefix = bucket_of(bed.store.url)
    return {"s3_bucket": bucket, "s3_key": f"{prefix}{row.key}", "line_count": row.texts}
