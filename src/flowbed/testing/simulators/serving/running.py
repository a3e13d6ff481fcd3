"""Serve an ASGI application on a port of 127.0.0.1, in this event loop or in its own thread.

async with running(openai()) as url: ...        # the tests and the application share the event loop
with running_thread(openai()) as url: ...       # for blocking clients
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from flowbed.testing.simulators.serving.asgi import TRANSPORT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

# Connections waiting to be accepted: load tests open thousands at once.
BACKLOG = 4096
PATIENCE = 1.0  # seconds for requests that were cut off to notice it


class Cutting(HttpToolsProtocol):
    """Uvicorn's HTTP protocol, with connections that the application can close."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Remember the connection for the application."""
        super().connection_made(transport)
        app = self.app

        async def offering(scope: Any, receive: Any, send: Any) -> None:  # ASGI's types
            scope["extensions"] = {TRANSPORT: transport}
            await app(scope, receive, send)

        self.app = offering

    @property
    def is_answering(self) -> bool:
        """Return whether a request was received whose answer is not complete."""
        # None until the first request, which uvicorn's types omit.
        return self.cycle is not None and not self.cycle.response_complete  # type: ignore[redundant-expr]


@asynccontextmanager
async def running(
    app: Any, *, port: int = 0, dated: bool = True
) -> AsyncIterator[str]:  # any ASGI application
    """Serve `app` in this event loop, and yield its address; port 0 picks a free one.

    `dated` answers have the header Date; an application with a clock of its own writes that itself.

    On exit, requests that are being answered are cut off.
    """
    listening = socket.create_server(("127.0.0.1", port), backlog=BACKLOG)
    # asyncio sets this only for sockets that are known to be TCP; without it each answer waits 40 ms for an ACK.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    config = uvicorn.Config(
        app,
        http=Cutting,
        ws="none",
        log_config=None,
        log_level=logging.ERROR,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=dated,
        timeout_keep_alive=60,
        backlog=BACKLOG,
    )
    server = uvicorn.Server(config)
    # What `serve` does, without its signal handlers, which belong to the process that runs the tests.
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[listening])
    ticking = asyncio.ensure_future(server.main_loop())  # keeps the Date header current
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        ticking.cancel()
        await _stop(server)


async def _stop(server: uvicorn.Server) -> None:
    """Do what `Server.shutdown` does, without its pauses of 0.1 s: a test stops up to a dozen servers."""
    for listener in server.servers:
        listener.close()
    for connection in list(server.server_state.connections):
        if isinstance(connection, Cutting) and connection.is_answering:
            connection.transport.abort()
        else:
            connection.shutdown()
    tasks = set(server.server_state.tasks)
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=PATIENCE)
        for task in late:
            task.cancel()
    while server.server_state.connections:  # noqa: ASYNC110 - closed in the next turn of the event loop
        await asyncio.sleep(0)
    for listener in server.servers:
        await listener.wait_closed()
    await server.lifespan.shutdown()


@contextmanager
def running_thread(app: Any, *, port: int = 0, dated: bool = True) -> Iterator[str]:  # any ASGI application
    """Serve `app` in its own event loop and thread, and yield its address; `dated` is as for `running`."""
    urls: list[str] = []
    started, ended = threading.Event(), threading.Event()

    async def serve() -> None:
        async with running(app, port=port, dated=dated) as url:
            urls.append(url)
            started.set()
            await asyncio.to_thread(ended.wait)

    def run() -> None:
        try:
            asyncio.run(serve())
        finally:
            started.set()

    thread = threading.Thread(target=run)
    thread.start()
    started.wait()
    try:
        if not urls:
            raise RuntimeError("the server did not start; see the exception in its thread")
        yield urls[0]
    finally:
        ended.set()
        thread.join()
