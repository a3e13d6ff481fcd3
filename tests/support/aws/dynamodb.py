"""DynamoDB for tests: what requests cost, and faults of a service that is busy, loses answers and lists late."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError

from flowbed.ledger.dynamodb.client import connect
from flowbed.ledger.dynamodb.opening import place_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

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


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let requests be repeated without waiting."""
    import stamina

    retry: Callable[..., object] = stamina.retry_context

    def retry_context(**how: object) -> object:
        at_once = {"wait_initial": 0.0, "wait_max": 0.0, "wait_jitter": 0.0, "attempts": 40}
        return retry(**{**how, **at_once})

    monkeypatch.setattr(stamina, "retry_context", retry_context)


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


class Killed(Exception):  # noqa: N818 - the class says what happened
    """The process ended here."""


class Faulty:
    """Sends requests, some of which go wrong.

    `wrong` returns what happens to a request, given its number (from 1) and operation: "throttled" (it is not carried
    out), "lost" (it is, but the answer is lost), "broken" (it is not, but nothing says so), "killed" (it is, and then
    all later ones fail), or "". With `partly`, some statements of a batch are throttled.
    """

    def __init__(self, send: Send, wrong: Callable[[int, str], str], *, partly: bool = False) -> None:
        """Send with `send`."""
        self._send, self._wrong, self._partly = send, wrong, partly
        self._lock = threading.Lock()
        self.number = 0
        self.dead = False

    def __call__(self, operation: str, parameters: dict[str, Any]) -> Answer:
        """Send one request."""
        with self._lock:
            if self.dead:
                raise Killed
            self.number += 1
            what = self._wrong(self.number, operation)
            self.dead = what == "killed"
        if what == "throttled":
            raise ClientError({"Error": {"Code": "ThrottlingException", "Message": "slower"}}, operation)
        if what == "broken":
            raise ConnectionClosedError(endpoint_url="it")
        if operation == "batch_execute_statement" and self._partly:
            answer = self._some(parameters)
        else:
            answer = self._send(operation, parameters)
        if what == "lost":
            raise ReadTimeoutError(endpoint_url="it")
        if what == "killed":
            raise Killed
        return answer

    def _some(self, parameters: dict[str, Any]) -> Answer:
        """Carry out every other statement, and throttle the others."""
        statements = parameters["Statements"]
        if len(statements) == 1:
            return self._send("batch_execute_statement", parameters)
        answer = self._send("batch_execute_statement", {**parameters, "Statements": statements[::2]})
        busy = {"Error": {"Code": "ProvisionedThroughputExceeded", "Message": "slower"}}
        told = iter(answer["Responses"])
        return {"Responses": [busy if place % 2 else next(told) for place in range(len(statements))]}


class Lagging:
    """Sends requests; those to the index are answered as it was when it was settled last."""

    def __init__(self, send: Send, url: str) -> None:
        """Send with `send` to the table at `url`."""
        self._send, self._table = send, place_of(url).table
        self._listed: dict[str, list[dict[str, Any]]] = {}

    def __call__(self, operation: str, parameters: dict[str, Any]) -> Answer:
        """Send one request."""
        if "IndexName" not in parameters:
            return self._send(operation, parameters)
        (wanted,) = parameters["ExpressionAttributeValues"].values()
        found = self._listed.get(wanted["S"], [])
        if parameters.get("ScanIndexForward") is False:
            found = found[::-1][: parameters["Limit"]]
        return {"Items": found}

    def settle(self) -> None:
        """Bring the index up to date."""
        self._listed = {}
        start: dict[str, Any] = {}
        while True:
            answer = self._send("scan", {"TableName": self._table, "IndexName": "open", **start})
            for item in sorted(answer["Items"], key=lambda item: item["GS"]["S"]):
                self._listed.setdefault(item["G"]["S"], []).append(item)
            if "LastEvaluatedKey" not in answer:
                return
            start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}
