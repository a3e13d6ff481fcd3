"""Send requests to an HTTP server as fast as it answers, over persistent connections, at the lowest cost in Python."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import uvloop

from benchmarks.sides.serve import serve

if TYPE_CHECKING:
    from collections.abc import Sequence

END = b"\r\n\r\n"
SHOWN = 300  # bytes of an answer that an error quotes


class Connection(asyncio.Protocol):
    """One connection: the next request is sent when the previous one is answered."""

    def __init__(self, waiting: deque[bytes], seconds: list[float], ended: asyncio.Future[None]) -> None:
        """Take requests from `waiting` until it is empty, and record how long each answer took."""
        self._waiting, self._seconds, self._ended = waiting, seconds, ended
        self._answer = bytearray()
        self._length = 0  # of the answer with its head, once known

    def connection_made(self, transport: Any) -> None:  # the loop's
        """Send the first request."""
        self._transport = transport
        self._next()

    def data_received(self, data: bytes) -> None:
        """Check whether an answer is complete."""
        self._answer += data
        if not self._length:
            end = self._answer.find(END)
            if end < 0:
                return
            self._length = self._length_of(bytes(self._answer[:end]), end)
        if len(self._answer) >= self._length > 0:
            self._seconds.append(time.perf_counter() - self._began)
            self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        """Report that the server closed the connection too soon."""
        if not self._ended.done():
            self._ended.set_exception(exc or ConnectionError("the server closed the connection"))

    def _next(self) -> None:
        self._answer.clear()
        self._length = 0
        if not self._waiting:
            if not self._ended.done():
                self._ended.set_result(None)
            self._transport.close()
            return
        request = self._waiting.popleft()
        self._began = time.perf_counter()
        self._transport.write(request)

    def _length_of(self, head: bytes, end: int) -> int:
        lines = head.lower().split(b"\r\n")
        lengths = [int(line[15:]) for line in lines if line.startswith(b"content-length:")]
        if not lines[0].startswith(b"http/1.1 200") or not lengths:
            shown = bytes(self._answer[:SHOWN]).decode(errors="replace")
            self._ended.set_exception(RuntimeError(f"this is no answer to measure: {shown}"))
            self._transport.abort()
            return -1
        return end + len(END) + lengths[0]


def load(url: str, bodies: str, connections: int) -> dict[str, Any]:
    """Send each line of a file as a body; return the total time and that of each answer, in seconds."""
    target = urlsplit(url)
    lines = Path(bodies).read_bytes().splitlines()
    head = f"POST {target.path} HTTP/1.1\r\nHost: {target.netloc}\r\nAuthorization: Bearer none\r\n"
    head += "Content-Type: application/json\r\nContent-Length: "
    requests = [b"%b%d\r\n\r\n%b" % (head.encode(), len(line), line) for line in lines]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        took, seconds = runner.run(_load(str(target.hostname), int(target.port or 80), requests, connections))
    if len(seconds) != len(requests):
        raise RuntimeError(f"{len(requests)} requests had {len(seconds)} answers")
    return {"seconds": took, "each": seconds}


async def _load(
    host: str, port: int, requests: Sequence[bytes], connections: int
) -> tuple[float, list[float]]:
    loop = asyncio.get_running_loop()
    waiting, seconds = deque(requests), list[float]()
    ends = [loop.create_future() for _ in range(connections)]
    began = time.perf_counter()
    for ended in ends:
        await loop.create_connection(lambda ended=ended: Connection(waiting, seconds, ended), host, port)
    await asyncio.gather(*ends)
    return time.perf_counter() - began, seconds


if __name__ == "__main__":
    serve({"load": load})
