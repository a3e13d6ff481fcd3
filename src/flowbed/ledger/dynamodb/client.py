"""DynamoDB's API: the only module that imports boto3. Calls run in threads, and errors are those of Flowbed.

A request that was certainly not carried out (throttled, or never connected) is repeated, and so is every read. A write
whose answer was lost raises `Unanswered`: only its caller can tell from the items whether it happened. A transaction
has a token, under which DynamoDB carries it out once, so it is repeated as well.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any

import stamina

from flowbed.errors import Error, Misconfigured, Transient
from flowbed.ledger.dynamodb.failures import Place, Waits, meaning
from flowbed.ledger.items.table import ConditionFailed, Unanswered
from flowbed.telemetry import RETRIED, reached

Answer = dict[str, Any]
Send = Callable[[str, dict[str, Any]], Answer]
"""Send one request, given the name of its operation in boto3 and its parameters; raises botocore's errors."""

# Seconds. DynamoDB answers within tens of milliseconds; a connection that is silent for longer is lost.
_CONNECT, _READ = 3, 10
# A thread each: asyncio has some six of them per core.
_CONNECTIONS = 32
# Throttling lasts until a table has grown: on-demand capacity doubles within minutes.
_PATIENCE, _ATTEMPTS = 60.0, 40
# Answers of one process that may be lost in a row before it gives up.
_LOST = 12


class Client:
    """Requests to one table. Connections belong to the process, not to an event loop, and survive a frozen one."""

    def __init__(self, place: Place, *, send: Send | None = None) -> None:
        """Connect at the first request; `send` takes the place of boto3."""
        self.place = place
        self._send = send
        self._lock = threading.Lock()
        self._lost = 0
        self._date = ""

    @property
    def now(self) -> int:
        """When DynamoDB answered last, in seconds since 1970 by its own clock; 0 if it has not said so."""
        return int(parsedate_to_datetime(self._date).timestamp()) if self._date else 0

    async def read(self, operation: str, **parameters: Any) -> Answer:
        """Send a request that changes nothing, or that is safe to repeat."""
        return await self._repeated(operation, parameters, certain=True)

    async def write(self, operation: str, **parameters: Any) -> Answer:
        """Send a write.

        Raises:
            ConditionFailed: its condition failed.
            Unanswered: it may have been carried out.
        """
        return await self._repeated(operation, parameters, certain="ClientRequestToken" in parameters)

    async def _repeated(self, operation: str, parameters: dict[str, Any], *, certain: bool) -> Answer:
        named = {"TableName": self.place.table, **parameters} if _is_of_one_table(operation) else parameters
        try:
            async for attempt in stamina.retry_context(
                on=Waits,
                attempts=_ATTEMPTS,
                timeout=_PATIENCE,
                wait_initial=0.05,
                wait_max=5.0,
                wait_jitter=1.0,
            ):
                with attempt:
                    return await self._once(operation, named, certain=certain)
        except Waits as error:
            raise Transient(str(error)) from error
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _once(self, operation: str, parameters: dict[str, Any], *, certain: bool) -> Answer:
        try:
            answer = await asyncio.to_thread(self._call, operation, parameters)
        except Unanswered as error:
            self._lost += 1
            if certain:
                reached(RETRIED, reason=str(error))
                raise Waits(str(error)) from error
            if self._lost > _LOST:
                raise Transient(f"{error}; nothing is lost, run again") from error
            raise
        except Waits as error:
            reached(RETRIED, reason=str(error))
            raise
        self._lost = 0
        self._date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", self._date)
        return answer

    def _call(self, operation: str, parameters: dict[str, Any]) -> Answer:
        try:
            return self._sender()(operation, parameters)
        except (Error, ConditionFailed, Unanswered):
            raise
        except Exception as error:
            raise meaning(error, self.place) from error

    def _sender(self) -> Send:
        with self._lock:
            if self._send is None:
                self._send = connect(self.place)
            return self._send


def connect(place: Place) -> Send:
    """Return how to send requests with boto3; nothing is sent yet."""
    try:
        from boto3.session import Session
        from botocore.config import Config
    except ModuleNotFoundError as error:
        raise Misconfigured(f"{place.name} needs the extra `aws`: pip install 'flowbed[aws]'") from error
    config = Config(
        retries={"total_max_attempts": 1, "mode": "standard"},  # they are repeated here
        connect_timeout=_CONNECT,
        read_timeout=_READ,
        max_pool_connections=_CONNECTIONS,
        tcp_keepalive=True,
    )
    session = Session(region_name=place.region or None, profile_name=place.profile or None)
    client = session.client("dynamodb", endpoint_url=place.endpoint or None, config=config)

    def send(operation: str, parameters: dict[str, Any]) -> Answer:
        answer: Answer = getattr(client, operation)(**parameters)
        return answer

    return send


def _is_of_one_table(operation: str) -> bool:
    return operation not in {
        "batch_get_item",
        "batch_write_item",
        "transact_write_items",
        "batch_execute_statement",
    }
