"""compaction: commit the deltas that wait, called by a state machine or by the queue that tells of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbed.aws.fields import fields
from flowbed.aws.invocation import Invocation, lambda_handler
from flowbed.errors import Rejected
from flowbed.records.values import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowbed.events.stages import CommitReport

# What the steps of chunked merges were called: one commit does them all.
OPERATIONS = ("process_chunk", "final_merge")


@lambda_handler
async def handler(event: Any, call: Invocation) -> dict[str, Any]:
    """Commit one collection or all; from a queue, answer the messages to send again."""
    said = fields(event)
    if "Records" in said:
        from flowbed.aws.compaction_queue import commit_messages

        return await commit_messages(said["Records"], call)
    _known_operation(said)
    collection = said.get("collection")
    if collection is not None and not isinstance(collection, str):
        raise Rejected(f"collection has to be a text, not {shown(collection)}", param="collection")
    bed = await call.project()
    answered = answer(await bed.commit(collection or None), call)
    from flowbed.aws.statuses import tables, write_statuses

    if tables(bed):
        call.lines.count(StatusesWritten=await write_statuses(bed))
    return answered


def answer(done: CommitReport, call: Invocation) -> dict[str, Any]:
    """Return what a commit did, and count it."""
    for each in done.failures:
        call.lines.tell(each.reason, subject=each.subject)
    call.lines.count(
        Runs=sum(len(each.runs) for each in done.collections.values()),
        Rows=sum(each.rows for each in done.collections.values()),
        Failures=len(done.failures),
    )
    return {
        "status": "compacted",
        "collections": {
            name: {"version": each.version, "runs": len(each.runs), "rows": each.rows}
            for name, each in done.collections.items()
        },
    }


def _known_operation(said: Mapping[str, Any]) -> None:
    operation = said.get("operation")
    if operation is not None and operation not in OPERATIONS:
        raise Rejected(
            f"operation has to be {' or '.join(OPERATIONS)}, not {shown(operation)}", param="operation"
        )
