"""How the records of a ledger are stored as items, and by what they are indexed."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from flowbed.ledger import ChunkRow
from flowbed.ledger.items.table import Put
from flowbed.records import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from flowbed.ledger import BatchEvent
    from flowbed.ledger.items.table import Item, Key

Row = TypeVar("Row")

CURSORS = "cursors"
LETTERS = "letters"
SEEN = "seen"
SUBMISSIONS = "submissions"
NO_BATCH = "-"  # instead of "", since no key may be empty
TRANSIENT = "transient"


def chunk_key(collection: str, chunk: str) -> Key:
    """Return the key of a chunk: chunks of one id share a partition."""
    return f"chunk#{chunk}", collection


def event_key(event: BatchEvent) -> Key:
    """Return the key under which a source's batch files are listed in the order of their positions."""
    return f"events#{event.source}", f"{event.position:020}#{event.batch}"


def member_key(partition: str, source: str, collection: str, chunk: str) -> Key:
    """Return the key under which a document, run or submission names one of its chunks."""
    digest = hashlib.sha256(f"{collection}#{chunk}".encode()).hexdigest()
    return partition, f"{source}#{digest}"


def membership_of(item: Item) -> list[Put]:
    """Return the writes that name a chunk below its submission and below its text."""
    member = {"record": "member", "collection": item["collection"], "id": item["id"]}
    partitions = (
        [f"submission#{item['submission']}", f"text#{item['text_hash']}"] if item["submission"] else []
    )
    return [
        Put(member_key(each, "-", item["collection"], item["id"]), member, expected=None)
        for each in partitions
    ]


def is_in_no_run(item: Item) -> bool:
    """Return whether a chunk is PENDING and in no run: claimed, or left to its submission."""
    return item["status"] == Status.PENDING and not item["run"]


def item_of(row: object, **more: Any) -> Item:  # any scalar
    """Convert a record to an item."""
    said = row._asdict() if isinstance(row, ChunkRow) else vars(row)
    return {"record": type(row).__name__, "mark": "", **said, **more}


def row_of(kind: Callable[..., Row], item: Item) -> Row:
    """Convert an item back to its record."""
    names = ChunkRow._fields if kind is ChunkRow else [each.name for each in fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: item[name] for name in names})


INDEXES: dict[str, Callable[[Item], tuple[str, str] | None]] = {}


def _index(place: Callable[[Item], tuple[str, str] | None]) -> Callable[[Item], tuple[str, str] | None]:
    INDEXES[place.__name__] = place
    return place


@_index
def jobs_by_age(item: Item) -> tuple[str, str] | None:
    """Jobs that have not ended, oldest first."""
    unfinished = item["record"] == "JobRow" and not item["ended"]
    return ("-", f"{item['created']:020}#{item['id']}") if unfinished else None


@_index
def files_by_expiry(item: Item) -> tuple[str, str] | None:
    """Files by expiry."""
    ends = item["record"] == "FileRow" and item["expires"]
    return ("-", f"{item['expires']:020}#{item['id']}") if ends else None


@_index
def vector_stores_by_age(item: Item) -> tuple[str, str] | None:
    """Vector stores of which something is left, oldest first."""
    left = item["record"] == "VectorStoreRow" and not item["ended"]
    return ("-", f"{item['created']:020}#{item['id']}") if left else None


@_index
def store_files_by_work(item: Item) -> tuple[str, str] | None:
    """Files of vector stores with work, by store."""
    return ("-", item["store"]) if item["record"] == "VectorStoreFileRow" and item["work"] else None


@_index
def runs_by_state(item: Item) -> tuple[str, str] | None:
    """Runs by their state, oldest first."""
    return (item["state"], f"{item['created']:020}#{item['id']}") if item["record"] == "RunRow" else None


def is_claimable(
    row: ChunkRow,
    statuses: Collection[Status],
    *,
    now: int,
    sources: Collection[str],
    live: Collection[str],
) -> bool:
    """Return whether a chunk can be claimed; `live` are the ids of live submissions."""
    if sources and row.source not in sources:
        return False
    if row.status is Status.PENDING:
        # A chunk left to a submission has no expiry.
        over = row.until < now if row.until else bool(row.submission)
        return not row.run and over and row.submission not in live
    if row.status is Status.FAILED and set(statuses) > {Status.FAILED}:
        return row.failure == TRANSIENT and Status.FAILED in statuses
    return row.status in statuses


def next_version(version: int, now: int) -> int:
    """Return a chunk's next version: now, unless the clock went back."""
    return max(version + 1, now)
