"""A connection's transport that joins writes, holds reading back, and watches what is unsent when it is closed."""

from __future__ import annotations

import contextlib
import fcntl
import struct
import termios
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

STATUS_LINE, CONTINUE = b"HTTP/1.1 ", b"HTTP/1.1 100 "


class HoldingTransport:
    """A transport that writes the head of a response together with what follows it in the same turn of the event loop.

    uvicorn writes head and body one after the other, and each write takes a tenth of the time of a whole request.
    Between `hold` and `release` nothing is read, whoever resumes reading.
    """

    __slots__ = ("_closing", "_flush_later", "_head", "_held", "_transport")

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, *, closing: Callable[[], None]
    ) -> None:
        """Write to `transport`; `loop` flushes a head that nothing follows, `closing` is called if bytes are unsent."""
        self._transport, self._head, self._closing = transport, b"", closing
        self._held = False
        self._flush_later = loop.call_soon

    def __getattr__(self, name: str) -> Any:
        """Leave everything but writing, closing and resuming to the transport itself."""
        return getattr(self._transport, name)

    def hold(self) -> None:
        """Stop reading until `release`."""
        if not self._held:
            self._held = True
            self._transport.pause_reading()

    def release(self) -> None:
        """Read on."""
        if self._held:
            self._held = False
            self._transport.resume_reading()

    def resume_reading(self) -> None:
        """Read on, unless reading is held back."""
        if not self._held:
            self._transport.resume_reading()

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
        """Write what was held back, then close when all of it is sent."""
        self.flush()
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._closing()


def unsent(transport: Any) -> int:
    """Return the bytes written to a transport that the other side does not have yet, as far as the system knows."""
    queued = bytearray(4)
    with contextlib.suppress(OSError, AttributeError, ValueError):
        # Bytes that the kernel holds: a slow reader takes them long before there is room for more.
        fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, queued)
    size: int = transport.get_write_buffer_size()
    return size + int(struct.unpack("i", queued)[0])
