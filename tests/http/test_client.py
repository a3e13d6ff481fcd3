"""The way to a provider: what goes wrong on it, and what is never told of it."""

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
    """Serve one function on a free port."""
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
    """Open the way to a server."""
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
def test_advice_is_read_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    """Milliseconds before seconds before a date before the reset of a limit; what is none of them is no advice."""
    assert retry_after(headers) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"), [("12ms", 0.012), ("1.5s", 1.5), ("1h2m3s", 3723.0), ("", None), ("5 apples", None)]
)
def test_durations_are_read(text: str, seconds: float | None) -> None:
    """As OpenAI's headers write them."""
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
def test_a_wait_is_read_out_of_a_message(message: str, seconds: float | None) -> None:
    """Where no header tells it."""
    assert wait_in_message(message) == seconds


@pytest.mark.parametrize(
    "url", ["", "api.acme.com", "ftp://acme.com", "https://", "http://[", "https://acme.com:port"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    """At once, and with the setting's name."""
    with pytest.raises(Misconfigured, match="base_url"):
        HttpClient(url, vendor="acme", headers={})


@pytest.mark.parametrize("url", ["https://me:pass-word@acme.com", "https://acme.com/v1?key=pass-word"])
def test_an_address_holds_no_secret(url: str) -> None:
    """It would show up in logs; the message does not repeat it either."""
    with pytest.raises(Misconfigured) as refused:
        HttpClient(url, vendor="acme", headers={})
    assert "pass-word" not in str(refused.value)


def test_a_key_that_no_header_can_carry_is_refused() -> None:
    """With the setting's name and without the key, in place of an error in the middle of a run."""
    with pytest.raises(Misconfigured, match="api_key") as refused:
        HttpClient("https://acme.com", vendor="acme", headers={"Authorization": "Bearer sk-1\nHost: evil"})
    assert "sk-1" not in str(refused.value)


async def test_the_key_goes_to_no_other_address() -> None:
    """An answer that names another address is an error, and that address is not asked."""
    asked: list[str] = []

    async def elsewhere(request: web.Request) -> web.Response:
        asked.append(request.path)
        raise web.HTTPTemporaryRedirect("/elsewhere")

    async with answering(elsewhere) as url, provider(url) as opened:
        with pytest.raises(Misconfigured, match="base_url"):
            await opened.post("/embeddings", {})
    assert asked == ["/embeddings"]


async def test_a_body_that_ends_too_soon_is_transient() -> None:
    """Fewer bytes than were announced are no answer."""

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


async def test_silence_is_transient() -> None:
    """A server that says nothing for so long is not waited for."""

    async def silent(request: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    async with answering(silent) as url, provider(url, timeout=0.1) as opened:
        with pytest.raises(Transient, match="in time") as raised:
            await opened.post("/", {})
    assert raised.value.perhaps_billed


async def test_what_was_never_sent_is_not_billed() -> None:
    """Where there was no connection, and so no request, nobody can have been paid."""
    async with provider("http://127.0.0.1:9") as opened, provider("http://nobody.invalid") as unknown:
        for each in (opened, unknown):
            with pytest.raises(Transient, match="could not be reached") as raised:
                await each.post("/", {})
            assert not raised.value.perhaps_billed


async def test_connections_are_used_again() -> None:
    """A second request does not connect again, and the key is in each of them."""
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


async def test_a_proxy_leads_there_unless_the_host_is_near() -> None:
    """A host that is listed, or below one that is, or on this machine, is reached without the proxy."""

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


async def test_what_is_repeated_holds_neither_secrets_nor_texts() -> None:
    """Of what a provider says, keys are starred out, and it ends where it begins to repeat a text."""
    text = "Dear diary, today the merger was agreed upon by both boards."
    async with provider("https://acme.com") as opened:
        told = opened.redacted(f"key {SECRET}\n is bad; input was {text!r} and more", ["short", text])
        middle = opened.redacted(f"refused near {text[6:]}", [text])
        long = opened.redacted("x" * 5_000)
    assert told == "key *** is bad; input was '..."
    assert "agreed upon" not in middle
    assert len(long) < 400


def test_nothing_of_it_is_loaded_before_it_is_needed() -> None:
    """Importing the package, the table of vendors and the command line loads no HTTP client."""
    code = (
        "import sys, flowbed.embedding, flowbed.cli, flowbed.embedding.providers.openai;"
        " print('aiohttp' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
