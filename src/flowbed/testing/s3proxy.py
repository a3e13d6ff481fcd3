"""A proxy between any client and S3, or another service of AWS, with faults on demand and a record of all requests.

    with S3Server() as server, S3Proxy(server.url, [S3Fault(method="PUT", calls=[2], after=INTERNAL_ERROR)]) as proxy:
        store = open_store("s3://bucket", folder=Path(), options={"endpoint": proxy.url, "region": REGION})

Requests are forwarded as they are signed, with the client's `Host`, so a server that checks signatures accepts them
unless it insists on its own name. Bodies are streamed.

Services whose requests are JSON, such as DynamoDB and SQS, name an operation instead of a key:
`S3Fault(key="DynamoDB*.PutItem", before=THROTTLED)`, or `key="AmazonSQS.SendMessageBatch"`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import threading
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Self
from urllib.parse import unquote

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterator, Sequence

CONDITIONS = ("If-Match", "If-None-Match")
# Headers of one connection, not of its content (RFC 9110, 7.6.1); the proxy answers `Expect` itself.
OWN = {"connection", "keep-alive", "transfer-encoding", "expect"}
PIECE = 64 << 10
# A request that waits to be overtaken continues after this long in any case.
SETTLED = 0.05  # seconds in which an event loop has processed what happened to its connections
OVERTAKEN = 0.5
PATIENCE = 30.0  # seconds that a request waits for an event at most


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer that a client gets instead of the server's; with status 0 its connection is cut.

    `body` is all of it; without one, it is an error with that code.
    """

    status: int
    code: str = ""
    body: str = ""


CUT = Answer(status=0)
INTERNAL_ERROR = Answer(status=500, code="InternalError")
SLOW_DOWN = Answer(status=503, code="SlowDown")
CONFLICT = Answer(status=409, code="ConditionalRequestConflict")
PRECONDITION_FAILED = Answer(status=412, code="PreconditionFailed")
ACCESS_DENIED = Answer(status=403, code="AccessDenied")
THROTTLED = Answer(status=400, code="ThrottlingException")
# Names the operation, for services whose requests are JSON.
TARGET = "X-Amz-Target"


@dataclass(frozen=True, kw_only=True)
class S3Fault:
    """What goes wrong, and in which requests.

    `method` and `key` (bucket, slash, key; or the operation) are shell patterns; `conditional` selects requests with
    (or without) a condition; `calls` numbers the matching requests, from 1; None means all. A random share of
    `probability` of these is affected: they come `delay` seconds late, or up to that with `jitter`, or let another
    request overtake them (`reorder`), or wait for the event `until`; they lose their conditions (`unconditional`);
    their If-Match counts only without quotes (`bare_etags`), as with Ceph; then `before` is answered instead of the
    request, or `after` once the server has applied it. `truncate` cuts the connection halfway through the answer.
    """

    method: str = "*"
    key: str = "*"
    conditional: bool | None = None
    calls: Collection[int] | None = None
    probability: float = 1.0
    delay: float = 0.0
    jitter: bool = False
    until: threading.Event | None = None
    reorder: bool = False
    unconditional: bool = False
    bare_etags: bool = False
    before: Answer | None = None
    after: Answer | None = None
    truncate: bool = False


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One request and its answer; `sent` and `received` are bytes of body, and status 0 is a cut connection."""

    method: str
    key: str
    query: str
    conditional: bool
    status: int
    sent: int
    received: int
    access_key: str


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Requests and bytes of body by method."""

    requests: Counter[str]
    sent: Counter[str]
    received: Counter[str]


class S3Proxy:
    """The proxy, which runs in its own thread while its context is open; `url` is its endpoint."""

    def __init__(self, upstream: str, faults: Sequence[S3Fault] = (), *, seed: int = 0) -> None:
        """Forward to the server at `upstream`; the same seed and requests give the same faults."""
        self.url = ""
        self.exchanges: list[Exchange] = []
        self._answered = threading.Condition()
        self.struck = 0  # how often a fault was due
        self._upstream = upstream
        self.seed(seed)
        self.order(*faults)

    def order(self, *faults: S3Fault) -> None:
        """Replace the faults."""
        self._faults = [(fault, Counter[str]()) for fault in faults]

    def seed(self, seed: int) -> None:
        """Restart the random choices from `seed`."""
        self._random = random.Random(seed)  # noqa: S311 - chance that can be repeated is the point

    def traffic(self) -> Traffic:
        """Sum up all traffic since the start, or since `forget`."""
        requests, sent, received = Counter[str](), Counter[str](), Counter[str]()
        for exchange in list(self.exchanges):
            requests[exchange.method] += 1
            sent[exchange.method] += exchange.sent
            received[exchange.method] += exchange.received
        return Traffic(requests=requests, sent=sent, received=received)

    def wait_for(self, exchanges: int, *, timeout: float = 30.0) -> None:
        """Block until this many requests have been answered; raises `TimeoutError` after `timeout` seconds."""
        with self._answered:
            if not self._answered.wait_for(lambda: len(self.exchanges) >= exchanges, timeout):
                raise TimeoutError(f"{len(self.exchanges)} requests were answered, not {exchanges}")

    def forget(self) -> None:
        """Reset the record."""
        self.exchanges = []

    def reset(self) -> None:
        """Forget all faults, requests and random choices, as if it was new."""
        self.order()
        self.seed(0)
        self.forget()
        self.struck = 0

    def __enter__(self) -> Self:
        """Start the proxy."""
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), daemon=True)
        self._thread.start()
        started.wait()
        assert self.url, "the proxy did not start"
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the proxy, and cut open requests."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _serve(self, started: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._overtaking = asyncio.Event()
        # Every client connection may wait for the server at once.
        pool = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        try:
            async with aiohttp.ClientSession(
                connector=pool, timeout=timeout, auto_decompress=False
            ) as self._client:
                server = web.Server(self._handle, access_log=None)
                runner = web.ServerRunner(server, shutdown_timeout=0.1)
                await runner.setup()
                site = web.TCPSite(runner, "127.0.0.1", 0)
                await site.start()
                self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
                started.set()
                await self._stop.wait()
                await runner.cleanup()
                # A connection that was being accepted appears only now, and would be left open.
                await asyncio.sleep(SETTLED)
                await server.shutdown(0.1)
                await asyncio.sleep(SETTLED)
        finally:
            started.set()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        due = list(self._due(request))
        await self._hold(due)
        sent = _Counted(request)
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        for fault in due:
            if fault.before is not None:
                await sent.drain()
                return self._instead(fault.before, request, sent)
        headers = CIMultiDict(
            (name, value) for name, value in request.headers.items() if name.lower() not in OWN
        )
        if not _take_conditions(headers, due):
            await sent.drain()
            return self._instead(PRECONDITION_FAILED, request, sent)
        url = URL(self._upstream + request.raw_path, encoded=True)
        body = sent if request.body_exists else None
        async with self._client.request(
            request.method, url, headers=headers, data=body, allow_redirects=False
        ) as answer:
            for fault in due:
                if fault.after is not None:
                    await answer.read()
                    return self._instead(fault.after, request, sent)
            return await self._forward(request, sent, answer, cut=any(fault.truncate for fault in due))

    async def _forward(
        self, request: web.BaseRequest, sent: _Counted, answer: aiohttp.ClientResponse, *, cut: bool
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, reason=answer.reason)
        response.headers.extend(
            (name, value) for name, value in answer.headers.items() if name.lower() not in OWN
        )
        if answer.content_length is None and request.method != "HEAD":
            response.enable_chunked_encoding()
        last = await answer.content.readany()
        received = len(last)
        if cut and last:
            await response.prepare(request)
            await response.write(last[: received // 2])
            self._account(request, sent, status=0, received=received // 2)
            return _cut(request)
        while last and (piece := await answer.content.readany()):
            if not response.prepared:
                await response.prepare(request)
            await response.write(last)
            received, last = received + len(piece), piece
        # Recorded before the end of the answer is sent: a client that has its answer finds it in the record.
        self._account(request, sent, status=answer.status, received=received)
        if not response.prepared:
            await response.prepare(request)
        await response.write(last)
        await response.write_eof()
        return response

    def _instead(self, answer: Answer, request: web.BaseRequest, sent: _Counted) -> web.StreamResponse:
        kind, body = _told(answer, request)
        self._account(request, sent, status=answer.status, received=len(body) if answer.status else 0)
        if not answer.status:
            return _cut(request)
        return web.Response(
            status=answer.status,
            text=body,
            content_type=kind,
            headers={"x-amzn-RequestId": "a-fault-to-order"},
        )

    def _account(self, request: web.BaseRequest, sent: _Counted, *, status: int, received: int) -> None:
        exchange = Exchange(
            method=request.method,
            key=_key(request),
            query=request.rel_url.raw_query_string,
            conditional=_conditional(request),
            status=status,
            sent=sent.bytes,
            received=received,
            access_key=request.headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0],
        )
        with self._answered:
            self.exchanges.append(exchange)
            self._answered.notify_all()
        self._overtaking.set()
        self._overtaking = asyncio.Event()

    async def _hold(self, due: Sequence[S3Fault]) -> None:
        """Hold a request for as long as its faults say, or until another one was answered."""
        for fault in due:
            if fault.delay:
                await asyncio.sleep(fault.delay * (self._random.random() if fault.jitter else 1.0))
            if fault.until is not None:
                await asyncio.to_thread(fault.until.wait, PATIENCE)
            if fault.reorder:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._overtaking.wait(), OVERTAKEN)

    def _due(self, request: web.BaseRequest) -> Iterator[S3Fault]:
        key, conditional = _key(request), _conditional(request)
        for fault, matched in self._faults:
            if not fnmatchcase(request.method, fault.method) or not fnmatchcase(key, fault.key):
                continue
            if fault.conditional is not None and fault.conditional != conditional:
                continue
            matched["calls"] += 1
            if fault.calls is not None and matched["calls"] not in fault.calls:
                continue
            if self._random.random() < fault.probability:
                self.struck += 1
                yield fault


class _Counted:
    """The body of a request, as a stream that counts its bytes."""

    def __init__(self, request: web.BaseRequest) -> None:
        self.bytes = 0
        self._content = request.content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._content.iter_chunked(PIECE):
            self.bytes += len(piece)
            yield piece

    async def drain(self) -> None:
        """Read the body to its end, as a regular server does."""
        async for _ in self:
            pass


def _take_conditions(headers: CIMultiDict[str], due: Sequence[S3Fault]) -> bool:
    """Change the conditions of a request as its faults say; return False if it is to be refused for them."""
    if any(fault.bare_etags for fault in due) and (etag := headers.get("If-Match")):
        if etag.startswith('"'):
            return False
        headers["If-Match"] = f'"{etag}"'
    if any(fault.unconditional for fault in due):
        for name in CONDITIONS:
            headers.popall(name, None)
    return True


def _told(answer: Answer, request: web.BaseRequest) -> tuple[str, str]:
    """Return the type and the text of an answer, in the form that the service's clients read."""
    if TARGET in request.headers:
        error = {"__type": f"com.amazonaws#{answer.code}", "message": "a fault to order"}
        return "application/x-amz-json-1.0", answer.body or json.dumps(error)
    element = f"<Error><Code>{answer.code}</Code><Message>a fault to order</Message></Error>"
    return "application/xml", answer.body or f'<?xml version="1.0" encoding="UTF-8"?>\n{element}'


def _key(request: web.BaseRequest) -> str:
    if target := request.headers.get(TARGET):
        return target
    return unquote(request.rel_url.raw_path).lstrip("/")


def _conditional(request: web.BaseRequest) -> bool:
    return any(name in request.headers for name in CONDITIONS)


def _cut(request: web.BaseRequest) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()  # never sent; aiohttp requires a response
