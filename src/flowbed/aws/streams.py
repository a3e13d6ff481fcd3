"""Records of a DynamoDB stream that tell of runs: of Flowbed's ledger, and of tables in the existing layout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbed.aws.messages import RunMessage, run_entity
from flowbed.errors import Rejected
from flowbed.records.values import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

COLLECTIONS = ("lines", "words")


def told_runs(record: Any, *, at: int) -> list[RunMessage]:
    """Return the messages that a record gives cause for; `at` is the time (µs).

    Raises:
        Rejected: the record is none of a stream, or its run lacks a field.
    """
    change = record.get("dynamodb") if isinstance(record, dict) else None
    if not isinstance(change, dict):
        raise Rejected("a record of the stream has no field dynamodb")
    image, old = (_image(change, name) for name in ("NewImage", "OldImage"))
    kind = str(record.get("eventName"))
    if kind == "INSERT" and _value(image, "TYPE") == "COMPACTION_RUN":
        found = list(_of_existing_layout(image))
    elif _is_new_run(kind, image, old):
        run, collection, key = (_required(image, name) for name in ("id", "collection", "key"))
        found = [(collection, run_entity(run, collection, key))]
    else:
        return []
    return [
        RunMessage(
            entity=entity,
            collection=collection,
            event_name=kind,
            record=str(change.get("SequenceNumber", "")),
            at=at,
            region=str(record.get("awsRegion", "")),
        )
        for collection, entity in found
    ]


def _of_existing_layout(image: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Iterate over the collections of a COMPACTION_RUN, with what its message says."""
    receipt = _required(image, "receipt_id")
    if not receipt.isdecimal():
        raise Rejected(f"a run in the stream has a receipt_id that is no number: {shown(receipt)}")
    entity = {
        "run_id": _required(image, "run_id"),
        "image_id": _required(image, "image_id"),
        "receipt_id": int(receipt),
    }
    prefixes = {name: _value(image, f"{name}_delta_prefix") for name in COLLECTIONS}
    for name, prefix in prefixes.items():
        if prefix:
            named = {f"{each}_delta_prefix": value for each, value in prefixes.items() if value}
            yield name, {**entity, **named, "delta_s3_prefix": prefix}


def _image(change: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    image = change.get(name) or {}
    if not isinstance(image, dict):
        raise Rejected(f"a record of the stream has a {name} that is no item: {shown(image)}")
    return image


def _is_new_run(kind: str, image: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Tell whether a run of the ledger became pending: recorded, or recorded again after its commit."""
    if kind not in {"INSERT", "MODIFY"} or _value(image, "record") != "RunRow":
        return False
    return _value(image, "state") == "pending" and _value(old, "state") != "pending"


def _value(image: Mapping[str, Any], name: str) -> str:
    """Return a text or a number of an item as text, "" where it is absent."""
    value = image.get(name)
    if not isinstance(value, dict):
        return ""
    return str(value.get("S", value.get("N", "")))


def _required(image: Mapping[str, Any], name: str) -> str:
    if value := _value(image, name):
        return value
    raise Rejected(f"a run in the stream has no {name}")
