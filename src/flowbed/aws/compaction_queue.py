"""Messages about runs: their deltas are committed together, and each message succeeds or fails for its own."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flowbed.aws.queues import kept_invisible
from flowbed.aws.refused import record_refused
from flowbed.errors import Error, Rejected
from flowbed.ledger.text import is_unstorable
from flowbed.records.values import shown
from flowbed.settings import commit_rules

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.aws.invocation import Invocation
    from flowbed.bed import Flowbed

# Fields that name the deltas of a run of another producer.
PREFIXES = ("lines_delta_prefix", "words_delta_prefix", "delta_s3_prefix")


@dataclass(kw_only=True)
class _Messages:
    """The runs that messages name, by message id; messages that `failed`, and deltas of other producers.

    Those `refused` have failed, and would fail again.
    """

    runs: dict[str, list[str]] = field(default_factory=dict)
    producers: dict[str, list[str]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def refuse(self, message: str, reason: str) -> None:
        """Note that a message would fail again."""
        self.failed[message] = self.refused[message] = reason


async def commit_messages(records: Sequence[Mapping[str, Any]], call: Invocation) -> dict[str, Any]:
    """Commit the runs that messages name, once for each collection, and return the messages to send again.

    A message whose run was refused is done: the run is a dead letter of the project. One that tells of no run is a dead
    letter itself.
    """
    from flowbed.aws.handlers.compaction import after_commit

    bed = await call.project()
    heartbeat = commit_rules(bed.settings).heartbeat_seconds
    async with kept_invisible(records, seconds=heartbeat):
        told = await _read(records, bed)
        await _register(told, bed)
        await _commit(told, bed, call)
        await after_commit(bed, {run for runs in told.runs.values() for run in runs}, call, whole=False)
    await record_refused(records, told.refused, failed=told.failed, bed=bed, at=call.now())
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
            told.refuse(message, str(error))
            continue
        keys = _prefixes(entity)
        if runs := await _own_runs(entity, keys, bed):
            told.runs[message] = runs
        elif keys:
            told.producers[message] = keys
        else:
            run = shown(entity.get("run_id", ""))
            told.refuse(message, f"the ledger has no run {run}, and the message names no delta")
    return told


async def _own_runs(entity: Mapping[str, Any], keys: Sequence[str], bed: Flowbed) -> list[str]:
    """Return the runs of this project that a message names, by id or by their deltas; all, or none.

    A record of an existing table has an id of its own, and names the deltas of two runs.
    """
    run = str(entity.get("run_id", ""))
    if await bed.ledger.runs.get(run) is not None:
        return [run]
    named = list(dict.fromkeys(key.rpartition("/")[2] for key in keys))
    known = [run for run in named if await bed.ledger.runs.get(run) is not None]
    return known if known == named else []


def _entity(record: Mapping[str, Any]) -> Mapping[str, Any]:
    said = record.get("body")
    try:
        body = json.loads(said if isinstance(said, str) else "")
    except RecursionError as error:
        raise Rejected("the message is not JSON: nested too deeply") from error
    except ValueError as error:
        raise Rejected(f"the message is not JSON: {error}") from error
    entity = body.get("entity_data") if isinstance(body, dict) else None
    if not isinstance(entity, dict):
        raise Rejected("the message tells of no run: it has no entity_data")
    named = {"run_id": str(entity.get("run_id", "")), **{name: entity.get(name) for name in PREFIXES}}
    for name, value in named.items():
        if isinstance(value, str) and is_unstorable(value):
            raise Rejected(f"{name} of the message is {shown(value)}: it holds a NUL or half of a character")
    return entity


def _prefixes(entity: Mapping[str, Any]) -> list[str]:
    """Return the keys of the deltas of a run of another producer."""
    named = [entity.get(name) for name in PREFIXES]
    return list(dict.fromkeys(each.strip("/") for each in named if isinstance(each, str) and each.strip("/")))


async def _register(told: _Messages, bed: Flowbed) -> None:
    """Register the deltas of other producers, which commits them; one that is refused is a dead letter."""
    for message, keys in told.producers.items():
        for key in keys:  # one that is missing stops no other
            try:
                await bed.add_deltas(key)
            except Rejected as error:
                told.refuse(message, str(error))
            except Error as error:
                told.failed[message] = str(error)


async def _commit(told: _Messages, bed: Flowbed, call: Invocation) -> None:
    from flowbed.aws.handlers.compaction import answer

    named = {run for runs in told.runs.values() for run in runs}
    rows = {run: await bed.ledger.runs.get(run) for run in named}
    reasons: dict[str, str] = {}
    for collection in sorted({row.collection for row in rows.values() if row is not None}):
        try:
            answer(await bed.commit(collection), call)
        except Error as error:
            reasons[collection] = str(error)
    for message, runs in told.runs.items():
        for run in runs:
            row = await bed.ledger.runs.get(run)
            if row is not None and row.state == "pending":
                told.failed[message] = reasons.get(row.collection, f"run {run} is not committed yet")
