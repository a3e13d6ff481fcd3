"""What a connection takes before anyone knows who has opened it."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

import orjson
import pytest
import uvicorn
from tests.server.conftest import MODEL

from flowbed.server.http.connection import HEAD_BYTES, Connection
from flowbed.server.running import listen

if TYPE_CHECKING:
    from tests.server.conftest import Running

REST = 1  # seconds that a connection may rest
LINE = b"a: " + b"x" * 1_000 + b"\r\n"


def opened(server: Running) -> socket.socket:
    """Connect to a server."""
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


@pytest.mark.parametrize("endless", [LINE, b"x" * 1_000], ids=["many headers", "one header"])
def test_a_head_without_end_is_given_up(server: Running, endless: bytes) -> None:
    """Who sends headers without end is cut off before they fill the memory."""
    with opened(server) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nb: ")
        with pytest.raises(ConnectionError):  # noqa: PT012 - it ends when it ends
            for _ in range(100_000):
                connection.sendall(endless)
    assert server.call("GET", "/health/live").status == 200


def test_a_large_head_is_taken_and_one_too_large_told(server: Running) -> None:
    """A head may be large, however it is cut on its way; of one that is too large the client is told."""
    lines = HEAD_BYTES // len(LINE) - 1
    with opened(server) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n" + LINE * lines)
        connection.sendall(b"Connection: close\r\n\r\n")
        assert connection.makefile("rb").readline() == b"HTTP/1.1 200 OK\r\n"
    with opened(server) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n" + LINE * lines)
        connection.sendall(LINE * 2)
        assert connection.makefile("rb").readline() == b"HTTP/1.1 400 Bad Request\r\n"


def test_bodies_are_no_heads(server: Running) -> None:
    """On one connection large bodies come one after another, and small requests between them."""
    host, port = server.url.removeprefix("http://").split(":")
    large = orjson.dumps({"model": MODEL, "input": ["x" * 8_000] * 36, "user": "x" * 4_000_000})
    with closing(HTTPConnection(host, int(port), timeout=60)) as client:
        for body in (large, b"{}", large, b"", b"{}", large):
            client.request("POST", "/v1/embeddings", body, {"content-type": "application/json"})
            answer = client.getresponse()
            answer.read()
            assert answer.status == (200 if body is large else 400)


def test_requests_may_come_in_one_piece(server: Running) -> None:
    """Requests that are sent before the first is answered are each answered, bodies and all."""
    body = orjson.dumps({"model": MODEL, "input": "x" * 8_000})
    request = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n%b\r\n%b"
    with opened(server) as connection:
        for n in range(20):
            connection.sendall(request % (len(body), b"Connection: close\r\n" if n == 19 else b"", body))
        answered = connection.makefile("rb").read()
    assert answered.count(b"HTTP/1.1 200 OK\r\n") == 20


class Noting:
    """A transport that notes what is written to it at once."""

    def __init__(self, transport: Any, written: list[bytes]) -> None:
        self._transport, self._written = transport, written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self._written.append(bytes(data))
        self._transport.write(data)


OK = {"type": "http.response.start", "status": 200}


@pytest.mark.parametrize(
    ("sent", "pieces"),
    [
        (
            [OK | {"headers": [(b"content-length", b"2")]}, {"type": "http.response.body", "body": b"ok"}],
            [b"ok"],
        ),
        ([OK | {"headers": [(b"content-length", b"0")]}, {"type": "http.response.body"}], [b""]),
        (
            [
                OK,
                {"type": "http.response.body", "body": b"a", "more_body": True},
                {"type": "http.response.body", "body": b"b"},
            ],
            [b"1\r\na\r\n", b"1\r\nb\r\n0\r\n\r\n"],
        ),
        ([OK], [b""]),
    ],
    ids=["body", "no body", "stream", "broken off"],
)
async def test_the_head_goes_with_the_body(sent: list[Any], pieces: list[bytes]) -> None:
    """An answer is written in one piece, or its head with the first, and a head alone where nothing follows."""
    written: list[bytes] = []

    class Noted(Connection):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(Noting(transport, written))  # type: ignore[arg-type]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        for message in sent:
            await send(dict(message))

    listening = listen("127.0.0.1", 0)
    config = uvicorn.Config(app, http=Noted, lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve(sockets=[listening]))
    async with asyncio.timeout(60):
        while not server.started:  # noqa: ASYNC110 - the server tells it by this alone
            await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        writer.write(
            b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n"
        )
        # Told at once, for the body comes only then.
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"x")
        answered = await reader.read()
        writer.close()
    assert b"".join(written[1:]) == answered
    first, *others = written[1:]
    head, _, body = first.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert [body, *others] == pieces
    server.should_exit = True
    await running


async def test_who_does_not_ask_is_not_waited_for() -> None:
    """A connection on which no head comes, or only part of one, is closed like one that rests; others go on."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(2 * REST)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    listening = listen("127.0.0.1", 0)
    config = uvicorn.Config(
        app, http=Connection, lifespan="off", log_config=None, access_log=False, timeout_keep_alive=REST
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve(sockets=[listening]))

    async def said(*pieces: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        answered = b""
        for piece in pieces:
            writer.write(piece)
            if piece.endswith(b"\r\n\r\n"):
                answered += await reader.readuntil(b"\r\n\r\n")
        answered += await reader.read()
        writer.close()
        return answered

    whole, part = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET / HTTP/1.1\r\nHo"
    async with asyncio.timeout(60):
        while not server.started:  # noqa: ASYNC110 - the server tells it by this alone
            await asyncio.sleep(0.01)
        answers = await asyncio.gather(
            said(), said(part), said(whole), said(whole, part), said(part, whole[18:])
        )
    assert [answer.count(b"HTTP/1.1 200 OK") for answer in answers] == [0, 0, 1, 1, 1]
    server.should_exit = True
    await running
