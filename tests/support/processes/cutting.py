"""A proxy that cuts a connection at a chosen message."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HOST = "127.0.0.1"


@dataclass
class Cuts:
    """The cuts that are ordered: of the next `times` connections whose client sends `message`.

    With `answered` the server still gets the message and answers it, and the client does not get the answer. With
    `closed` nobody can connect; `closing` says that this begins with the cut.
    """

    port: int = 0
    message: bytes = b""
    times: int = 0
    answered: bool = False
    closed: bool = False
    closing: bool = False
    done: int = 0
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    def at(self, message: bytes, *, answered: bool, closing: bool = False) -> None:
        """Cut the next connection that sends `message`."""
        self.message, self.answered, self.closing, self.times = message, answered, closing, 1

    def all(self) -> None:
        """Cut all connections."""
        for writer in self._writers:
            writer.transport.abort()

    async def serve(self, client: asyncio.StreamReader, answer: asyncio.StreamWriter, port: int) -> None:
        """Forward both directions between a client and the server at `port`."""
        if self.closed:
            answer.transport.abort()
            return
        server, ask = await asyncio.open_connection(HOST, port)
        self._writers |= {answer, ask}
        mute = asyncio.Event()
        answering = asyncio.create_task(self._answer(server, answer, mute))
        try:
            while said := await client.read(1 << 16):
                if self.times and self.message in said:
                    self.times -= 1
                    self.done += 1
                    self.closed = self.closing
                    if self.answered:
                        mute.set()
                        ask.write(said)
                        await answering
                    return
                ask.write(said)
                await ask.drain()
        except ConnectionError:
            pass
        finally:
            answering.cancel()
            for writer in (answer, ask):
                writer.transport.abort()
            self._writers -= {answer, ask}

    async def _answer(
        self, server: asyncio.StreamReader, answer: asyncio.StreamWriter, mute: asyncio.Event
    ) -> None:
        with suppress(ConnectionError):
            while said := await server.read(1 << 16):
                if mute.is_set():
                    return
                answer.write(said)
                await answer.drain()


@asynccontextmanager
async def cutting(port: int) -> AsyncIterator[Cuts]:
    """Run the proxy in front of the server at `port` of this machine."""
    cuts = Cuts()
    server = await asyncio.start_server(lambda client, answer: cuts.serve(client, answer, port), HOST, 0)
    cuts.port = server.sockets[0].getsockname()[1]
    try:
        yield cuts
    finally:
        cuts.all()
        server.close()
        await server.wait_closed()
