"""A table in memory with the limits of DynamoDB: exceeding one raises `LimitExceeded`."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

from flowbed.ledger.items.table import (
    ABSENT,
    BATCH_ITEMS,
    PARTITION_KEY_BYTES,
    SORT_KEY_BYTES,
    TRANSACTION_ITEMS,
    Check,
    ConditionFailed,
    Page,
    Put,
    Unanswered,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flowbed.ledger.items.table import Delete, Item, Key, Operation

# https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html
TRANSACTION_BYTES = 4 * 2**20
ITEM_BYTES = 400 * 2**10
PAGE_BYTES = 2**20


class LimitExceeded(AssertionError):  # noqa: N818 - DynamoDB's word
    """A request exceeds a limit of DynamoDB."""


@dataclass
class _Index:
    """A secondary index, which lags behind the items."""

    place: Callable[[Item], tuple[str, str] | None]
    items: dict[str, dict[Key, tuple[str, Item]]] = field(default_factory=dict)
    where: dict[Key, str] = field(default_factory=dict)

    def follow(self, key: Key, item: Item | None) -> None:
        before = self.where.pop(key, None)
        if before is not None:
            del self.items[before][key]
        placed = self.place(item) if item is not None else None
        if item is not None and placed is not None:
            partition, sort = placed
            _require_key(partition, sort or "-")
            self.items.setdefault(partition, {})[key] = (sort, item)
            self.where[key] = partition


class MemoryTable:
    """Items by partition and sort key, with conditional writes, small transactions, and indexes that lag.

    Each item has its key as `place`, and a `stamp` that changes with every write. The next `unanswered` writes are
    applied, but raise `Unanswered`.
    """

    def __init__(
        self, indexes: Mapping[str, Callable[[Item], tuple[str, str] | None]], *, lag: int = 0
    ) -> None:
        """Create a table with indexes, each given by a function from an item to its keys; they lag by `lag` writes."""
        self.lag = lag
        self.unanswered = 0
        self._items: dict[str, dict[str, Item]] = {}
        self._indexes = {name: _Index(place) for name, place in indexes.items()}
        self._log: deque[tuple[Key, Item | None]] = deque()
        self._stamps = count(1)

    async def get(self, key: Key) -> Item | None:
        """Return the current item, or None."""
        await asyncio.sleep(0)
        return self._at(key)

    async def get_many(self, keys: Sequence[Key]) -> list[Item]:
        """Return up to 100 current items; missing ones are left out."""
        await asyncio.sleep(0)
        if len(keys) > BATCH_ITEMS or len(set(keys)) < len(keys):
            raise LimitExceeded(f"{len(keys)} items in one read, or one of them twice")
        return [item for key in keys if (item := self._at(key)) is not None]

    async def query(self, partition: str, *, prefix: str = "", after: str | None = None) -> Page:
        """Return a page of a partition's current items, in order of sort keys."""
        await asyncio.sleep(0)
        found = self._items.get(partition, {})
        keys = sorted(key for key in found if key.startswith(prefix) and (after is None or key > after))
        return _page([(key, found[key]) for key in keys])

    async def look_up(self, index: str, partition: str, *, after: tuple[str, Key] | None = None) -> Page:
        """Return a page of an index, which lags."""
        await asyncio.sleep(0)
        found = self._indexes[index].items.get(partition, {})
        places = sorted((sort, key) for key, (sort, _) in found.items())
        return _page([(place, found[place[1]][1]) for place in places if after is None or place > after])

    async def write(self, operation: Put | Delete) -> None:
        """Write one item.

        Raises:
            ConditionFailed: its condition failed.
            Unanswered: it may have been written.
        """
        await self.transact([operation])

    async def transact(self, operations: Sequence[Operation]) -> None:
        """Write up to 100 items, all or none.

        Raises:
            ConditionFailed: a condition failed.
            Unanswered: they may have been written.
        """
        await asyncio.sleep(0)
        self._require_limits(operations)
        for each in operations:
            if each.expected is None:
                continue
            existing = self._at(each.key)
            if (existing["stamp"] if existing else ABSENT) != each.expected:
                raise ConditionFailed(f"{each.key} is not as expected")
        for each in operations:
            if not isinstance(each, Check):
                self._apply(each)
        if self.unanswered:
            self.unanswered -= 1
            raise Unanswered

    def mark(self) -> str:
        """Return a mark that no write has had before."""
        return f"m{next(self._stamps)}"

    def settle(self) -> None:
        """Bring the indexes up to date."""
        self._follow(0)

    def _at(self, key: Key) -> Item | None:
        return self._items.get(key[0], {}).get(key[1])

    def _apply(self, operation: Put | Delete) -> None:
        partition, sort = operation.key
        item = None
        if isinstance(operation, Put):
            item = {**operation.item, "place": operation.key, "stamp": str(next(self._stamps))}
            self._items.setdefault(partition, {})[sort] = item
        else:
            self._items.get(partition, {}).pop(sort, None)
        self._log.append((operation.key, item))
        self._follow(self.lag)

    def _follow(self, lag: int) -> None:
        while len(self._log) > lag:
            key, item = self._log.popleft()
            for index in self._indexes.values():
                index.follow(key, item)

    def _require_limits(self, operations: Sequence[Operation]) -> None:
        if not 0 < len(operations) <= TRANSACTION_ITEMS:
            raise LimitExceeded(f"{len(operations)} items in one transaction")
        if len({each.key for each in operations}) < len(operations):
            raise LimitExceeded("one item twice in one transaction")
        size = 0
        for each in operations:
            _require_key(*each.key)
            if isinstance(each, Put):
                bytes_ = _size(each.item)
                size += bytes_
                if bytes_ > ITEM_BYTES:
                    raise LimitExceeded(f"an item of {bytes_:,} bytes")
        if size > TRANSACTION_BYTES:
            raise LimitExceeded(f"a transaction of {size:,} bytes")


def _require_key(partition: str, sort: str) -> None:
    if not 0 < len(partition.encode()) <= PARTITION_KEY_BYTES or not 0 < len(sort.encode()) <= SORT_KEY_BYTES:
        raise LimitExceeded(f"key {partition[:80]!r}, {sort[:80]!r} is empty or too long")


def _page(items: Sequence[tuple[Any, Item]]) -> Page:
    page: list[Item] = []
    size = 0
    for place, (key, item) in enumerate(items):
        page.append(item)
        size += _size(item)
        if size > PAGE_BYTES and place + 1 < len(items):
            return Page(page, key)
    return Page(page, None)


def _size(item: Mapping[str, Any]) -> int:
    # Texts count their UTF-8 bytes, everything else the largest size of a number in DynamoDB.
    return sum(
        len(name) + (len(value.encode()) if isinstance(value, str) else 21) for name, value in item.items()
    )
