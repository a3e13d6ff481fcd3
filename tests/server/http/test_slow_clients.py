"""Clients that send without reading, read without hurry, or stop in the middle."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from tests.server.conftest import MODEL, call
from tests.server.http.test_connection import served

from flowbed.records import SearchResults
from flowbed.records.serving import Caller
from flowbed.server.app import create_app
from flowbed.server.http import connection
from flowbed.server.http.connection import KEPT_BYTES, Connection
from flowbed.server.http.places import Addresses, Shares
from flowbed.services import search as search_service
from flowbed.services.search import SearchService

if TYPE_CHECKING:
    from flowbed.services.service import Service

HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
START = {"type": "http.response.start", "status": 200}


async def answer(send: Any, body: bytes = b"", status: int = 200) -> None:
    """Send a response."""
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


async def test_connection_requests_sent_ahead_are_not_parsed_before_their_turn() -> None:
    """What is kept of them is bounded: the client cannot send more."""
    made: list[Connection] = []
    begun, go = Counter[str](), asyncio.Event()

    class Watched(Connection):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            made.append(self)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        begun[scope["path"]] += 1
        await go.wait()
        await answer(send)

    async with served(app, Watched) as address:
        reader, writer = await asyncio.open_connection(*address)
        number = 20_000
        writer.write(HEAD * number)
        async with asyncio.timeout(30):
            while not made or len(made[0]._kept) <= KEPT_BYTES:  # noqa: ASYNC110 - nothing says when
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert begun == {"/": 1}
        assert len(made[0].pipeline) == 0
        # One more read of the event loop, of 256 KB, may be on its way.
        assert len(made[0]._kept) < KEPT_BYTES + 2**19
        go.set()
        async with asyncio.timeout(120):
            for _ in range(number):
                await reader.readuntil(b"\r\n\r\n")
        assert begun == {"/": number}
        writer.close()


async def test_connection_unread_responses_stop_further_requests() -> None:
    """Requests are answered no faster than the client reads."""
    begun = Counter[str]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        begun[scope["path"]] += 1
        await answer(send, b"x" * 100_000)

    async with served(app) as address:
        _, writer = await asyncio.open_connection(*address, limit=1_000)
        writer.write(HEAD * 20_000)
        seen = -1
        async with asyncio.timeout(60):
            while seen != begun["/"]:
                seen = begun["/"]
                await asyncio.sleep(0.2)
        assert seen < 1_000  # 2 GB are not written for 700 KB
        writer.transport.abort()
    assert begun["/"] < 1_000


@pytest.mark.parametrize("status", [401, 404, 413])
async def test_connection_body_that_drips_after_its_response_ends_with_the_connection(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "DRAINED_SECONDS", 0.2)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, status=status)

    async with served(app) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(POST % 10_000)
        assert str(status).encode() in await reader.readuntil(b"\r\n\r\n")
        with pytest.raises(ConnectionError):  # noqa: PT012 - the server decides when
            for _ in range(1_000):
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.01)
        writer.close()


async def test_connection_large_body_after_its_response_is_read_up_to_a_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "DRAINED_BYTES", 1_000_000)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, status=413)

    async with served(app) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(POST % 900_000 + b"x" * 900_000 + HEAD)
        for _ in range(2):  # the connection is used further
            assert b"413" in await reader.readuntil(b"\r\n\r\n")
        writer.write(POST % 50_000_000)
        assert b"413" in await reader.readuntil(b"\r\n\r\n")
        with pytest.raises(ConnectionError):  # noqa: PT012 - the server decides when
            for _ in range(500):
                writer.write(b"x" * 100_000)
                await writer.drain()
        writer.close()


async def test_connection_that_is_idle_after_an_unwanted_body_is_closed() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, status=404)

    async with served(app, timeout_keep_alive=1) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(POST % 3)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"abc")
        async with asyncio.timeout(30):
            assert await reader.read() == b""
        writer.close()


async def test_connection_response_that_is_never_read_breaks_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow reader gets all of it."""
    monkeypatch.setattr(connection, "WRITE_SECONDS", 1.0)
    monkeypatch.setattr(connection, "WRITE_RATE", 100_000)
    size, ended = 20_000_000, asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START | {"headers": [(b"content-length", b"%d" % size)]})
        for at in range(0, size, 100_000):
            await send(
                {"type": "http.response.body", "body": b"x" * 100_000, "more_body": at + 100_000 < size}
            )
        ended.set()

    async with served(app) as address:
        _, unread = await asyncio.open_connection(*address, limit=1_000)
        unread.write(HEAD)
        async with asyncio.timeout(30):
            await ended.wait()  # broken off: nothing more was awaited
        unread.close()
        reader, writer = await asyncio.open_connection(*address, limit=1_000)
        writer.write(HEAD)
        await reader.readuntil(b"\r\n\r\n")
        got = 0
        async with asyncio.timeout(60):
            while got < size:
                got += len(piece := await reader.read(100_000))
                assert piece, f"broken off after {got:,} bytes"
                if got % 1_000_000 < 100_000:
                    await asyncio.sleep(0.01)
        writer.close()


async def test_connection_closed_with_unread_bytes_is_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "WRITE_SECONDS", 0.2)
    lost = asyncio.Event()

    class Watched(Connection):
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            lost.set()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"x" * 50_000_000)

    async with served(app, Watched) as address:
        _, writer = await asyncio.open_connection(*address, limit=1_000)
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(30):
            await lost.wait()
        writer.transport.abort()


async def test_connection_offer_of_another_protocol_is_ignored() -> None:
    """Java's HttpClient offers h2c with each request; the body follows at once or later."""
    bodies = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        body = message["body"]
        while message["more_body"]:
            message = await receive()
            body += message["body"]
        bodies.append(body)
        await answer(send, body)

    offer = b"POST / HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\n%b: h2c\r\nHost: a\r\n%b\r\n\r\n"
    async with served(app) as address:
        reader, writer = await asyncio.open_connection(*address)
        for name in (b"Upgrade", b"UPGRADE", b"upgrade"):
            for kind, body in (
                (b"Content-Length: 5", b"hello"),
                (b"Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n"),
            ):
                for pieces in (
                    [offer % (name, kind) + body],
                    [offer % (name, kind), body],
                    [b"%c" % c for c in offer % (name, kind) + body],
                ):
                    for piece in pieces:
                        writer.write(piece)
                        await writer.drain()
                    await reader.readuntil(b"\r\n\r\n")
                    assert await reader.readexactly(5) == b"hello"
        writer.close()
    assert bodies == [b"hello"] * 18


async def test_connection_chunked_bodies_and_their_followers_are_each_answered() -> None:
    """Wherever the packets are cut, and whatever the chunks contain."""
    body = b"\r\n\r\nGET / HTTP/1.1\r\n\r\n"
    request = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\nTrailer: x\r\n\r\n" % (
        len(body),
        body,
    )

    async def app(scope: Any, receive: Any, send: Any) -> None:
        read, more = b"", True
        while more:
            message = await receive()
            read, more = read + message["body"], message["more_body"]
        await answer(send, read)

    async with served(app) as address:
        reader, writer = await asyncio.open_connection(*address)
        sent = request * 3 + POST % len(body) + body + request
        for step in (1, 7, 64, len(sent)):
            for at in range(0, len(sent), step):
                writer.write(sent[at : at + step])
                if step < 64:
                    await asyncio.sleep(0)
            for _ in range(5):
                await reader.readuntil(b"\r\n\r\n")
                assert await reader.readexactly(len(body)) == body
        writer.close()


async def test_connection_endless_trailers_are_refused() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass

    async with served(app) as address:
        _, writer = await asyncio.open_connection(*address)
        writer.write(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
        with pytest.raises(ConnectionError):  # noqa: PT012 - the server decides when
            for _ in range(100_000):
                writer.write(b"a: %b\r\n" % (b"x" * 1_000))
                await writer.drain()
        writer.close()


async def test_connection_beyond_the_limit_of_its_address_is_closed_at_once() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send)

    async with served(app, partial(Connection, addresses=Addresses(2))) as address:  # type: ignore[arg-type] # makes one
        first, second = [await asyncio.open_connection(*address) for _ in range(2)]
        for reader, writer in (first, second):
            writer.write(HEAD)
            await reader.readuntil(b"\r\n\r\n")

        async def accepted() -> bool:
            reader, writer = await asyncio.open_connection(*address)
            try:
                writer.write(HEAD)
                await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                return False
            finally:
                writer.close()
            return True

        assert not await accepted()
        first[1].close()
        async with asyncio.timeout(30):
            while not await accepted():  # noqa: ASYNC110 - the first one is still closing
                await asyncio.sleep(0.01)
        second[1].close()


@pytest.mark.parametrize(("holders", "each"), [(1, 75), (2, 43), (3, 30)])
def test_shares_no_number_of_holders_takes_everything(holders: int, each: int) -> None:
    shares = Shares(100)
    taken = Counter[str]()
    for _ in range(100):
        for holder in range(holders):
            taken[str(holder)] += shares.take(str(holder))
    assert shares.free > 0
    assert all(abs(count - each) <= 2 for count in taken.values())
    assert shares.take("other")
    shares.give_back("other")
    for name, count in taken.items():
        shares.give_back(name, count)
    assert shares.free == 100


def test_shares_holders_that_cannot_be_told_apart_get_all() -> None:
    shares = Shares(2)
    assert [shares.take("") for _ in range(3)] == [True, True, False]


async def test_gate_one_key_with_bodies_that_never_come_leaves_places_to_others(service: Service) -> None:
    """Its requests end when their bodies stall."""
    secrets = [(await service.keys.create(name, secret=service.bed.secret))[1] for name in ("a", "b")]
    few = replace(service, serving=replace(service.serving, concurrency=8), keys=service.bed.keys())
    app = create_app(few, body_seconds=3)  # until then all are admitted or refused
    settled = asyncio.Queue[None]()  # one for each request that was admitted or answered

    async def never() -> dict[str, Any]:
        settled.put_nowait(None)
        await asyncio.sleep(3600)
        return {}

    def headers(secret: str) -> dict[str, str]:
        return {"authorization": f"Bearer {secret}", "content-type": "application/json"}

    stuck = [
        asyncio.create_task(call(app, "POST", "/v1/embeddings", never, headers(secrets[0]))) for _ in range(8)
    ]
    for each in stuck:
        each.add_done_callback(lambda _: settled.put_nowait(None))
    for _ in stuck:
        await settled.get()
    body = orjson.dumps({"model": MODEL, "input": "text"})
    reply = await call(app, "POST", "/v1/embeddings", body, headers(secrets[1]))
    assert reply.status == 200
    statuses = Counter([(await each).status for each in stuck])
    assert statuses == {408: 6, 503: 2}


async def test_gate_large_bodies_of_one_key_leave_memory_to_others(service: Service) -> None:
    secrets = [(await service.keys.create(name, secret=service.bed.secret))[1] for name in ("a", "b")]
    small = replace(service, serving=replace(service.serving, body_bytes=200_000), keys=service.bed.keys())
    app = create_app(small, body_seconds=2)
    held = Counter[int]()

    def headers(secret: str) -> dict[str, str]:
        return {"authorization": f"Bearer {secret}", "content-type": "application/json"}

    def slow(number: int) -> Any:
        async def receive() -> dict[str, Any]:
            held[number] += 1
            if held[number] > 1:
                await asyncio.sleep(3600)
            return {"type": "http.request", "body": b" " * 190_000, "more_body": True}

        return receive

    stuck = [
        asyncio.create_task(call(app, "POST", "/v1/embeddings", slow(n), headers(secrets[0])))
        for n in range(20)
    ]
    async with asyncio.timeout(30):
        while len(held) < 20:  # noqa: ASYNC110 - nothing says when
            await asyncio.sleep(0.01)
    body = orjson.dumps({"model": MODEL, "input": "text", "user": "x" * 150_000})
    reply = await call(app, "POST", "/v1/embeddings", body, headers(secrets[1]))
    assert reply.status == 200
    statuses = Counter([(await each).status for each in stuck])
    assert statuses == {408: 12, 503: 8}


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/search"])
async def test_gate_request_of_a_client_that_left_is_cancelled(service: Service, path: str) -> None:
    """Its place is free again, and its tokens are counted."""
    asked, cancelled = asyncio.Event(), asyncio.Event()

    async def wait(*_: Any, **__: Any) -> Any:
        asked.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    class Waiting:
        answer = find = staticmethod(wait)

    waiting: Any = Waiting()
    app = create_app(replace(service, embeddings=waiting, search=waiting))
    body = orjson.dumps({"model": MODEL, "input": "a"} if path == "/v1/embeddings" else {"query": "a"})
    head = (
        b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    )
    async with served(app) as address, asyncio.timeout(30):
        _, writer = await asyncio.open_connection(*address)
        writer.write(head % (path.encode(), len(body)) + body)
        await asked.wait()
        writer.close()
        await cancelled.wait()
        await asyncio.sleep(0)
        metrics = (await call(app, "GET", "/metrics")).body
    assert b'route="%b",status="499"} 1.0' % path.encode() in metrics
    assert app.state.load.busy == 0


async def test_search_one_key_begins_no_more_than_half_of_the_threads(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that wait for their turn are not begun once their callers left; other keys go on."""
    monkeypatch.setattr(search_service, "SEARCHES", 2)
    begun, go = defaultdict[str, list[int]](list), asyncio.Event()

    class Slow:
        model = service.bed.model
        open_model = staticmethod(service.bed.open_model)
        reader = staticmethod(service.bed.reader)

        async def find(self, query: Any, **options: Any) -> SearchResults:
            begun[options["collection"]].append(int(query[0]))
            await go.wait()
            return SearchResults(hits=(), versions={})

    bed: Any = Slow()
    searches = SearchService(bed, service.models, service.quotas, service.serving)

    def ask(key: str, number: int) -> asyncio.Task[SearchResults]:
        return asyncio.create_task(
            searches.find(Caller(key=key), [float(number), *[0.0] * 63], collection=key)
        )

    mine = [ask("mine", number) for number in range(6)]
    other = ask("other", 6)
    async with asyncio.timeout(30):
        while len(begun["other"]) < 1 or len(begun["mine"]) < 2:  # noqa: ASYNC110 - nothing says when
            await asyncio.sleep(0.001)
        first = list(begun["mine"])
        waiting = [number for number in range(6) if number not in first]
        for number in (first[0], *waiting[1:]):
            mine[number].cancel()
        await asyncio.sleep(0.01)
        assert (begun["mine"], begun["other"]) == (first, [6])
        go.set()
        await asyncio.gather(other, *mine, return_exceptions=True)
    assert (begun["mine"], begun["other"]) == ([*first, waiting[0]], [6])
