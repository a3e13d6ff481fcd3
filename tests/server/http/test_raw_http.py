"""Bytes that are almost HTTP, from fixed seeds: no 5xx, no traceback, no crash, bounded memory."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from tests.server.conftest import MODEL, write_project

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.server.processes import ServerProcess

SECONDS, LONG_SECONDS = 3, 60
MEMORY = 150 * 2**20  # bytes by which a server may grow
TOGETHER = 16  # connections at once
METHODS = (
    b"GET",
    b"POST",
    b"PUT",
    b"DELETE",
    b"HEAD",
    b"OPTIONS",
    b"CONNECT",
    b"PATCH",
    b"BREW",
    b"PRI",
    b"get",
    b"",
)
PATHS = (
    b"/v1/embeddings",
    b"/v1/files",
    b"/v1/files/file-a",
    b"/v1/files/%00/content",
    b"/v1/batches",
    b"/v1/search",
    b"/v1/models",
    b"/v1/models/%ff%fe",
    b"/health/live",
    b"/health/ready",
    b"/metrics",
    b"/openapi.json",
    b"/",
    b"*",
    b"//",
    b"/%2e%2e/%2e%2e",
    b"/v1/files?limit=" + b"9" * 5_000,
    b"/v1/files?after=%00",
    b"/v1/files?\xff",
    b"http://localhost/v1/models",
    b"http://[::1",
    b"localhost:80",
    b"/v1/batches/x/cancel",
    b"/" + b"a" * 9_000,
    b"/v1/admin/cache",
    b"/api/v2/heartbeat",
    b"/api/v2/tenants/t/databases/d/collections",
    b"/\xc3\xa9",
    b"?",
    b"/#a",
)
VERSIONS = (b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"HTTP/9.9", b"", b"HTTP/1.1 ", b"ICE/1.0")
TYPES = (
    b"application/json",
    b"text/plain",
    b"multipart/form-data; boundary=b",
    b"multipart/form-data",
    b"multipart/form-data; boundary=" + b"b" * 300,
    b'multipart/form-data; boundary="',
    b"\xff",
    b";" * 2_000,
    b"application/json; charset=\xff",
    b"multipart/form-data; boundary=\xff\xfe",
)
LENGTHS = (
    b"0",
    b"5",
    b"-1",
    b"+5",
    b"0x5",
    b"5, 5",
    b"0" * 5_000,
    b"9" * 5_000,
    b"99999999999999999999",
    b"",
    b"5 5",
    b"1e3",
)
BODIES = (
    b"", b"{}", b"hello", b"[" * 3_000, b'{"model":"%b","input":"hi"}' % MODEL.encode(), b"\x00" * 100, b"\xff\xfe",
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="\xff\x00"\r\n\r\nx\r\n--b--\r\n',
    b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b--\r\n', b"--b\r\n\r\n", b"--b--",
    b'{"query":"a","where":{"$or":[]}}', b'{"input":NaN}', b'{"model":1e999}', b'{"query":[1e400]}',
    b'{"model":"\\ud800","input":"a"}',
)  # fmt: skip
ODD = (
    b"Host: localhost", b"Host: ", b"Host: evil.example",
    b"Host: localhost\r\nHost: b",
    b"Host: [",
    b"Host: localhost:99999", b"Origin: null", b"Origin: http://localhost:1", b"Origin: \xff",
    b"Connection: close", b"Connection: upgrade",
    b"Upgrade: h2c", b"Upgrade: websocket", b"HTTP2-Settings: AA", b"Expect: 100-continue", b"Expect: 200-ok",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked, chunked", b"TE: trailers",
    b"Authorization: Bearer \xff", b"Authorization: Bearer " + b"f" * 9_000, b"Authorization:", b"api-key: \xe9",
    b"X-Request-Id: " + b"a" * 200, b"traceparent: 00-x-y-z", b"Cookie: " + b"a=b;" * 500, b"Range: bytes=0-,5-",
    b": nothing", b"no colon", b"a b: c", b" folded", b"X: \x01\x7f", b"X\x00: a", b"Accept-Encoding: \xff",
    b"Content-Encoding: gzip", b"If-None-Match: *",
    b"X-Flowbed-Allow-Crossing: \x80",
    b"Content-Length: 3\r\nContent-Length: 4",
)  # fmt: skip


def requested(chance: random.Random) -> bytes:
    """Generate one request, usually with something odd about it."""
    body = chance.choice(BODIES)
    headers = [b"Host: localhost"] if chance.random() < 0.8 else []
    headers += [chance.choice(ODD) for _ in range(chance.choice((0, 0, 1, 1, 2, 5)))]
    if chance.random() < 0.6:
        headers.append(b"Content-Type: " + chance.choice(TYPES))
    if any(header.startswith(b"Transfer-Encoding: chunked") for header in headers):
        size = b"%x" % len(body)
        size = chance.choice((size, size, b"0" + size, b"f" * 20, b"-1", b"", b"1;" + b"e" * 900))
        end = chance.choice((b"\r\n0\r\n\r\n", b"\r\n0\r\nTrailer: x\r\n\r\n", b"\n0\n\n", b""))
        body = size + b"\r\n" + body + end
    elif chance.random() < 0.8:
        length = b"%d" % len(body) if chance.random() < 0.7 else chance.choice(LENGTHS)
        headers.append(b"Content-Length: " + length)
    chance.shuffle(headers)
    method = chance.choice((b"GET", b"POST", b"POST", chance.choice(METHODS)))
    version = chance.choice(VERSIONS) if chance.random() < 0.2 else b"HTTP/1.1"
    first = b" ".join((method, chance.choice(PATHS), version))
    whole = b"\r\n".join([first, *headers, b"", body])
    if chance.random() < 0.2:  # a damaged byte
        at = chance.randrange(len(whole))
        whole = whole[:at] + bytes([chance.randrange(256)]) + whole[at + 1 :]
    return whole


async def send(address: tuple[str, int], chance: random.Random) -> tuple[bytes, bytes]:
    """Send a few requests on one connection, cut anywhere; return them, and what is answered until it is silent."""
    reader, writer = await asyncio.open_connection(*address)
    sent = b"".join(requested(chance) for _ in range(chance.choice((1, 1, 2, 4))))
    cut, ended, answered = chance.randrange(len(sent) + 1), chance.random() < 0.3, b""
    try:
        for piece in (sent[:cut], sent[cut:]):
            writer.write(piece)
            await asyncio.sleep(0)
        if ended:
            writer.write_eof()
        async with asyncio.timeout(0.25):
            while piece := await reader.read(65_536):
                answered += piece
    except (TimeoutError, OSError):
        pass
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return sent, answered


async def fuzz(address: tuple[str, int], seconds: float, seed: int) -> tuple[int, list[tuple[bytes, bytes]]]:
    """Send for some seconds; return how many connections were answered, and each failure with what was sent."""
    until, number = time.monotonic() + seconds, 0
    failures: list[tuple[bytes, bytes]] = []

    async def one(chance: random.Random) -> None:
        nonlocal number
        while time.monotonic() < until:
            sent, answered = await send(address, chance)
            number += bool(answered)
            if re.search(rb"HTTP/1\.1 5\d\d", answered) or b"Traceback" in answered:
                failures.append((sent[:3_000], answered[:1_000]))

    await asyncio.gather(*(one(random.Random(f"{seed} {n}")) for n in range(TOGETHER)))
    return number, failures


@pytest.mark.parametrize(
    "seconds",
    [pytest.param(SECONDS, id="short"), pytest.param(LONG_SECONDS, id="long", marks=pytest.mark.long)],
)
def test_server_odd_http_is_answered_or_refused_without_a_failure(
    serve: Callable[..., ServerProcess], tmp_path: Path, seconds: int
) -> None:
    server = serve(write_project(tmp_path / "project"), "--no-log-requests")
    host, port = server.url.removeprefix("http://").removesuffix("/v1").split(":")
    process: Any = psutil.Process(server.process.pid)
    asyncio.run(fuzz((host, int(port)), 1, 0))
    before = process.memory_info().rss
    answered, failures = asyncio.run(fuzz((host, int(port)), seconds, 1))
    assert failures == []
    assert answered > 50
    assert process.memory_info().rss - before < MEMORY
    with server.client() as client:
        assert client.embeddings.create(model=MODEL, input="still here").data
    assert server.end() == 0
    assert "Traceback" not in server.errors.read_text()
