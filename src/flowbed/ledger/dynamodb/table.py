"""A `Table` in DynamoDB: partition key PK, sort key SK, and one sparse index `open` of keys only (G, GS)."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

from flowbed.ledger.items.rows import INDEXES
from flowbed.ledger.items.table import (
    ABSENT,
    BATCH_ITEMS,
    PARTITION_KEY_BYTES,
    SORT_KEY_BYTES,
    Check,
    Page,
    Put,
    Unanswered,
    groups,
)
from flowbed.ledger.text import is_unstorable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from flowbed.ledger.dynamodb.client import Client
    from flowbed.ledger.items.table import Delete, Item, Key, Operation

PARTITION, SORT = "PK", "SK"
INDEX, INDEX_PARTITION, INDEX_SORT = "open", "G", "GS"
TTL = "ttl"
WRITTEN_TOGETHER = 25  # items in one request that writes unconditionally
_KEYS = {PARTITION, SORT, INDEX_PARTITION, INDEX_SORT, TTL}
# DynamoDB has one kind of number, and returns 3.0 as 3: a fraction is a map of this one key.
_FRACTION = "float"


class DynamoTable:
    """`Table` in DynamoDB. Index reads are followed by reads of the items, so what they return is current."""

    def __init__(self, client: Client, *, name: str) -> None:
        """Use a client, and a name that no other process has."""
        self.client = client
        self._name = name
        self._marks = count(1)

    async def get(self, key: Key) -> Item | None:
        """Return the current item, or None."""
        if not is_possible(key):
            return None
        answer = await self.client.read("get_item", Key=key_of(key), ConsistentRead=True)
        return item_from(answer["Item"]) if answer.get("Item") else None

    async def get_many(self, keys: Sequence[Key]) -> list[Item]:
        """Return up to 100 current items in the order of their keys; missing ones are left out."""
        found = {item["place"]: item for item in map(item_from, await self.raw_many(keys))}
        return [found[key] for key in keys if key in found]

    async def query(self, partition: str, *, prefix: str = "", after: str | None = None) -> Page:
        """Return a page of a partition's current items, in order of sort keys."""
        if not is_possible((partition, prefix or "-")):
            return Page([], None)
        condition, values = "PK = :p", {":p": {"S": partition}}
        if prefix:
            condition += " AND begins_with(SK, :s)"
            values[":s"] = {"S": prefix}
        answer = await self.client.read(
            "query",
            KeyConditionExpression=condition,
            ExpressionAttributeValues=values,
            ConsistentRead=True,
            **({} if after is None else {"ExclusiveStartKey": key_of((partition, after))}),
        )
        last = answer.get("LastEvaluatedKey")
        return Page([item_from(raw) for raw in answer["Items"]], last[SORT]["S"] if last else None)

    async def look_up(self, index: str, partition: str, *, after: Any = None) -> Page:
        """Return a page of an index: the list of items lags, the items themselves do not."""
        wanted = f"{index}#{partition}"
        answer = await self.client.read(
            "query",
            IndexName=INDEX,
            KeyConditionExpression="G = :g",
            ExpressionAttributeValues={":g": {"S": wanted}},
            **({} if after is None else {"ExclusiveStartKey": after}),
        )
        keys = [(raw[PARTITION]["S"], raw[SORT]["S"]) for raw in answer["Items"]]
        items = [item for some in groups(keys, BATCH_ITEMS) for item in await self.get_many(some)]
        return Page([item for item in items if index_key(item)[0] == wanted], answer.get("LastEvaluatedKey"))

    async def write(self, operation: Put | Delete) -> None:
        """Write one item."""
        kind, parameters = self._request(operation)
        await self.client.write({"Put": "put_item", "Delete": "delete_item"}[kind], **parameters)

    async def transact(self, operations: Sequence[Operation]) -> None:
        """Write up to 100 items, all or none."""
        if len(operations) == 1 and not isinstance(operations[0], Check):
            await self.write(operations[0])
            return
        table = {"TableName": self.client.place.table}
        requests = [{kind: {**table, **one}} for kind, one in map(self._request, operations)]
        await self.client.write(
            "transact_write_items", TransactItems=requests, ClientRequestToken=self.mark()
        )

    async def newest(self, index: str, partition: str, *, limit: int) -> list[Item]:
        """Return the last items of an index, newest first; the list lags, the items do not."""
        wanted = f"{index}#{partition}"
        answer = await self.client.read(
            "query",
            IndexName=INDEX,
            KeyConditionExpression="G = :g",
            ExpressionAttributeValues={":g": {"S": wanted}},
            ScanIndexForward=False,
            Limit=max(limit, 1),
        )
        keys = [(raw[PARTITION]["S"], raw[SORT]["S"]) for raw in answer["Items"]]
        items = [item for some in groups(keys, BATCH_ITEMS) for item in await self.get_many(some)]
        return [item for item in items if index_key(item)[0] == wanted]

    async def raw(self, key: Key) -> dict[str, Any] | None:
        """Return an item in DynamoDB's words, or None."""
        found = await self.raw_many([key])
        return found[0] if found else None

    async def raw_many(self, keys: Sequence[Key]) -> list[dict[str, Any]]:
        """Return up to 100 current items in DynamoDB's words, in no order; missing ones are left out."""
        name = self.client.place.table
        left = [key_of(key) for key in keys if is_possible(key)]
        found: list[dict[str, Any]] = []
        while left:
            answer = await self.client.read(
                "batch_get_item", RequestItems={name: {"Keys": left, "ConsistentRead": True}}
            )
            found += answer["Responses"].get(name, [])
            left = answer.get("UnprocessedKeys", {}).get(name, {}).get("Keys", [])
        return found

    async def raw_pages(self, partition: str, **how: Any) -> AsyncIterator[dict[str, Any]]:
        """Iterate over the current items of a partition in DynamoDB's words."""
        start: dict[str, Any] = {}
        while True:
            answer = await self.client.read(
                "query",
                KeyConditionExpression="PK = :p",
                ExpressionAttributeValues={":p": {"S": partition}},
                ConsistentRead=True,
                **how,
                **start,
            )
            for item in answer["Items"]:
                yield item
            if "LastEvaluatedKey" not in answer:
                return
            start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}

    async def repeated(self, operation: str, **parameters: Any) -> None:
        """Send a write that is safe to repeat, until it is answered."""
        while True:
            try:
                await self.client.write(operation, **parameters)
            except Unanswered:
                continue
            return

    async def put_all(self, items: Sequence[Mapping[str, Any]]) -> None:
        """Put items in DynamoDB's words, whatever is there."""
        await self._write_all([{"PutRequest": {"Item": item}} for item in items])

    async def delete_all(self, keys: Sequence[Key]) -> None:
        """Delete items."""
        await self._write_all([{"DeleteRequest": {"Key": key_of(key)}} for key in keys])

    async def _write_all(self, requests: Sequence[dict[str, Any]]) -> None:
        name = self.client.place.table
        for some in groups(requests, WRITTEN_TOGETHER):
            left = some
            while left:
                try:
                    answer = await self.client.write("batch_write_item", RequestItems={name: left})
                except Unanswered:
                    continue
                left = answer.get("UnprocessedItems", {}).get(name, [])

    def expiring(self, seconds: int) -> dict[str, Any]:
        """Return the attribute that lets DynamoDB delete an item after some time, by its own clock."""
        return {TTL: {"N": str(self.client.now + seconds)}} if self.client.now else {}

    def mark(self) -> str:
        """Return a mark that no write has had before, in any process."""
        return f"{self._name}{next(self._marks)}"

    def _request(self, operation: Operation) -> tuple[str, dict[str, Any]]:
        conditions = _condition(operation.expected)
        if isinstance(operation, Check):
            return "ConditionCheck", {"Key": key_of(operation.key), **conditions}
        if isinstance(operation, Put):
            item = {**operation.item, "place": operation.key, "stamp": self.mark()}
            return "Put", {"Item": item_to(item), **conditions}
        return "Delete", {"Key": key_of(operation.key), **conditions}


def key_of(key: Key) -> dict[str, Any]:
    """Return a key in DynamoDB's words."""
    return {PARTITION: {"S": key[0]}, SORT: {"S": key[1]}}


def item_to(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return an item with its keys, those of the index included, in DynamoDB's words."""
    raw = {name: value_to(value) for name, value in item.items() if name != "place"}
    partition, sort = index_key(item)
    if partition:
        raw |= {INDEX_PARTITION: {"S": partition}, INDEX_SORT: {"S": sort}}
    return raw | key_of(item["place"])


def item_from(raw: Mapping[str, Any]) -> Item:
    """Return an item read from DynamoDB, with its key as `place`."""
    item: Item = {name: value_from(value) for name, value in raw.items() if name not in _KEYS}
    item["place"] = raw[PARTITION]["S"], raw[SORT]["S"]
    return item


_WRITTEN: Mapping[type, Callable[[Any], dict[str, Any]]] = {
    bool: lambda value: {"BOOL": value},
    int: lambda value: {"N": str(value)},
    float: lambda value: {"M": {_FRACTION: {"N": repr(value)}}},
    bytes: lambda value: {"B": value},
    list: lambda value: {"L": [value_to(each) for each in value]},
    type(None): lambda _: {"NULL": True},
}
_READ: Mapping[str, Callable[[Any], Any]] = {
    "N": int,
    "M": lambda content: float(content[_FRACTION]["N"]),
    "L": lambda content: [value_from(each) for each in content],
    "NULL": lambda _: None,
}


def value_to(value: Any) -> dict[str, Any]:
    """Return a value in DynamoDB's words."""
    return {"S": str(value)} if isinstance(value, str) else _WRITTEN[type(value)](value)


def value_from(value: Mapping[str, Any]) -> Any:
    """Return a value read from DynamoDB."""
    ((kind, content),) = value.items()
    return _READ[kind](content) if kind in _READ else content


def index_key(item: Mapping[str, Any]) -> tuple[str, str]:
    """Return an item's key in the index; empty for one that is not in it."""
    if "record" not in item:
        return "", ""
    for name, place in INDEXES.items():
        found = place(item)  # type: ignore[arg-type]
        if found is not None:
            return f"{name}#{found[0]}", found[1] or "-"
    return "", ""


def _condition(expected: str | None) -> dict[str, Any]:
    if expected is None:
        return {}
    if expected == ABSENT:
        return {"ConditionExpression": "attribute_not_exists(PK)"}
    return {"ConditionExpression": "stamp = :e", "ExpressionAttributeValues": {":e": {"S": expected}}}


def is_possible(key: Key) -> bool:
    """Return whether an item can have this key; asking for any other is an error."""
    partition, sort = key
    if not partition or not sort or is_unstorable(partition) or is_unstorable(sort):
        return False
    return len(partition.encode()) <= PARTITION_KEY_BYTES and len(sort.encode()) <= SORT_KEY_BYTES
