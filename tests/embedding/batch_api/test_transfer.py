"""Uploads to and downloads from a provider: what keeps them going, and what ends them."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from flowbed.embedding.batch_api.transfer import PIECE, download, upload
from flowbed.errors import Misconfigured, NotFound, Rejected, Transient
from flowbed.http.client import HttpClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from flowbed.http.client import HttpResponse

    Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]
    Speaking = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

MEGABYTE = 2**20


@asynccontextmanager
async def answering(answer: Answering, *, silence: float = 5.0) -> AsyncIterator[HttpClient]:
    """Open a client of a server with one handler."""
    app = web.Application(client_max_size=2**30)
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    provider = HttpClient(site.name, vendor="acme", headers={}, timeout=silence)
    try:
        yield provider
    finally:
        await provider.aclose()
        await runner.cleanup()


@asynccontextmanager
async def speaking(speak: Speaking, *, silence: float) -> AsyncIterator[HttpClient]:
    """Open a client of a server that need not speak HTTP."""
    speaking: set[asyncio.Task[None]] = set()

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(speak(reader, writer))
        speaking.add(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await task
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        speaking.discard(task)

    server = await asyncio.start_server(served, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    provider = HttpClient(f"http://{host}:{port}", vendor="acme", headers={}, timeout=silence)
    try:
        yield provider
    finally:
        await provider.aclose()
        server.close()
        while speaking:
            for task in speaking:
                task.cancel()
            await asyncio.sleep(0.01)


class Input:
    """A file of some bytes that counts its readers, and those that closed it."""

    def __init__(self, size: int, *, fails: Exception | None = None) -> None:
        self.body = (b'{"text": "0123456789 \\r\\n--flowbed"}\n' * (size // 36 + 1))[:size]
        self.fails = fails
        self.reads = self.closed = 0

    async def read(self) -> AsyncIterator[bytes]:
        """Read it in large pieces."""
        self.reads += 1
        try:
            for start in range(0, len(self.body), MEGABYTE):
                yield self.body[start : start + MEGABYTE]
            if self.fails is not None:
                raise self.fails
        finally:
            self.closed += 1


async def send(provider: HttpClient, file: Input, size: int | None = None) -> HttpResponse:
    """Upload a file."""
    return await upload(
        provider,
        "/files",
        fields={"purpose": "batch"},
        name="input.jsonl",
        read=file.read,
        size=len(file.body) if size is None else size,
    )


def gone(answer: HttpResponse) -> Exception:
    """Return the error of a refusal."""
    return NotFound(f"{answer.status}: {answer.body.decode()}")


@pytest.mark.parametrize("size", [0, 1, PIECE, 3 * MEGABYTE + 17])
async def test_upload_file_and_fields_arrive_unchanged(size: int) -> None:
    """The form has the file's purpose, name and length; the file is unchanged."""
    file = Input(size)
    seen: dict[str, object] = {}

    async def answer(request: web.Request) -> web.Response:
        seen["length"] = request.content_length
        form = await request.post()
        sent = form["file"]
        assert isinstance(sent, web.FileField)
        seen["file"], seen["name"], seen["purpose"] = sent.file.read(), sent.filename, form["purpose"]
        sent.file.close()
        return web.json_response({"id": "file-1"})

    async with answering(answer) as provider:
        assert (await send(provider, file)).json == {"id": "file-1"}
    assert seen["file"] == file.body
    assert (seen["name"], seen["purpose"]) == ("input.jsonl", "batch")
    assert isinstance(seen["length"], int)
    assert (file.reads, file.closed) == (1, 1)


async def test_upload_slow_but_steady_succeeds() -> None:
    """An upload that lasts several times the timeout succeeds while every piece gets through in time."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen = b""
        while not seen.endswith(b"--\r\n"):
            piece = await reader.read(256 * 1024)
            assert piece, "the client closed the connection before the end of the form"
            seen = (seen + piece)[-8:]
            await asyncio.sleep(0.05)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        await writer.drain()
        await asyncio.sleep(5)

    async with speaking(speak, silence=0.6) as provider:
        began = asyncio.get_running_loop().time()
        assert (await send(provider, Input(10 * MEGABYTE))).status == 200
        assert asyncio.get_running_loop().time() - began > 2 * provider.idle_timeout


async def test_upload_stalled_is_given_up() -> None:
    """If no more data is accepted, the file is closed, and the error says so."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(MEGABYTE)
        await asyncio.sleep(5)

    file = Input(64 * MEGABYTE)
    async with speaking(speak, silence=0.3) as provider:
        with pytest.raises(Transient, match=r"accepted nothing of input\.jsonl for 0\.3 seconds"):
            await send(provider, file)
    assert file.closed == 1


async def test_upload_without_a_response_is_given_up() -> None:

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        await asyncio.sleep(5)
        return web.json_response({})

    async with answering(answer, silence=0.3) as provider:
        with pytest.raises(Transient, match="did not answer in time"):
            await send(provider, Input(10))


async def test_upload_early_refusal_is_returned() -> None:
    """A server that refuses at once is heard, though the rest of the file has not been sent."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 401 Unauthorized\r\nContent-Length: 9\r\n\r\n{"a": 12}')
        await writer.drain()
        await asyncio.sleep(5)

    file = Input(64 * MEGABYTE)
    async with speaking(speak, silence=3.0) as provider:
        answer = await asyncio.wait_for(send(provider, file), 2)
    assert (answer.status, answer.json) == (401, {"a": 12})
    assert file.closed == 1


async def test_upload_failing_file_raises_its_error() -> None:
    """An error of the store that the file comes from is not one of the provider."""

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.json_response({})

    async with answering(answer) as provider:
        with pytest.raises(NotFound, match="it is not there"):
            await send(provider, Input(2 * MEGABYTE, fails=NotFound("it is not there")))


@pytest.mark.parametrize(("there", "recorded"), [(100, 99), (100, 101), (0, 1), (3 * MEGABYTE, MEGABYTE)])
async def test_upload_changed_file_is_rejected(there: int, recorded: int) -> None:

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.json_response({})

    async with answering(answer) as provider:
        with pytest.raises(Rejected, match=f"a file of {recorded} bytes"):
            await send(provider, Input(there), size=recorded)


async def test_upload_connection_cut_is_transient() -> None:
    """A connection that ends during the upload leaves nothing open."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(MEGABYTE)
        writer.transport.abort()

    file = Input(16 * MEGABYTE)
    async with speaking(speak, silence=5.0) as provider:
        with pytest.raises(Transient):
            await send(provider, file)
    await asyncio.sleep(0)
    assert file.closed == 1


async def test_transfer_redirect_is_refused() -> None:
    """The key and the file would go to the other address."""

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        raise web.HTTPTemporaryRedirect("http://127.0.0.1:1/elsewhere")

    async with answering(answer) as provider:
        with pytest.raises(Misconfigured, match="another address"):
            await send(provider, Input(10))
        with pytest.raises(Misconfigured, match="another address"):
            _ = [piece async for piece in download(provider, "/files/1/content", gone)]


async def test_download_slow_but_steady_succeeds() -> None:
    """However long it takes, while some data arrives in time."""
    body = Input(3 * MEGABYTE).body

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for start in range(0, len(body), MEGABYTE // 2):
            await response.write(body[start : start + MEGABYTE // 2])
            await asyncio.sleep(0.15)
        return response

    async with answering(answer, silence=0.5) as provider:
        pieces = [piece async for piece in download(provider, "/files/1/content", gone)]
    assert b"".join(pieces) == body
    assert max(map(len, pieces)) <= PIECE


@pytest.mark.parametrize("ending", ["cut", "stalled"])
async def test_download_broken_off_is_transient(ending: str) -> None:
    """An incomplete file is never taken for the whole, whether the connection was cut or fell silent."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 50)
        await writer.drain()
        if ending == "stalled":
            await asyncio.sleep(5)
        writer.close()
        await writer.wait_closed()

    async with speaking(speak, silence=0.3) as provider:
        with pytest.raises(Transient):
            _ = [piece async for piece in download(provider, "/files/1/content", gone)]


async def test_download_refused_raises_the_callers_error() -> None:

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=404, text="no such file")

    async with answering(answer) as provider:
        with pytest.raises(NotFound, match="404: no such file"):
            _ = [piece async for piece in download(provider, "/files/1/content", gone)]


async def test_download_abandoned_closes_the_connection() -> None:
    """A caller that has read enough frees the connection, and the next request is answered."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=b"x" * MEGABYTE)

    async with answering(answer) as provider:
        async with contextlib.aclosing(download(provider, "/files/1/content", gone)) as pieces:
            assert await anext(pieces)
        assert (await provider.get("/files")).status == 200


async def test_download_file_without_end_stops_at_its_limit() -> None:
    """What was read until then was passed on piece by piece."""
    seen: list[int] = []

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            for _ in range(1_000):
                await response.write(b"x" * PIECE)
        return response

    async with answering(endless) as provider:
        pieces = download(provider, "/files/1/content", gone, limit=300_000)
        with pytest.raises(Misconfigured, match=r"more than 300,000 bytes"):
            _ = [seen.append(len(piece)) async for piece in pieces]  # type: ignore[func-returns-value]
    assert 0 < sum(seen) <= 300_000


async def test_download_refusal_without_end_stops_at_a_limit() -> None:

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=500)
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            for _ in range(1_000):
                await response.write(b"x" * PIECE)
        return response

    async with answering(endless) as provider:
        with pytest.raises(Misconfigured, match=r"more than 16,777,216 bytes"):
            _ = [piece async for piece in download(provider, "/files/1/content", gone)]
