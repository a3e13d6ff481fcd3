"""How the records of a ledger lie in a table, and what is asked of them."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from flowbed.records import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from flowbed.ledger import ChunkRow
    from flowbed.testing.limited.table import Item, Key

Row = TypeVar("Row")

CURSORS = "cursors"
LETTERS = "letters"
NO_BATCH = "-"  # stands for the batch "", since no key may be empty
TRANSIENT = "transient"


def chunk_key(collection: str, chunk: str) -> Key:
    """Say where a chunk lies: all of one id side by side."""
    return f"chunk#{chunk}", collection


def member_key(partition: str, source: str, collection: str, chunk: str) -> Key:
    """Say where a document or a run keeps the name of one of its chunks."""
    digest = hashlib.sha256(f"{collection}#{chunk}".encode()).hexdigest()
    return partition, f"{source}#{digest}"


def item_of(row: object, **more: Any) -> Item:  # noqa: ANN401 - any scalar
    """Make an item of a record."""
    return {"record": type(row).__name__, "mark": "", **vars(row), **more}


def row_of(kind: Callable[..., Row], item: Item) -> Row:
    """Make the record of an item again."""
    return kind(**{each.name: item[each.name] for each in fields(kind)})  # type: ignore[arg-type]


INDEXES: dict[str, Callable[[Item], tuple[str, str] | None]] = {}


def _index(place: Callable[[Item], tuple[str, str] | None]) -> Callable[[Item], tuple[str, str] | None]:
    INDEXES[place.__name__] = place
    return place


@_index
def chunks_by_status(item: Item) -> tuple[str, str] | None:
    """Chunks by what they wait for."""
    return (str(item["status"]), "") if item["record"] == "ChunkRow" else None


@_index
def chunks_by_batch(item: Item) -> tuple[str, str] | None:
    """Chunks by the batch file that holds their text."""
    return (item["batch"] or NO_BATCH, "") if item["record"] == "ChunkRow" else None


@_index
def chunks_by_worker(item: Item) -> tuple[str, str] | None:
    """Chunks by who holds them."""
    held = item["record"] == "ChunkRow" and item["worker"] and not item["run"]
    return (item["worker"], "") if held else None


@_index
def chunks_by_id(item: Item) -> tuple[str, str] | None:
    """Chunks of a collection, in order of id."""
    return (item["collection"], item["id"]) if item["record"] == "ChunkRow" else None


@_index
def runs_by_state(item: Item) -> tuple[str, str] | None:
    """Runs by their state, oldest first."""
    return (item["state"], f"{item['created']:020}#{item['id']}") if item["record"] == "RunRow" else None


def workable(row: ChunkRow, statuses: Collection[Status], *, now: int, sources: Collection[str]) -> bool:
    """Tell whether a chunk may be claimed."""
    if sources and row.source not in sources:
        return False
    if row.status is Status.PENDING:
        return not row.run and 0 < row.until < now
    if row.status is Status.FAILED and set(statuses) > {Status.FAILED}:
        return row.failure == TRANSIENT and Status.FAILED in statuses
    return row.status in statuses


def later(version: int, now: int) -> int:
    """Give the next version of a chunk: the clock's, unless that has gone back."""
    return max(version + 1, now)
