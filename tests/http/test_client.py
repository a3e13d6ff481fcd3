"""The HTTP client: its errors, and the secrets they must not reveal."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import tracemalloc
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from flowbed.errors import Misconfigured, Transient
from flowbed.http.client import HttpClient, HttpResponse, parse_duration, retry_after, wait_in_message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]

SECRET = "sk-very-secret-key-000111"  # noqa: S105 - nobody's


@asynccontextmanager
async def answering(answer: Answering) -> AsyncIterator[str]:
    """Serve one handler on a free port."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield site.name
    finally:
        await runner.cleanup()


@asynccontextmanager
async def provider(url: str, **options: Any) -> AsyncIterator[HttpClient]:
    """Open a client of a server."""
    opened = HttpClient(
        url, vendor="acme", headers={"Authorization": f"Bearer {SECRET}"}, secrets=(SECRET,), **options
    )
    try:
        yield opened
    finally:
        await opened.aclose()


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "0"}, 0.0),
        (
            {
                "retry-after": "Sat, 21 Nov 2026 14:00:30 GMT",
                "date": "Sat, 21 Nov 2026 14:00:00 GMT",
            },
            30.0,
        ),
        (
            {
                "retry-after": "Sat, 21 Nov 2026 14:00:00 GMT",
                "date": "Sat, 21 Nov 2026 14:00:30 GMT",
            },
            0.0,
        ),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s"}, 360.0),
        ({"x-ratelimit-remaining-tokens": "5", "x-ratelimit-reset-tokens": "6m0s"}, None),
        ({"ratelimit": '"api";r=0;t=123'}, 123.0),
        ({"ratelimit": '"api";r=4;t=123'}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": "1796000000"}, None),
        ({"retry-after-ms": "1796000000000"}, None),
        ({"retry-after": "Sat, 21 Nov 9999 14:00:00 GMT", "date": "Sat, 21 Nov 2026 14:00:00 GMT"}, None),
        ({"retry-after": "Sat, 99 Nov 2026 99:00:00 GMT", "date": "Sat, 21 Nov 2026 14:00:00 GMT"}, None),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "9" * 400 + "h"}, None),
        ({"ratelimit": f'"api";r=0;t={"9" * 400}'}, None),
        ({"retry-after": "Sat, 21 Nov 2026 14:00:00 GMT"}, None),
        ({}, None),
    ],
)
def test_retry_after_reads_every_header(headers: dict[str, str], seconds: float | None) -> None:
    """Milliseconds before seconds before a date before the reset of a limit; anything else is ignored."""
    assert retry_after(headers) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"), [("12ms", 0.012), ("1.5s", 1.5), ("1h2m3s", 3723.0), ("", None), ("5 apples", None)]
)
def test_parse_duration_reads_openais_headers(text: str, seconds: float | None) -> None:
    assert parse_duration(text) == (pytest.approx(seconds) if seconds is not None else None)


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("Rate limit reached for m. Please try again in 1.5s. Visit", 1.5),
        ("Please try again in 6m0s.", 360.0),
        ("try again in 12ms", 0.012),
        ("Please retry after 3 seconds.", 3.0),
        ("Try again in 2 minutes", 120.0),
        ("try again in 1 Hour", 3600.0),
        (f"try again in {'9' * 290} hours", None),
        ("try again in 99999999999h", None),
        ("Please retry later.", None),
        ("1 try again in a while", None),
    ],
)
def test_wait_in_message_reads_seconds(message: str, seconds: float | None) -> None:
    assert wait_in_message(message) == seconds


@pytest.mark.parametrize(
    "url", ["", "api.acme.com", "ftp://acme.com", "https://", "http://[", "https://acme.com:port"]
)
def test_client_invalid_base_url_is_misconfigured(url: str) -> None:
    with pytest.raises(Misconfigured, match="base_url"):
        HttpClient(url, vendor="acme", headers={})


@pytest.mark.parametrize("url", ["https://me:pass-word@acme.com", "https://acme.com/v1?key=pass-word"])
def test_client_base_url_with_a_password_is_refused_and_not_repeated(url: str) -> None:
    """It would appear in logs."""
    with pytest.raises(Misconfigured) as refused:
        HttpClient(url, vendor="acme", headers={})
    assert "pass-word" not in str(refused.value)


def test_client_key_unfit_for_a_header_is_misconfigured() -> None:
    with pytest.raises(Misconfigured, match="api_key") as refused:
        HttpClient("https://acme.com", vendor="acme", headers={"Authorization": "Bearer sk-1\nHost: evil"})
    assert "sk-1" not in str(refused.value)


async def test_client_redirect_is_misconfigured() -> None:
    """The other address is not requested."""
    asked: list[str] = []

    async def elsewhere(request: web.Request) -> web.Response:
        asked.append(request.path)
        raise web.HTTPTemporaryRedirect("/elsewhere")

    async with answering(elsewhere) as url, provider(url) as opened:
        with pytest.raises(Misconfigured, match="base_url"):
            await opened.post("/embeddings", {})
    assert asked == ["/embeddings"]


async def test_client_incomplete_body_is_transient() -> None:

    async def half(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"{}")
        assert request.transport is not None
        request.transport.abort()
        return response

    async with answering(half) as url, provider(url) as opened:
        with pytest.raises(Transient) as raised:
            await opened.post("/", {})
    assert raised.value.perhaps_billed


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_response_with_a_byte_order_mark_is_read(encoding: str) -> None:
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    body = mark + '{"name": "Grüße"}'.encode(encoding)
    assert HttpResponse(status=200, headers={}, body=body).json == {"name": "Grüße"}


@pytest.mark.parametrize(
    "body", [b"", b"\xef\xbb\xbf", b"\xff\xfe{", b"\xff\xfe\x00\xd8", b"{} {}", b"[" * 5_000]
)
def test_response_that_is_not_json_is_none(body: bytes) -> None:
    assert HttpResponse(status=200, headers={}, body=body).json is None


@pytest.mark.parametrize("packed", [False, True])
async def test_client_response_without_end_is_read_up_to_a_limit(packed: bool) -> None:
    """What arrives beyond it is not read, packed or not."""
    sent = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        if packed:
            response.enable_compression(web.ContentCoding.gzip)
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while sent < 2**26:
                await response.write(b" " * 2**16)
                sent += 2**16
        return response

    async with answering(endless) as url, provider(url) as opened:
        tracemalloc.start()
        try:
            with pytest.raises(Misconfigured, match=r"more than 100,000 bytes") as raised:
                await opened.post("/", {}, limit=100_000)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert raised.value.perhaps_billed
    assert peak < 2**25


@pytest.mark.parametrize(
    ("proxy", "problem"),
    [
        ("socks5://me:pass-word@proxy.test:1080", "of the kind socks5"),
        ("socks5h://proxy.test:1080", "of the kind socks5h"),
        ("ftp://proxy.test", "of the kind ftp"),
        ("proxy.test:3128", "not a URL"),
        ("http://", "not a URL"),
        ("http://proxy.test:port", "not a URL"),
        ("http://proxy.test:99999", "not a URL"),
        ("http://[proxy", "not a URL"),
        ("http://my proxy:3128", "not a URL"),
        ("pass-word", "not a URL"),
    ],
)
def test_client_unusable_proxy_is_misconfigured_at_once(proxy: str, problem: str) -> None:
    """The message says how to write it, and does not repeat what may contain a password."""
    with pytest.raises(Misconfigured, match=problem) as refused:
        HttpClient("https://acme.com", vendor="acme", headers={}, proxy=proxy)
    for words in ("http://host:port", "[providers.acme]", "HTTPS_PROXY", "no_proxy"):
        assert words in str(refused.value)
    assert "pass-word" not in str(refused.value)
    HttpClient("https://acme.com", vendor="acme", headers={}, proxy=proxy, no_proxy="acme.com")
    HttpClient("http://localhost:1", vendor="acme", headers={}, proxy=proxy)


async def test_client_proxy_that_refuses_the_password_is_misconfigured() -> None:

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with provider("https://api.acme.test/v1", proxy=f"http://127.0.0.1:{port}") as opened:
            with pytest.raises(Misconfigured, match="proxy refuses"):
                await opened.post("/", {})


async def test_client_silent_server_is_transient() -> None:

    async def silent(request: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    async with answering(silent) as url, provider(url, timeout=1) as opened:
        with pytest.raises(Transient, match="in time") as raised:
            await opened.post("/", {})
    assert raised.value.perhaps_billed


async def test_client_failed_connection_is_not_billed() -> None:
    async with provider("http://127.0.0.1:9") as opened, provider("http://nobody.invalid") as unknown:
        for each in (opened, unknown):
            with pytest.raises(Transient, match="could not be reached") as raised:
                await each.post("/", {})
            assert not raised.value.perhaps_billed


async def test_client_reuses_connections() -> None:
    seen: list[tuple[Any, str]] = []

    async def remember(request: web.Request) -> web.Response:
        assert request.transport is not None
        seen.append((request.transport.get_extra_info("peername"), request.headers["Authorization"]))
        return web.json_response({"fine": True})

    async with answering(remember) as url, provider(url) as opened:
        for _ in range(3):
            assert (await opened.post("/", {})).json == {"fine": True}
    assert len({peer for peer, _ in seen}) == 1
    assert {key for _, key in seen} == {f"Bearer {SECRET}"}


async def test_client_proxy_is_bypassed_for_near_hosts() -> None:
    """Hosts that are listed, below a listed domain, or this machine."""

    async def proxying(request: web.Request) -> web.Response:
        return web.json_response({"asked": request.headers["Host"]})

    async with answering(proxying) as proxy:
        async with provider("http://api.acme.test/v1", proxy=proxy) as opened:
            assert (await opened.post("/", {})).json == {"asked": "api.acme.test"}
        for near in ("acme.test", ".acme.test, other", "*", "api.acme.test"):
            async with provider("http://api.acme.test/v1", proxy=proxy, no_proxy=near) as opened:
                with pytest.raises(Transient):
                    await opened.post("/", {})
        async with provider(proxy, proxy="http://nobody.test:1") as opened:
            assert (await opened.post("/", {})).status == 200


async def test_client_redacts_secrets_and_texts() -> None:
    text = "Dear diary, today the merger was agreed upon by both boards."
    async with provider("https://acme.com") as opened:
        told = opened.redacted(f"key {SECRET}\n is bad; input was {text!r} and more", ["short", text])
        middle = opened.redacted(f"refused near {text[6:]}", [text])
        long = opened.redacted("x" * 5_000)
    assert told == "key *** is bad; input was '..."
    assert "agreed upon" not in middle
    assert len(long) < 400


def test_import_loads_no_http_client() -> None:
    """Not by the package, the table of vendors or the command line."""
    code = (
        "import sys, flowbed.embedding, flowbed.cli, flowbed.embedding.providers.openai;"
        " print('aiohttp' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
