"""submit_openai: send one submission to the provider's Batch API, once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbed.aws.existing.tables import record_submission
from flowbed.aws.fields import fields, text
from flowbed.aws.invocation import Invocation, lambda_handler
from flowbed.aws.submissions import submission_of
from flowbed.errors import Misconfigured, NotFound, Rejected, Transient

if TYPE_CHECKING:
    from flowbed.lanes.batch.submit import Submitted
    from flowbed.ledger import SubmissionRow


@lambda_handler
async def handler(event: Any, call: Invocation) -> dict[str, Any]:
    """Submit what find_unembedded returned; called again, it gives the same answer.

    A submission for which the provider's queue has no room is answered with status `waiting`; find_unembedded returns
    it again.
    """
    submission = submission_of(text(fields(event), "s3_key"))
    bed = await call.project()
    row = await bed.ledger.submissions.get(submission)
    if row is None:
        raise NotFound(
            f"the ledger has no submission {submission}: its input was not recorded, or is of another project"
        )
    if row.job or row.ended:
        await record_submission(bed, call, row)
        return _answer(row)
    done = await bed.submit(submission)
    row = await bed.ledger.submissions.get(submission) or row
    if not row.job:
        _raise_failure(row, done)
    call.lines.count(Submitted=len(done.submitted))
    await record_submission(bed, call, row)
    return _answer(row)


def _answer(row: SubmissionRow) -> dict[str, Any]:
    if row.job:
        return {"batch_id": row.id, "openai_batch_id": row.job, "status": "submitted"}
    return {"batch_id": row.id, "status": row.state if row.ended else "waiting"}


def _raise_failure(row: SubmissionRow, done: Submitted) -> None:
    """Raise why a submission has no job.

    Raises:
        Rejected: the provider refused it; its chunks are dead letters.
        Misconfigured: a setting has to change first.
        Transient: the same call may succeed later.
    """
    if not done.failures:
        return
    reason = "; ".join(each.reason for each in done.failures)
    if row.ended:
        raise Rejected(f"submission {row.id}: {reason}")
    if row.id in done.blocked:
        raise Misconfigured(f"submission {row.id}: {reason}")
    raise Transient(f"submission {row.id}: {reason}")
