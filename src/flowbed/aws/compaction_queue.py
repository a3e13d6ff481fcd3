"""Messages about runs: their deltas are committed together, and each message succeeds or fails for its own."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flowbed.aws.queues import kept_invisible
from flowbed.errors import Error, Rejected
from flowbed.records.values import shown
from flowbed.settings import commit_rules

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.aws.invocation import Invocation
    from flowbed.bed import Flowbed

COLLECTIONS = ("lines", "words")


@dataclass(kw_only=True)
class _Messages:
    """The runs that messages name, by message id; messages that `failed`, and deltas of other producers."""

    runs: dict[str, str] = field(default_factory=dict)
    producers: dict[str, list[str]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


async def commit_messages(records: Sequence[Mapping[str, Any]], call: Invocation) -> dict[str, Any]:
    """Commit the runs that messages name, once for each collection, and return the messages to send again.

    A message whose run was refused is done: the run is a dead letter of the project.
    """
    bed = await call.project()
    heartbeat = commit_rules(bed.settings).heartbeat_seconds
    async with kept_invisible(records, seconds=heartbeat):
        told = await _read(records, bed)
        await _register(told, bed)
        await _commit(told, bed, call)
    for message, reason in told.failed.items():
        call.lines.tell(reason, message_id=message)
    call.lines.count(Messages=len(records), MessagesFailed=len(told.failed))
    return {"batchItemFailures": [{"itemIdentifier": message} for message in told.failed]}


async def _read(records: Sequence[Mapping[str, Any]], bed: Flowbed) -> _Messages:
    told = _Messages()
    for record in records:
        message = str(record.get("messageId", ""))
        try:
            entity = _entity(record)
        except Rejected as error:
            told.failed[message] = str(error)
            continue
        run = str(entity.get("run_id", ""))
        if await bed.ledger.runs.get(run) is not None:
            told.runs[message] = run
        elif keys := _prefixes(entity):
            told.producers[message] = keys
        else:
            told.failed[message] = f"the ledger has no run {shown(run)}, and the message names no delta"
    return told


def _entity(record: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        body = json.loads(record.get("body") or "")
    except ValueError as error:
        raise Rejected(f"the message is not JSON: {error}") from error
    entity = body.get("entity_data") if isinstance(body, dict) else None
    if not isinstance(entity, dict):
        raise Rejected("the message tells of no run: it has no entity_data")
    return entity


def _prefixes(entity: Mapping[str, Any]) -> list[str]:
    """Return the keys of the deltas of a run of another producer."""
    named = [entity.get(f"{name}_delta_prefix") for name in COLLECTIONS] + [entity.get("delta_s3_prefix")]
    return list(dict.fromkeys(each.strip("/") for each in named if isinstance(each, str) and each.strip("/")))


async def _register(told: _Messages, bed: Flowbed) -> None:
    """Register the deltas of other producers, which commits them; one that is refused is a dead letter."""
    for message, keys in told.producers.items():
        try:
            await bed.add_deltas(*keys)
        except Error as error:
            told.failed[message] = str(error)


async def _commit(told: _Messages, bed: Flowbed, call: Invocation) -> None:
    from flowbed.aws.handlers.compaction import answer

    rows = {run: await bed.ledger.runs.get(run) for run in set(told.runs.values())}
    reasons: dict[str, str] = {}
    for collection in sorted({row.collection for row in rows.values() if row is not None}):
        try:
            answer(await bed.commit(collection), call)
        except Error as error:
            reasons[collection] = str(error)
    for message, run in told.runs.items():
        row = await bed.ledger.runs.get(run)
        if row is not None and row.state == "pending":
            told.failed[message] = reasons.get(row.collection, f"run {run} is not committed yet")
