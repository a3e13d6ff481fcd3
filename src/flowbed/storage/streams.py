"""A stream whose reader can be made to give up, where cancelling the reader would leave work half done."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import AsyncIterable


class StreamAborted(Exception):  # noqa: N818 - never seen outside: it ends a reader that nobody waits for
    """The stream was given up."""


class Stream:
    """The pieces of `body`, until it is given up."""

    def __init__(self, body: AsyncIterable[bytes]) -> None:
        """Take nothing from `body` yet."""
        self._pieces = aiter(body)
        self._given_up = asyncio.Event()

    def __aiter__(self) -> Self:
        """Iterate over the pieces."""
        return self

    async def __anext__(self) -> bytes:
        """Wait for the next piece, or for the end of patience."""
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
        """Wait for what reads this stream; where this task is cancelled, the reader sees its stream fail, and ends."""
        try:
            await asyncio.shield(reader)
        except asyncio.CancelledError:
            self._given_up.set()
            await asyncio.wait([reader])
            reader.exception()  # the cancellation is what is reported
            raise
