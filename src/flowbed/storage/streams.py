"""A stream that can be aborted, for readers that must not be cancelled halfway."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import AsyncIterable


class StreamAborted(Exception):  # noqa: N818 - never seen outside: it ends the abandoned reader
    """The stream was aborted."""


class Stream:
    """The pieces of `body`, until it is aborted."""

    def __init__(self, body: AsyncIterable[bytes]) -> None:
        """Start without reading `body`."""
        self._pieces = aiter(body)
        self._given_up = asyncio.Event()

    def __aiter__(self) -> Self:
        """Iterate over the pieces."""
        return self

    async def __anext__(self) -> bytes:
        """Wait for the next piece, or for the stream to be aborted."""
        piece = asyncio.ensure_future(anext(self._pieces))
        giving_up = asyncio.ensure_future(self._given_up.wait())
        try:
            await asyncio.wait({piece, giving_up}, return_when=asyncio.FIRST_COMPLETED)
            if self._given_up.is_set():
                raise StreamAborted
            return await piece
        finally:
            for waiting in (piece, giving_up):
                waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration, Exception):
                await piece

    async def into(self, reader: asyncio.Future[Any]) -> None:
        """Wait for the task that reads this stream; if cancelled, abort the stream and wait for the reader to end."""
        try:
            await asyncio.shield(reader)
        except asyncio.CancelledError:
            self._given_up.set()
            await asyncio.wait([reader])
            reader.exception()  # only the cancellation is reported
            raise
