"""The body of a request, read within limits of size and time."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect

from flowbed.server.http.errors import TooLarge, TooSlow

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]

# Seconds in which a body has to arrive: 32 MB at 5 Mbit/s.
BODY_SECONDS = 60.0


class RequestBody:
    """An ASGI `receive` with limits on the size of a body and on the time until it is complete.

    The time is `seconds`, plus one second for each `rate` bytes received.
    """

    __slots__ = ("_late", "_length", "_most", "_rate", "_receive", "_seconds", "_seen", "_waited", "_whole")

    def __init__(
        self,
        receive: Receive,
        headers: dict[bytes, bytes],
        *,
        most: int,
        seconds: float,
        rate: float = math.inf,
    ) -> None:
        """Read a body of at most `most` bytes from `receive`."""
        self._receive, self._most, self._seconds, self._rate = receive, most, seconds, rate
        self._length = headers.get(b"content-length", b"")
        self._waited = 0.0  # s of waiting; processing between the parts does not count
        self._seen, self._whole, self._late = 0, False, False

    async def __call__(self) -> Message:
        """Receive the next message."""
        if self._whole:  # only the client's disconnect can follow
            return await self._receive()
        # Refuse by the header, without receiving anything.
        if self._length.isdigit() and int(self._length) > self._most:
            raise self._too_large()
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
            ClientDisconnect: the client left first.
        """
        parts = []
        while not self._whole:
            message = await self()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            parts.append(message.get("body", b""))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _in_time(self) -> Message:
        """Receive within the time left; `asyncio.timeout` would take longer than reading most bodies."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in one
        begun = loop.time()
        patience = self._seconds + self._seen / self._rate
        timer = loop.call_at(begun + patience - self._waited, self._give_up, task)
        try:
            return await self._receive()
        except asyncio.CancelledError:
            if self._late and task.uncancel() == 0:
                raise TooSlow(
                    f"The body of the request did not arrive within {patience:g} seconds."
                ) from None
            raise
        finally:
            timer.cancel()
            self._waited += loop.time() - begun

    def _give_up(self, task: asyncio.Task[Any]) -> None:
        self._late = True
        task.cancel()

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"The body of the request exceeds the limit of {self._most:,} bytes; send fewer inputs in one request."
        )
