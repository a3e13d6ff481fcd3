"""DynamoDB for tests: what requests cost, and faults of a service that is busy, loses answers and lists late."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from flowbed.ledger.dynamodb.client import connect
from flowbed.ledger.dynamodb.opening import place_of

if TYPE_CHECKING:
    from flowbed.ledger.dynamodb.client import Answer, Send
    from flowbed.testing.aws import Emulator

REGION = "us-east-1"
WRITES = {
    "put_item",
    "update_item",
    "delete_item",
    "batch_write_item",
    "batch_execute_statement",
    "transact_write_items",
}


def address(emulator: Emulator, table: str) -> str:
    """Return the address of a table in the emulator."""
    return f"dynamodb://{table}?region={REGION}&endpoint={emulator.url}"


class Metered:
    """Sends requests, and sums the write units that they were billed."""

    def __init__(self, url: str) -> None:
        """Send to the table at `url`."""
        self._send: Send = connect(place_of(url))
        self.requests: Counter[str] = Counter()
        self.units: Counter[str] = Counter()

    def __call__(self, operation: str, parameters: dict[str, Any]) -> Answer:
        """Send one request."""
        self.requests[operation] += 1
        if operation not in WRITES:
            return self._send(operation, parameters)
        answer = self._send(operation, {**parameters, "ReturnConsumedCapacity": "TOTAL"})
        consumed = answer.get("ConsumedCapacity") or []
        for each in consumed if isinstance(consumed, list) else [consumed]:
            self.units[operation] += each["CapacityUnits"]
        return answer
