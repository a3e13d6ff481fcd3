"""embedder: embed the batch files that an event tells of, and write deltas."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from flowbed.aws.invocation import Invocation, lambda_handler
from flowbed.errors import Rejected, Transient
from flowbed.telemetry import log

if TYPE_CHECKING:
    from flowbed.bed import Flowbed
    from flowbed.lanes.failures import RunStats

# A message received so often tells of a file of a fetch that died before it was recorded: the next fetch writes it
# again, and tells of it again.
MOST_RECEIVES = 5


@lambda_handler
async def handler(event: Any, call: Invocation) -> dict[str, Any]:
    """Take in what an event tells of, and embed it; from SQS, answer the messages to send again.

    On the batch lane nothing is embedded: what was taken in waits for find_unembedded.
    """
    messages = _messages(event)
    bed = await call.project()
    failed: set[str] = set()
    orphans = await _orphans(event, messages, bed)
    try:
        told = await bed.take_in(json.dumps(event))
    except Rejected as error:
        if not messages:
            raise
        call.lines.tell(str(error))
        return _failures(messages.keys() - orphans)
    for problem in told.failures:
        call.lines.tell(problem.reason, subject=problem.subject)
    failed |= set(told.messages) - orphans
    call.lines.tell(
        "taken in",
        batches=list(told.batch_ids),
        later=list(told.later),
        ignored=dict(told.ignored),
    )
    stats = await _embed(told.batch_ids, bed)
    call.lines.count(
        Batches=told.batches,
        Later=len(told.later),
        Orphans=len(orphans),
        Embedded=stats.sent,
        Chunks=stats.chunks,
        Tokens=stats.tokens,
        Failures=len(told.failures) + stats.failed,
    )
    if stats.stopped:
        if not messages:
            raise Transient(stats.stopped)
        log.warning("%s", stats.stopped)
        failed = set(messages) - orphans
    if messages:
        return _failures(failed)
    if told.later:
        raise Transient(f"{told.later[0]} is not recorded yet: a fetch is about to do that")
    return {"embedded": stats.sent, "chunks": stats.chunks}


async def _embed(batches: tuple[str, ...], bed: Flowbed) -> RunStats:
    from flowbed.lanes.failures import RunStats

    if not batches or bed.settings.lane == "batch":
        return RunStats()
    return await bed.embed_batches(*batches)


async def _orphans(event: Any, messages: dict[str, int], bed: Flowbed) -> set[str]:
    """Return the messages that came often enough, and tell only of files that no fetch has recorded."""
    found = set()
    for message in [each for each, receives in messages.items() if receives >= MOST_RECEIVES]:
        records = [each for each in event["Records"] if each.get("messageId") == message]
        try:
            told = await bed.take_in(json.dumps({"Records": records}))
        except Rejected:
            continue  # a poison message: the queue moves it to its dead letters
        if told.later and not told.failures:
            log.warning(
                "%s was never recorded: its fetch has died, and the next one repeats it", told.later[0]
            )
            found.add(message)
    return found


def _messages(event: Any) -> dict[str, int]:
    """Return how often each message of SQS was received, by its id; none for another event."""
    records = event.get("Records") if isinstance(event, dict) else None
    found = {}
    for each in records if isinstance(records, list) else ():
        if isinstance(each, dict) and each.get("eventSource") == "aws:sqs":
            receives = str(each.get("attributes", {}).get("ApproximateReceiveCount", "1"))
            found[str(each.get("messageId", ""))] = int(receives) if receives.isdecimal() else 1
    return found


def _failures(messages: Any) -> dict[str, Any]:
    return {"batchItemFailures": [{"itemIdentifier": each} for each in sorted(messages)]}
