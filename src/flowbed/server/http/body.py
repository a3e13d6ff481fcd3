"""The body of a request, read within limits of size and time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect

from flowbed.server.http.errors import Overloaded, TooLarge, TooSlow
from flowbed.services.embedding.inputs import require_few_values

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from flowbed.server.http.places import Shares

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]

# Seconds that a body may stall, and the bytes that make up for one of them: slower than any link that people use.
BODY_SECONDS, BODY_RATE = 20.0, 1_024
# Memory for bodies that are read whole is shared among callers; smaller ones are not counted, since the limit of
# concurrent requests bounds them.
COUNTED_BYTES = 65_536


class RequestBody:
    """An ASGI `receive` with limits on the size of a body and on how long it may stall.

    A body may stall for `seconds` in all; each `rate` bytes received make up for one second of it.
    """

    __slots__ = (
        "_containers",
        "_counted",
        "_late",
        "_memory",
        "_most",
        "_owner",
        "_patience",
        "_receive",
        "_seconds",
        "_seen",
        "_values",
        "_whole",
        "asked",
    )

    def __init__(
        self,
        receive: Receive,
        *,
        most: int,
        seconds: float,
        memory: Shares,
    ) -> None:
        """Read a body of at most `most` bytes from `receive`; one that is read whole takes its share of `memory`."""
        self._receive, self._most, self._seconds = receive, most, seconds
        self._memory, self._owner, self._counted = memory, "", 0
        self._values = self._containers = 0
        self._patience = seconds  # s that are left; processing between the parts does not count
        self._seen, self._whole, self._late = 0, False, False
        self.asked = False  # for any of it

    def begin(self, length: bytes, owner: str) -> None:
        """Refuse the body by its Content-Length, before anything is received; `owner` is whose share it takes.

        Raises:
            TooLarge: it exceeds the limit.
        """
        self._owner = owner
        digits = length.lstrip(b"0")
        # int() refuses numbers of thousands of digits.
        if digits.isdigit() and (len(digits) > len(str(self._most)) or int(digits) > self._most):
            raise self._too_large()

    def end(self) -> None:
        """Give the memory of the body back."""
        if self._counted:
            self._memory.give_back(self._owner, self._counted)
            self._counted = 0

    async def __call__(self) -> Message:
        """Receive the next message."""
        self.asked = True
        if self._whole:  # only the client's disconnect can follow
            return await self._receive()
        message = await self._in_time()
        self._seen += len(message.get("body", b""))
        if self._seen > self._most:
            raise self._too_large()
        self._whole = message["type"] == "http.request" and not message.get("more_body", False)
        return message

    async def read(self) -> bytes:
        """Read the whole body.

        Raises:
            TooLarge, TooSlow: it exceeds a limit.
            Overloaded: the bodies of other requests fill the memory.
            Rejected: its JSON has too many values.
            ClientDisconnect: the client left first.
        """
        parts = []
        while not self._whole:
            message = await self()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            part = message.get("body", b"")
            parts.append(part)
            if self._seen - self._counted > COUNTED_BYTES:
                self._count()
            if self._counted:
                # Counting with each part leaves the event loop to others in between.
                self._values += part.count(b",")
                self._containers += part.count(b"[") + part.count(b"{")
                require_few_values(self._values, self._containers)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _count(self) -> None:
        if not self._memory.take(self._owner, self._seen - self._counted):
            raise Overloaded("The server is reading too many large requests; try again in a moment.")
        self._counted = self._seen

    async def _in_time(self) -> Message:
        """Receive within the time left; `asyncio.timeout` would take longer than reading most bodies."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in one
        begun = loop.time()
        timer = loop.call_at(begun + self._patience, self._give_up, task)
        try:
            message = await self._receive()
        except asyncio.CancelledError:
            if self._late and task.uncancel() == 0:
                raise TooSlow(
                    f"The body of the request stopped arriving: it may stall for {self._seconds:g} seconds, and has to"
                    f" come at {BODY_RATE:,} bytes a second or more."
                ) from None
            raise
        finally:
            timer.cancel()
        received = len(message.get("body", b""))
        self._patience = min(self._patience - (loop.time() - begun) + received / BODY_RATE, self._seconds)
        return message

    def _give_up(self, task: asyncio.Task[Any]) -> None:
        self._late = True
        task.cancel()

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"The body of the request exceeds the limit of {self._most:,} bytes; send fewer inputs in one request."
        )
