"""uvicorn's connection, with limits on what a client may send, leave unread, and keep waiting."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from flowbed.server.http.transport import HoldingTransport, unsent

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from flowbed.server.http.places import Addresses

# Bytes of a request's address and headers, and of the trailers of its body: the limit of uvicorn's other parser and of
# most servers.
HEAD_BYTES = 65_536
# Bytes received behind a request that is being answered, from which reading pauses: until then the server sees at once
# that the client left.
KEPT_BYTES = 65_536
# Of these, what is parsed at a time: copying all of them for each request would take time with the square.
PIECE_BYTES = 4_096
# What is read and thrown away of a body whose request was answered before it was complete: enough that a client which
# sends all of it first still reads the response, at 25 Mbit/s.
DRAINED_BYTES, DRAINED_SECONDS = 32 * 2**20, 10.0
# A client that takes fewer bytes of a response in WRITE_SECONDS than this rate gives has stopped reading.
WRITE_SECONDS, WRITE_RATE = 60.0, 1_024
HEAD_END = b"\r\n\r\n"
UPGRADE = re.compile(rb"(?i)\r\nupgrade:[^\r]*")
# The key of the connection in an ASGI scope.
KEY = "flowbed.connection"


class Connection(HttpToolsProtocol):
    """A connection on which no client can hold much memory, or anything for long.

    uvicorn's own parses and queues everything that it receives. Here one request is parsed at a time: a head when it
    is complete, and what follows a request only after the response. Heads are limited in size and time, what is
    left of a body after the response in both, and responses that the client does not read in time.
    """

    def __init__(self, *args: Any, addresses: Addresses | None = None, **kwargs: Any) -> None:
        """Start before the head of the first request; `addresses` limits the connections of each address."""
        super().__init__(*args, **kwargs)
        self._addresses = addresses
        self._entered: str | None = None
        self._head = bytearray()  # the beginning of an incomplete one
        self._kept = bytearray()  # received behind a request that is being answered
        self._in_body = False
        self._left: int | None = None  # bytes of the body that are still to come, or None if it is chunked
        self._trailers = 0  # bytes since the last of a chunked body
        self._drained = 0  # bytes of a body after its response
        self._waiting: asyncio.TimerHandle | None = None  # for a head, or for the rest of a body
        self._writing: asyncio.TimerHandle | None = None
        self._unsent = 0
        # The request that is being answered, if its work is worth nothing without the client.
        self.answering: asyncio.Task[Any] | None = None
        self.left = False  # the client
        self.leaving = asyncio.Event()  # set when the client has left, or the server is to end

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        """Wait for the first head."""
        holding = HoldingTransport(transport, self.loop, closing=self._watch_writing)
        super().connection_made(holding)  # type: ignore[arg-type]
        if self._addresses is not None:
            address = self.client[0] if self.client else ""
            if not self._addresses.enter(address):
                transport.abort()
                return
            self._entered = address
        self._wait(self.timeout_keep_alive)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting, and cancel the request if only the client would want its answer."""
        self._stop_waiting()
        if self._writing is not None:
            self._writing.cancel()
        if self._addresses is not None and self._entered is not None:
            self._addresses.leave(self._entered)
        self._head.clear()
        self._kept.clear()
        self.left = True
        self.leaving.set()
        if self.answering is not None:
            self.answering.cancel()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Close the connection after the response; one without an end is told to end."""
        self.leaving.set()
        super().shutdown()

    def data_received(self, data: bytes) -> None:
        """Parse what belongs to the current request, and keep the rest until it is answered."""
        rest = data if self._kept else self._parse(data)
        if rest:
            self._kept += rest
            if len(self._kept) > KEPT_BYTES:
                self.transport.hold()  # type: ignore[attr-defined] # a HoldingTransport

    def on_body(self, body: bytes) -> None:
        """Note that the body goes on."""
        self._trailers = 0
        super().on_body(body)

    def on_headers_complete(self) -> None:
        """Go on to the body."""
        self._in_body, self._trailers = True, 0
        self.scope[KEY] = self  # type: ignore[literal-required] # read by the gate
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Go on to the next head."""
        self._in_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Throw away the rest of the body for a while, or go on to what was kept."""
        super().on_response_complete()
        if self._in_body and not self.transport.is_closing():
            self._drained = 0
            self._wait(DRAINED_SECONDS)
        elif self._kept:
            self.loop.call_soon(self._continue)

    def pause_writing(self) -> None:
        """Watch whether the client reads."""
        super().pause_writing()
        self._watch_writing()

    def _parse(self, data: bytes) -> bytes:
        """Parse up to the end of a request that is being answered, and return what follows it."""
        while data and not self.transport.is_closing():
            if self._in_body:
                data = self._receive_body(data)
            elif self._is_answering():
                return data
            else:
                data = self._receive_head(data)
        return b""

    def _is_answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request
        return cycle is not None and not cycle.response_complete

    def _receive_head(self, data: bytes) -> bytes:
        """Parse a head if it is complete, and return what follows it."""
        if self._head:
            # The end may have begun in what came before.
            start = max(len(self._head) - len(HEAD_END) + 1, 0)
            self._head += data
            found, whole = self._head.find(HEAD_END, start), bytes(self._head)
        else:
            found, whole = data.find(HEAD_END), data
        end = found + len(HEAD_END)
        if (len(whole) if found < 0 else end) > HEAD_BYTES:
            self.send_400_response("The head of the request is too large.")
            return b""
        if found < 0:
            self._head[:] = whole
            if self.timeout_keep_alive_task is not None:
                self.timeout_keep_alive_task.cancel()
                self.timeout_keep_alive_task = None
            if self._waiting is None:
                self._wait(self.timeout_keep_alive)
            return b""
        self._head.clear()
        head = whole[:end]
        if b"\nupgrade:" in head.lower():
            # Offers of another protocol may be ignored; the parser would take the body for that protocol.
            head = UPGRADE.sub(b"", head)
        self._stop_waiting()
        super().data_received(head)
        if self._in_body:
            # The parser has checked that it is a number.
            length = next((value for name, value in self.headers if name == b"content-length"), None)
            self._left = None if length is None else int(length.lstrip(b"0") or b"0")
        return whole[end:]

    def _receive_body(self, data: bytes) -> bytes:
        """Parse what belongs to the body, and return what follows it."""
        if self._left is None:
            # A chunked body ends with these bytes, and may contain them.
            found = data.find(HEAD_END)
            end = len(data) if found < 0 else found + len(HEAD_END)
            self._trailers += end
        else:
            end = min(self._left, len(data))
            self._left -= end
        answered = self.cycle.response_complete
        super().data_received(data if end == len(data) else data[:end])
        if self._in_body and self._trailers > HEAD_BYTES:
            self.send_400_response("The trailers of the body are too large.")
            return b""
        if answered:
            self._drained += end
            if not self._in_body:
                # uvicorn waits for the next request only after a response.
                self._stop_waiting()
                self._wait(self.timeout_keep_alive)
            elif self._drained > DRAINED_BYTES:
                self.transport.abort()
        return data[end:]

    def _continue(self) -> None:
        """Parse what was received behind a request that is now answered."""
        rest = b""
        while self._kept and not rest and not self.transport.is_closing():
            piece = bytes(self._kept[:PIECE_BYTES])
            del self._kept[:PIECE_BYTES]
            rest = self._parse(piece)
            self._kept[:0] = rest
        if len(self._kept) <= KEPT_BYTES:
            self.transport.release()  # type: ignore[attr-defined] # a HoldingTransport

    def _wait(self, seconds: float) -> None:
        self._stop_waiting()
        self._waiting = self.loop.call_later(seconds, self._give_up)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _give_up(self) -> None:
        self.transport.close()

    def _watch_writing(self) -> None:
        """Break the connection off when the client takes too little of what was written."""
        if self._writing is None:
            self._unsent = unsent(self.transport)
            self._writing = self.loop.call_later(WRITE_SECONDS, self._look)

    def _look(self) -> None:
        self._writing = None
        left = unsent(self.transport)
        if not self.transport.get_write_buffer_size():
            return
        if self._unsent - left < WRITE_SECONDS * WRITE_RATE:
            self.transport.abort()
            return
        self._watch_writing()
