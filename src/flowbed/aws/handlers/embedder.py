"""embedder: embed the batch files that an event tells of, and write deltas."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from flowbed.aws.existing.tables import record_runs
from flowbed.aws.invocation import Invocation, lambda_handler
from flowbed.aws.refused import receives, record_refused
from flowbed.errors import Rejected, Transient
from flowbed.events.notifications import read_event
from flowbed.records import Problem
from flowbed.records.events import Handled
from flowbed.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    refused = _refused(messages)
    orphans = await _orphans(messages, refused, bed)
    told = await _take_in(event, messages, refused, bed)
    for problem in told.failures:
        call.lines.tell(problem.reason, subject=problem.subject)
    failed = set(told.messages) - orphans
    call.lines.tell(
        "taken in",
        batches=list(told.batch_ids),
        later=list(told.later),
        ignored=dict(told.ignored),
    )
    stats = await _embed(told.batch_ids, bed)
    await record_runs(bed, call)
    call.lines.count(
        Batches=told.batches,
        Later=len(told.later),
        Orphans=len(orphans),
        Embedded=stats.sent,
        Chunks=stats.chunks,
        Tokens=stats.tokens,
        Failures=len(told.failures) + stats.failed,
    )
    await record_refused(list(messages.values()), refused, failed=told.messages, bed=bed, at=call.now())
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


async def _take_in(
    event: Any, messages: Mapping[str, Any], refused: Mapping[str, str], bed: Flowbed
) -> Handled:
    """Take in an event; of messages those that can be read, which may be none."""
    try:
        return await bed.take_in(json.dumps(event))
    except Rejected:
        if not messages:
            raise
    failures = (Problem(subject=message, reason=reason) for message, reason in refused.items())
    return Handled(failures=tuple(failures), messages=tuple(refused))


def _refused(messages: Mapping[str, Any]) -> dict[str, str]:
    """Return why messages cannot be read, by id: they become dead letters here, and the queue's after some tries."""
    found = {}
    for message, record in messages.items():
        try:
            problems = read_event(json.dumps([record.get("body")]).encode()).problems
        except Rejected as error:
            found[message] = str(error).partition(": ")[2]  # without the place in the event
        else:
            if problems:
                found[message] = problems[0].reason
    return found


async def _orphans(messages: Mapping[str, Any], refused: Mapping[str, str], bed: Flowbed) -> set[str]:
    """Return the messages that came often enough, and tell only of files that no fetch has recorded."""
    found = set()
    for message, record in messages.items():
        if message in refused or receives(record) < MOST_RECEIVES:
            continue  # the queue moves what is refused to its dead letters
        told = await bed.take_in(json.dumps({"Records": [record]}))
        if told.later and not told.failures:
            log.warning(
                "%s was never recorded: its fetch has died, and the next one repeats it", told.later[0]
            )
            found.add(message)
    return found


def _messages(event: Any) -> dict[str, Any]:
    """Return the messages of SQS by id; none of another event."""
    records = event.get("Records") if isinstance(event, dict) else None
    return {
        str(each.get("messageId", "")): each
        for each in (records if isinstance(records, list) else ())
        if isinstance(each, dict) and each.get("eventSource") == "aws:sqs"
    }


def _failures(messages: Any) -> dict[str, Any]:
    return {"batchItemFailures": [{"itemIdentifier": each} for each in sorted(messages)]}
