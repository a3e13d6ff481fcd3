"""Messages of queues and records of streams that no call can work on: dead letters, which `flowbed why` finds.

A message is found by its id, a record by the keys of its item, with or without its sequence number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbed.events.notifications import MESSAGE, RECORD
from flowbed.ledger import DeadLetter

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from flowbed.bed import Flowbed


async def record_refused(
    records: Sequence[Mapping[str, Any]],
    refused: Mapping[str, str],
    *,
    failed: Collection[str],
    bed: Flowbed,
    at: int,
) -> None:
    """Record why messages are `refused`, by id, at a time (µs); forget those that came again and did not fail."""
    letters = bed.ledger.dead_letters
    added, done = [], []
    for record in records:
        message = str(record.get("messageId", ""))
        if message in refused:
            reason = refused[message]
            added.append(
                DeadLetter(kind=MESSAGE, owner=_queue(record), subject=message, reason=reason, at=at)
            )
        elif message not in failed and receives(record) > 1:
            done.append(message)
    if added:
        await letters.add(added)
    if done:
        await letters.remove(MESSAGE, subjects=done)


def receives(record: Mapping[str, Any]) -> int:
    """Return how often a message was received."""
    said = str(record.get("attributes", {}).get("ApproximateReceiveCount", "1"))
    return int(said) if said.isdecimal() else 1


def unreadable_record(record: Any, reason: str, *, at: int) -> DeadLetter:
    """Return the dead letter of a record of a table's stream that cannot be read, found at a time (µs)."""
    said = record if isinstance(record, dict) else {}
    change = said.get("dynamodb")
    change = change if isinstance(change, dict) else {}
    number = change.get("SequenceNumber") or said.get("eventID") or "without a number"
    _, _, place = str(said.get("eventSourceARN", "")).partition(":table/")
    return DeadLetter(
        kind=RECORD,
        owner=place.partition("/")[0] or "stream",
        subject=f"{_keys(change.get('Keys'))}:{number}",
        reason=reason,
        at=at,
    )


def _keys(keys: Any) -> str:
    """Return the keys of an item as text, in the order of their names."""
    if not isinstance(keys, dict) or not keys:
        return "record without keys"
    return " ".join(
        str(next(iter(value.values()), "")) if isinstance(value, dict) else str(value)
        for _, value in sorted(keys.items())
    )


def _queue(record: Mapping[str, Any]) -> str:
    return str(record.get("eventSourceARN", "")).rpartition(":")[2] or "queue"
