"""A table of items as DynamoDB has it: what it does, and how to use it where writes compete and answers are lost."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence

# https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html
TRANSACTION_ITEMS = 100
BATCH_ITEMS = 100
PARTITION_KEY_BYTES, SORT_KEY_BYTES = 2_048, 1_024

Item = dict[str, Any]
Key = tuple[str, str]
"""Partition and sort key."""

ABSENT = ""
"""The stamp of an item that is not there."""


class ConditionFailed(Exception):  # noqa: N818 - DynamoDB's word
    """An item was not in the expected state; nothing was written."""


class Unanswered(Exception):  # noqa: N818 - the class says what happened
    """A write got no answer; it may have been applied."""


@dataclass(frozen=True)
class Put:
    """Put `item` under `key` if the item there has the stamp `expected`; None puts it unconditionally."""

    key: Key
    item: Mapping[str, Any]
    expected: str | None


@dataclass(frozen=True)
class Delete:
    """Delete the item under `key` if it has the stamp `expected`; None deletes it unconditionally."""

    key: Key
    expected: str | None = None


@dataclass(frozen=True)
class Check:
    """Require, within a transaction, that the item under `key` has the stamp `expected`."""

    key: Key
    expected: str


Operation = Put | Delete | Check


@dataclass
class Page:
    """Items in order of their sort keys; `after` continues the query, and is None on the last page."""

    items: list[Item]
    after: Any


class Table(Protocol):
    """Items by partition and sort key, with conditional writes, small transactions, and indexes that lag.

    Each item has its key as `place`, and a `stamp` that changes with every write.
    """

    async def get(self, key: Key) -> Item | None:
        """Return the current item, or None."""
        ...

    async def get_many(self, keys: Sequence[Key]) -> list[Item]:
        """Return up to 100 current items in the order of their keys; missing ones are left out."""
        ...

    async def query(self, partition: str, *, prefix: str = "", after: str | None = None) -> Page:
        """Return a page of a partition's current items, in order of sort keys."""
        ...

    async def look_up(self, index: str, partition: str, *, after: Any = None) -> Page:
        """Return a page of an index, which lags."""
        ...

    async def write(self, operation: Put | Delete) -> None:
        """Write one item.

        Raises:
            ConditionFailed: its condition failed.
            Unanswered: it may have been written.
        """
        ...

    async def transact(self, operations: Sequence[Operation]) -> None:
        """Write up to 100 items, all or none.

        Raises:
            ConditionFailed: a condition failed.
            Unanswered: they may have been written.
        """
        ...

    def mark(self) -> str:
        """Return a mark that no write has had before."""
        ...


async def pages(read: Callable[..., Awaitable[Page]], *where: str, **how: str) -> AsyncIterator[list[Item]]:
    """Iterate over the pages of a query or an index."""
    page = await read(*where, **how)
    yield page.items
    while page.after is not None:
        page = await read(*where, **how, after=page.after)
        yield page.items


async def all_of(read: Callable[..., Awaitable[Page]], *where: str, **how: str) -> list[Item]:
    """Return every item of a query or an index."""
    return [item async for page in pages(read, *where, **how) for item in page]


async def read_all(table: Table, keys: Iterable[Key]) -> list[Item]:
    """Return any number of items, in the order of their keys; missing ones are left out."""
    return [item for some in groups(keys, BATCH_ITEMS) for item in await table.get_many(some)]


def groups(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Split items into groups of at most `size`."""
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


async def update(
    table: Table,
    key: Key,
    change: Callable[[Item], Mapping[str, Any] | None],
    *,
    beside: Callable[[Item], Sequence[Operation]] = lambda _: (),
) -> Item | None:
    """Change an item conditionally and return it; None if it is missing or `change` returns None.

    `change` returns the fields to change. It is called again when another process changed the item first. `beside`
    returns what to write in the same transaction, given the changed item.
    """
    mark: str | None = None
    while True:
        item = await table.get(key)
        if item is not None and mark is not None and item["mark"] == mark:
            return item  # the unanswered write was this one, and was applied
        changes = change(item) if item is not None else None
        if item is None or changes is None:
            return None
        mark = table.mark()
        wanted = {**item, **changes, "mark": mark}
        try:
            await table.transact([Put(key, wanted, expected=item["stamp"]), *beside(wanted)])
        except (ConditionFailed, Unanswered):
            continue
        return wanted


async def create(table: Table, key: Key, item: Mapping[str, Any], *beside: Operation) -> None:
    """Put an item, and the writes `beside` it, unless it exists."""
    while await table.get(key) is None:
        try:
            await table.transact([Put(key, item, expected=ABSENT), *beside])
        except (ConditionFailed, Unanswered):
            continue


async def until_answered(table: Table, *operations: Operation) -> None:
    """Repeat writes that are safe to repeat, until they are answered."""
    while True:
        try:
            return await table.transact(operations)
        except Unanswered:
            continue
