"""Poll one submission: what line_polling and word_polling do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbed.aws.existing.tables import record_runs, record_submission
from flowbed.aws.fields import fields, text
from flowbed.aws.messages import RunMessage, run_entity
from flowbed.errors import Misconfigured, NotFound, Transient

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.aws.invocation import Invocation
    from flowbed.bed import Flowbed
    from flowbed.lanes.outcome import Polled
    from flowbed.ledger import SubmissionRow


async def poll_submission(event: Any, call: Invocation, kind: str) -> dict[str, Any]:
    """Write the results that exist as deltas; `kind` (lines or words) is the collection that is answered first.

    Without `skip_sqs_notification`, the queue of compaction is told of each delta.

    Raises:
        NotFound: the ledger has no such submission.
        Transient: the provider cannot be asked now.
        Misconfigured: it cannot be asked until a setting changes.
    """
    said = fields(event)
    submission = text(said, "batch_id")
    bed = await call.project()
    before = await bed.ledger.submissions.get(submission)
    if before is None:
        raise NotFound(f"the ledger has no submission {submission}: it is of another project")
    polled = await _poll(bed, before)
    row = await bed.ledger.submissions.get(submission) or before
    if not row.ended:
        _raise_failure(row, polled)
    runs = sorted(call.runs(), key=lambda run: (not run["collection"].endswith(kind), run["collection"]))
    answer = await _answer(row, runs, bed)
    call.lines.count(
        Embedded=answer["embedding_count"], Ended=bool(row.ended), Failures=len(polled.tally.failures)
    )
    await record_runs(bed, call)
    await record_submission(bed, call, row)
    if runs and not said.get("skip_sqs_notification", False):
        await _announce(runs, call)
    return answer


async def _announce(runs: Sequence[Mapping[str, Any]], call: Invocation) -> None:
    """Tell the queue of compaction of runs that were recorded.

    Raises:
        Transient: a message could not be sent.
    """
    from flowbed.aws.queues import send  # loads boto3

    messages = [
        RunMessage(
            entity=run_entity(run["run"], run["collection"], run["key"]),
            collection=run["collection"],
            event_name="INSERT",
            record=run["run"],
            at=call.now(),
            region=call.deployment.region,
        )
        for run in runs
    ]
    if failed := await send(messages, call.deployment.queue):
        raise Transient(
            f"{len(failed)} of {len(messages)} messages about deltas were not sent: {failed[min(failed)]};"
            " the schedule of compaction commits them all the same"
        )


async def _poll(bed: Flowbed, row: SubmissionRow) -> Polled:
    from flowbed.lanes.outcome import Polled

    if row.ended:  # by another poll
        return Polled()
    try:
        return await bed.poll(row.id, commit=False)
    except NotFound:  # another poll has ended it meanwhile
        return Polled()


def _raise_failure(row: SubmissionRow, polled: Polled) -> None:
    reasons = [each.reason for each in polled.tally.failures if each.subject == f"submission {row.id}"]
    if not reasons:
        return
    if row.id in polled.blocked:
        raise Misconfigured(f"submission {row.id}: {'; '.join(reasons)}")
    raise Transient(f"submission {row.id}: {'; '.join(reasons)}")


async def _answer(row: SubmissionRow, runs: Sequence[Mapping[str, Any]], bed: Flowbed) -> dict[str, Any]:
    recorded = [await bed.ledger.runs.get(each["run"]) for each in runs]
    embedded = sum(each.rows for each in recorded if each is not None)
    status = _provider_status(row)
    answer: dict[str, Any] = {
        "batch_id": row.id,
        "openai_batch_id": row.job,
        "status": "completed" if row.ended else "pending",
        "batch_status": status,
        "action": _action(row),
        "embedding_count": embedded,
        "results_count": row.done if row.ended else 0,
        "storage": "s3_delta",
        "deltas": [
            {"delta_id": each["run"], "delta_key": each["key"], "collection": each["collection"]}
            for each in runs
        ],
    }
    if runs:
        collection = runs[0]["collection"]
        answer |= {
            "delta_id": runs[0]["run"],
            "delta_key": runs[0]["key"],
            "collection": collection,
            "database": collection,
        }
    return answer


def _provider_status(row: SubmissionRow) -> str:
    """Return the status in the provider's words."""
    if row.ended:
        return row.state
    return "in_progress" if row.state == "submitted" else "validating"


def _action(row: SubmissionRow) -> str:
    """Return what the ancestors of this function call what was done."""
    if not row.ended:
        return "wait"
    if row.state == "cancelled":
        return "handle_cancellation"
    if row.state == "failed":
        return "handle_failure"
    return "process_partial" if row.state == "expired" or row.failed else "process_results"
