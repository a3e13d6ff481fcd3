"""stream_processor: tell the queue of compaction of each run that was recorded in the ledger's table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbed.aws.fields import fields
from flowbed.aws.invocation import Invocation, lambda_handler
from flowbed.aws.streams import told_runs
from flowbed.errors import Rejected
from flowbed.records.values import shown

if TYPE_CHECKING:
    from collections.abc import Sequence


@lambda_handler
async def handler(event: Any, call: Invocation) -> dict[str, Any]:
    """Send a message for each collection of each run; answer the first record that has to come again.

    A record that cannot be read becomes a dead letter and is left: it would keep the stream from going on.
    """
    records = fields(event).get("Records")
    if not isinstance(records, list):
        raise Rejected(f"Records has to be the list of a stream, not {shown(records)}", param="Records")
    messages, unreadable = [], []
    for record in records:
        try:
            messages += told_runs(record, at=call.now())
        except Rejected as error:
            unreadable.append((record, str(error)))
    failed: list[str] = []
    if messages:
        from flowbed.aws.queues import send  # loads boto3

        refused = await send(messages, call.deployment.queue)
        for place, reason in refused.items():
            call.lines.tell(f"a message was not sent: {reason}", run=messages[place].run)
        failed = [messages[place].record for place in sorted(refused)]
    if unreadable:
        await _record(unreadable, call)
    call.lines.count(Records=len(records), Messages=len(messages) - len(failed), MessagesFailed=len(failed))
    # All records from the first one on come again; those sent twice are committed once.
    return {"batchItemFailures": [{"itemIdentifier": each} for each in failed[:1]]}


async def _record(unreadable: Sequence[tuple[Any, str]], call: Invocation) -> None:
    """Record why records cannot be read; if that fails, the call does, and all of them come again."""
    from flowbed.aws.refused import unreadable_record

    letters = [unreadable_record(record, reason, at=call.now()) for record, reason in unreadable]
    for letter in letters:
        call.lines.tell(letter.reason, subject=letter.subject, table=letter.owner)
    call.lines.count(Failures=len(letters))
    await (await call.dead_letters()).add(letters)
