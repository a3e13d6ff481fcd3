"""uvicorn's connection, with limits on the size and time of a request's head, and head and body written together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio

# Bytes of a request's address and headers: the limit of uvicorn's other parser and of most servers.
HEAD_BYTES = 65_536
STATUS_LINE, CONTINUE = b"HTTP/1.1 ", b"HTTP/1.1 100 "


class Connection(HttpToolsProtocol):
    """Close a connection whose request head exceeds `HEAD_BYTES` or takes longer than an idle connection may rest.

    uvicorn's own connection waits for the end of a head forever, and buffers all of it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Start before the head of the first request."""
        super().__init__(*args, **kwargs)
        self._stage = 0  # even in a head, odd in a body
        self._head = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        """Wait for the first head."""
        super().connection_made(JoiningTransport(transport, self.loop))  # type: ignore[arg-type]
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass data on, and refuse a head that is too large."""
        stage = self._stage
        super().data_received(data)
        if stage % 2 or self._stage != stage:
            self._head = 0
            self._stop_waiting()
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

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class JoiningTransport:
    """A transport that writes the head of a response together with what follows it in the same turn of the event loop.

    uvicorn writes head and body one after the other, and each write takes a tenth of the time of a whole request.
    """

    __slots__ = ("_flush_later", "_head", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        """Write to `transport`; `loop` flushes a head that nothing follows."""
        self._transport, self._head = transport, b""
        self._flush_later = loop.call_soon

    def __getattr__(self, name: str) -> Any:
        """Leave everything but writing and closing to the transport itself."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write data, after a head that was held back."""
        if self._head:
            self._transport.write(self._head + data)
            self._head = b""
        elif data.startswith(STATUS_LINE) and not data.startswith(CONTINUE):
            self._head = data
            self._flush_later(self.flush)
        else:
            self._transport.write(data)

    def flush(self) -> None:
        """Write a head that was held back."""
        if self._head:
            self._transport.write(self._head)
            self._head = b""

    def is_closing(self) -> bool:
        """Tell whether the transport is closing."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Write what was held back, then close."""
        self.flush()
        self._transport.close()
