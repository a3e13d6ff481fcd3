"""compaction: commit the deltas that wait, called by a state machine or by the queue that tells of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbed.aws.existing.tables import RECORDS, STATUSES, written_tables
from flowbed.aws.fields import fields
from flowbed.aws.invocation import Invocation, lambda_handler
from flowbed.errors import Rejected
from flowbed.records.values import shown

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from flowbed.bed import Flowbed
    from flowbed.events.stages import CommitReport

# What the steps of chunked merges were called: one commit does them all.
OPERATIONS = ("process_chunk", "final_merge")


@lambda_handler
async def handler(event: Any, call: Invocation) -> dict[str, Any]:
    """Commit one collection or all; from a queue, answer the messages to send again."""
    said = fields(event)
    if "Records" in said:
        from flowbed.aws.compaction_queue import commit_messages

        return await commit_messages(_messages(said["Records"]), call)
    _known_operation(said)
    collection = said.get("collection")
    if collection is not None and not isinstance(collection, str):
        raise Rejected(f"collection has to be a text, not {shown(collection)}", param="collection")
    bed = await call.project()
    done = await bed.commit(collection or None)
    answered = answer(done, call)
    await after_commit(bed, committed_runs(done), call, whole=True)
    return answered


async def after_commit(bed: Flowbed, runs: Collection[str], call: Invocation, *, whole: bool) -> None:
    """Write what others read: into existing tables, and snapshots to a shared file system.

    `whole` also writes what earlier calls were to write, and statuses.
    """
    if whole and written_tables(bed.settings, STATUSES):
        from flowbed.aws.existing.statuses import write_statuses

        call.lines.count(StatusesWritten=await write_statuses(bed))
    if written_tables(bed.settings, RECORDS):
        from flowbed.aws.existing.run_records import write_run_records

        call.lines.count(RecordsWritten=await write_run_records(bed, runs, unfinished=whole))
    if bed.settings.publish:
        from flowbed.aws.snapshots import copy_snapshots

        call.lines.count(SnapshotsCopied=await copy_snapshots(bed))


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


def committed_runs(done: CommitReport) -> list[str]:
    """Return the runs that a commit has merged."""
    return [run for each in done.collections.values() for run in each.runs]


def _messages(records: Any) -> list[dict[str, Any]]:
    if not isinstance(records, list) or not all(isinstance(each, dict) for each in records):
        raise Rejected(
            f"Records has to be the list of a queue's messages, not {shown(records)}", param="Records"
        )
    return records


def _known_operation(said: Mapping[str, Any]) -> None:
    operation = said.get("operation")
    if operation is not None and operation not in OPERATIONS:
        raise Rejected(
            f"operation has to be {' or '.join(OPERATIONS)}, not {shown(operation)}", param="operation"
        )
