"""The HTTP client: its errors, and the secrets they must not reveal."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from flowbed.errors import Misconfigured, Transient
from flowbed.http.client import HttpClient, parse_duration, retry_after, wait_in_message

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


async def test_client_silent_server_is_transient() -> None:

    async def silent(request: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    async with answering(silent) as url, provider(url, timeout=0.1) as opened:
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
