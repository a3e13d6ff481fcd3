"""Connections before anyone is authenticated: limits on heads, and how responses are written."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager, closing
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

import orjson
import pytest
import uvicorn
from tests.server.conftest import MODEL

from flowbed.server.http.connection import HEAD_BYTES, Connection
from flowbed.server.running import listen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.server.conftest import Running

REST = 0.5  # seconds that a connection may rest
LINE = b"a: " + b"x" * 1_000 + b"\r\n"


def opened(server: Running) -> socket.socket:
    """Connect to a server."""
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


@pytest.mark.parametrize("endless", [LINE, b"x" * 1_000], ids=["many headers", "one header"])
def test_connection_endless_head_is_closed(server: Running, endless: bytes) -> None:
    with opened(server) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nb: ")
        with pytest.raises(ConnectionError):  # noqa: PT012 - the server decides when
            for _ in range(100_000):
                connection.sendall(endless)
    assert server.call("GET", "/health/live").status == 200


def test_connection_head_up_to_the_limit_is_read_and_beyond_it_gets_400(server: Running) -> None:
    lines = HEAD_BYTES // len(LINE) - 1
    with opened(server) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n" + LINE * lines)
        connection.sendall(b"Connection: close\r\n\r\n")
        assert connection.makefile("rb").readline() == b"HTTP/1.1 200 OK\r\n"
    with opened(server) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n" + LINE * lines)
        connection.sendall(LINE * 2)
        assert connection.makefile("rb").readline() == b"HTTP/1.1 400 Bad Request\r\n"


def test_connection_answer_to_a_body_that_is_kept_back_closes_it(server: Running) -> None:
    """Nobody asked for the body, so the client does not send it, and its next request would be taken for it."""
    head = b"Host: localhost\r\nExpect: 100-continue\r\nContent-Length: 100\r\n\r\n"
    with opened(server) as connection:
        connection.sendall(b"POST /v1/nothing HTTP/1.1\r\n" + head)
        answer = connection.makefile("rb").read()  # up to the end of the connection
    assert answer.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert b"\r\nconnection: close\r\n" in answer
    with opened(server) as connection, connection.makefile("rb") as lines:
        connection.sendall(b"POST /v1/embeddings HTTP/1.1\r\n" + head)
        assert lines.readline() == b"HTTP/1.1 100 Continue\r\n"
        connection.sendall(b"x" * 100 + b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert sum(b"HTTP/1.1 " in lines.readline() for _ in range(15)) == 2


def test_connection_large_bodies_do_not_count_as_heads(server: Running) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    large = orjson.dumps({"model": MODEL, "input": ["x" * 8_000] * 36, "user": "x" * 4_000_000})
    with closing(HTTPConnection(host, int(port), timeout=60)) as client:
        for body in (large, b"{}", large, b"", b"{}", large):
            client.request("POST", "/v1/embeddings", body, {"content-type": "application/json"})
            answer = client.getresponse()
            answer.read()
            assert answer.status == (200 if body is large else 400)


def test_connection_pipelined_requests_are_each_answered(server: Running) -> None:
    body = orjson.dumps({"model": MODEL, "input": "x" * 8_000})
    request = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n%b\r\n%b"
    with opened(server) as connection:
        for n in range(20):
            connection.sendall(request % (len(body), b"Connection: close\r\n" if n == 19 else b"", body))
        answered = connection.makefile("rb").read()
    assert answered.count(b"HTTP/1.1 200 OK\r\n") == 20


class RecordingTransport:
    """A transport that records each write."""

    def __init__(self, transport: Any, written: list[bytes]) -> None:
        self._transport, self._written = transport, written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self._written.append(bytes(data))
        self._transport.write(data)


OK = {"type": "http.response.start", "status": 200}


@asynccontextmanager
async def served(
    app: Any, http: type[Connection] = Connection, **config: Any
) -> AsyncIterator[tuple[str, int]]:
    """Serve an application, and yield its address."""
    listening = listen("127.0.0.1", 0)
    settings = uvicorn.Config(app, http=http, lifespan="off", log_config=None, access_log=False, **config)
    server = uvicorn.Server(settings)
    running = asyncio.create_task(server.serve(sockets=[listening]))
    async with asyncio.timeout(60):
        while not server.started:  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.01)
        yield listening.getsockname()
        server.should_exit = True
        await running


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
async def test_connection_response_head_is_written_with_the_first_part_of_the_body(
    sent: list[Any], pieces: list[bytes]
) -> None:
    written: list[bytes] = []

    class Recording(Connection):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(RecordingTransport(transport, written))  # type: ignore[arg-type]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        for message in sent:
            await send(dict(message))

    async with served(app, Recording) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(
            b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n"
        )
        # Not held back: the client sends the body only after it.
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"x")
        answered = await reader.read()
        writer.close()
    assert b"".join(written[1:]) == answered
    first, *others = written[1:]
    head, _, body = first.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert [body, *others] == pieces


async def test_connection_body_that_comes_later_does_not_hold_the_head_back() -> None:
    received = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(OK | {"headers": [(b"content-length", b"2")]})
        await received.wait()
        await send({"type": "http.response.body", "body": b"ok"})

    async with served(app) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        received.set()
        assert await reader.read() == b"ok"
        writer.close()


async def test_connection_without_a_complete_head_is_closed_like_an_idle_one() -> None:
    """Connections with a complete head are answered first."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(2 * REST)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    async def call(*pieces: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*address)
        answered = b""
        for piece in pieces:
            writer.write(piece)
            if piece.endswith(b"\r\n\r\n"):
                answered += await reader.readuntil(b"\r\n\r\n")
        answered += await reader.read()
        writer.close()
        return answered

    whole, part = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET / HTTP/1.1\r\nHo"
    async with served(app, timeout_keep_alive=REST) as address:
        answers = await asyncio.gather(
            call(), call(part), call(whole), call(whole, part), call(part, whole[18:])
        )
    assert [answer.count(b"HTTP/1.1 200 OK") for answer in answers] == [0, 0, 1, 1, 1]
