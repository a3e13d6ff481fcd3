"""A connection that is given up where the head of a request does not end; uvicorn's own waits, and keeps what comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio

# Bytes of a request's address and headers: as many as uvicorn's other parser and most servers take.
HEAD_BYTES = 65_536
CONTINUE = b"HTTP/1.1 100 "


class Connection(HttpToolsProtocol):
    """uvicorn's connection, with heads of about `HEAD_BYTES` at most, which take no longer than it may rest."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # uvicorn's
        """Begin before the head of the first request."""
        super().__init__(*args, **kwargs)
        self._stage = 0  # even in a head, odd in a body
        self._head = 0
        self._timer: asyncio.TimerHandle | None = None
        self._joined: _Joined | None = None

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
        if self._joined is None:
            self._joined = _Joined(self.transport)
        self.cycle.transport = self._joined  # type: ignore[assignment] # all of a transport that it uses

    def on_message_complete(self) -> None:
        """Go on to the next head."""
        self._stage += 1
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on to the next answer."""
        if self._joined is not None:
            self._joined.flush()
        super().on_response_complete()

    def _wait(self) -> None:
        self._timer = self.loop.call_later(self.timeout_keep_alive, self.transport.close)

    def _wait_no_more(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Joined:
    """What answers are written to: the head of one goes with the first part of its body.

    uvicorn writes them one after the other, and each write takes a tenth of what a whole request does.
    """

    __slots__ = ("_begun", "_head", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""
        self._begun = False

    def write(self, data: bytes) -> None:
        if self._begun:
            self._transport.write(self._head + data if self._head else data)
            self._head = b""
        elif data.startswith(CONTINUE):  # no answer yet, and the body waits for it
            self._transport.write(data)
        else:
            self._begun, self._head = True, data

    def flush(self) -> None:
        """End an answer; of one that has no body, the head is still here."""
        if self._head:
            self._transport.write(self._head)
        self._begun, self._head = False, b""

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self.flush()
        self._transport.close()
