"""Serves the tools: over the standard streams of an agent's own process, or over HTTP to many."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import orjson
import uvicorn
from mcp.server.transport_security import TransportSecuritySettings

from flowbed.errors import Misconfigured, Transient, Unauthorized
from flowbed.server.mcp.tools import mcp_server

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from flowbed.bed import Flowbed
    from flowbed.services.keys import KeyService

PATH = "/mcp"
# Seconds that requests have to finish after SIGTERM.
GRACE = 10
BACKLOG = 128  # connections that wait to be accepted: a team's agents are few
LOOPBACK = ["127.0.0.1:*", "localhost:*", "[::1]:*"]


async def serve_streams(bed: Flowbed, *, may_change: bool) -> None:
    """Answer one agent over standard input and output, until its end of them is closed."""
    await mcp_server(lambda: bed, may_change=may_change).run_stdio_async()


async def serve_http(
    bed: Flowbed,
    listening: socket.socket,
    *,
    loopback: bool,
    may_change: bool,
    started: Callable[[], None],
) -> None:
    """Answer agents over streamable HTTP at `/mcp` until the process is told to stop.

    Where the project has API keys, each request needs one.

    Raises:
        Misconfigured: other machines reach the address, and the project has no API keys.
    """
    keys = bed.keys()
    required = await keys.required()
    await keys.require_deliberate(without_keys=False)
    if not required and not loopback:
        raise Misconfigured(
            "without API keys only this machine may reach the tools: create a key with `flowbed keys create NAME`,"
            " or leave --host out"
        )
    # Without keys a web page could send requests under a name of its own for this address.
    security = TransportSecuritySettings(
        enable_dns_rebinding_protection=not required,
        allowed_hosts=LOOPBACK,
        allowed_origins=[f"http://{each}" for each in LOOPBACK],
    )
    server = mcp_server(lambda: bed, may_change=may_change)
    app = Keyed(server.streamable_http_app(streamable_http_path=PATH, transport_security=security), keys)
    config = uvicorn.Config(
        app,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE,
    )
    running = uvicorn.Server(config)
    signals: list[int] = []

    def stop(number: int, _: object) -> None:
        signals.append(number)
        running.should_exit = True

    # uvicorn raises the signals that it caught again once it has stopped, before the project is closed.
    kept = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        listening.listen(BACKLOG)
        started()
        await running.serve(sockets=[listening])
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    if signal.SIGINT in signals:
        raise KeyboardInterrupt


class Keyed:
    """An ASGI application whose requests need an API key, as soon as the project has one."""

    def __init__(self, app: Any, keys: KeyService) -> None:
        """Ask `keys` before `app`."""
        self._app, self._keys = app, keys

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            await self._keys.caller(_secret(scope))
        except Unauthorized as error:
            await _refuse(send, 401, str(error))
        except Transient as error:
            await _refuse(send, 503, str(error))
        else:
            await self._app(scope, receive, send)


def _secret(scope: Any) -> str | None:
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, secret = value.partition(b" ")
            return secret.strip().decode("latin-1") if scheme.lower() == b"bearer" else None
    return None


async def _refuse(send: Any, status: int, message: str) -> None:
    headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": orjson.dumps({"error": {"message": message}})})
