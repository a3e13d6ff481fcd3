"""What a table of DynamoDB bills: write units as it says, and read units by AWS's rules from the items it answers."""

from __future__ import annotations

import math
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbed.ledger.dynamodb.client import Answer, Send
    from flowbed.ledger.dynamodb.failures import Place

WRITES = {
    "put_item",
    "update_item",
    "delete_item",
    "batch_write_item",
    "batch_execute_statement",
    "transact_write_items",
}
# Bytes of a read unit. https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/read-write-operations.html
UNIT = 4_096
ROW = 330  # bytes of a chunk's row


class Metered:
    """Connects as Flowbed does, and sums what requests are billed."""

    def __init__(self, connect: Callable[[Place], Send]) -> None:
        """Connect with `connect`."""
        self._connect = connect
        self._lock = threading.Lock()
        self._sums: Counter[str] = Counter()

    def connect(self, place: Place) -> Send:
        """Return how to send requests to a table."""
        send = self._connect(place)

        def metered(operation: str, parameters: dict[str, Any]) -> Answer:
            if operation not in WRITES:
                answer = send(operation, parameters)
                self._add(requests=1, reads=read_units(operation, parameters, answer))
                return answer
            answer = send(operation, {**parameters, "ReturnConsumedCapacity": "TOTAL"})
            told = answer.get("ConsumedCapacity") or []
            each = told if isinstance(told, list) else [told]
            self._add(requests=1, writes=sum(one["CapacityUnits"] for one in each))
            return answer

        return metered

    def forget(self) -> None:
        """Begin at zero."""
        self.put_back({})

    def taken(self) -> dict[str, float]:
        """Return the sums."""
        with self._lock:
            return dict(self._sums)

    def put_back(self, sums: dict[str, float]) -> None:
        """Set the sums."""
        with self._lock:
            self._sums = Counter(sums)

    def _add(self, **numbers: float) -> None:
        with self._lock:
            self._sums.update(numbers)


def read_units(operation: str, parameters: dict[str, Any], answer: Answer) -> float:
    """Return the read units of an answer."""
    if operation == "get_item":
        share = 1.0 if parameters.get("ConsistentRead") else 0.5
        return share * _units(_size(answer.get("Item", {})))
    if operation == "batch_get_item":
        ((table, asked),) = parameters["RequestItems"].items()
        share = 1.0 if asked.get("ConsistentRead") else 0.5
        found = answer["Responses"].get(table, [])
        missing = len(asked["Keys"]) - len(found)
        return share * (sum(_units(_size(item)) for item in found) + missing)
    if operation in {"query", "scan"}:
        share = 1.0 if parameters.get("ConsistentRead") else 0.5
        # A query that only counts reads the items all the same, and does not say how long they are.
        read = sum(map(_size, answer["Items"])) if "Items" in answer else answer["ScannedCount"] * ROW
        return share * _units(read)
    return 0.0


def _units(size: int) -> int:
    return max(1, math.ceil(size / UNIT))


def _size(item: dict[str, Any]) -> int:
    """Return the bytes of an item: names, and values in UTF-8, as numbers or raw."""
    return sum(len(name.encode()) + _value_size(value) for name, value in item.items())


def _value_size(value: dict[str, Any]) -> int:
    ((kind, content),) = value.items()
    if kind == "S":
        return len(content.encode())
    if kind == "B":
        return len(bytes(content))
    if kind == "N":
        return len(content) // 2 + 2
    if kind == "M":
        return 3 + _size(content)
    if kind == "L":
        return 3 + sum(map(_value_size, content))
    return 1
