"""A connection that is given up where the head of a request does not end; uvicorn's own waits, and keeps what comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio

# Bytes of a request's address and headers: as many as uvicorn's other parser and most servers take.
HEAD_BYTES = 65_536


class Connection(HttpToolsProtocol):
    """uvicorn's connection, with heads of about `HEAD_BYTES` at most, which take no longer than it may rest."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - uvicorn's
        """Begin before the head of the first request."""
        super().__init__(*args, **kwargs)
        self._stage = 0  # even in a head, odd in a body
        self._head = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Wait for the first head."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._wait_no_more()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what has come, unless it is of a head that is too large."""
        stage = self._stage
        super().data_received(data)
        if stage % 2 or self._stage != stage:
            self._head = 0
            self._wait_no_more()
            return
        self._head += len(data)
        if self._head > HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The head of the request is too large.")
        elif self._timer is None:
            self._wait()

    def on_headers_complete(self) -> None:
        """Go on to the body."""
        self._stage += 1
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Go on to the next head."""
        self._stage += 1
        super().on_message_complete()

    def _wait(self) -> None:
        self._timer = self.loop.call_later(self.timeout_keep_alive, self.transport.close)

    def _wait_no_more(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
