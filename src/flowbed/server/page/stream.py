"""Server-sent events of what changes, until the client leaves or the server is to end."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

# Seconds between two looks, until a line that only shows life, and until the client has to ask again, with its key.
LOOK, SILENCE, WHOLE = 1.0, 15.0, 300.0
MEDIA_TYPE = "text/event-stream"
# A proxy must neither keep nor gather what is sent.
HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


class Streams:
    """The open streams of a process."""

    def __init__(self) -> None:
        """Start with none."""
        self.open = 0

    async def follow(
        self, look: Callable[[], Awaitable[Any]], *, leaving: asyncio.Event
    ) -> AsyncIterator[bytes]:
        """Yield what `look` returns as JSON whenever it has changed, until `leaving` is set."""
        self.open += 1
        try:
            async for each in _changes(look, leaving):
                yield each
        finally:
            self.open -= 1


async def _changes(look: Callable[[], Awaitable[Any]], leaving: asyncio.Event) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    until, sent, said = loop.time() + WHOLE, b"", loop.time()
    while not leaving.is_set() and loop.time() < until:
        body = orjson.dumps(await look())
        if body != sent:
            sent, said = body, loop.time()
            yield b"data: " + body + b"\n\n"
        elif loop.time() - said >= SILENCE:
            said = loop.time()
            yield b": still here\n\n"
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK):
                await leaving.wait()
