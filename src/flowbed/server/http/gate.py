"""The gate before every route: request ids, authentication, limits on bodies and on concurrent requests."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from starlette.requests import ClientDisconnect
from starlette.routing import Match

from flowbed.errors import Error, Forbidden, Unauthorized
from flowbed.server.http.body import BODY_SECONDS, RequestBody
from flowbed.server.http.connection import KEY as CONNECTION
from flowbed.server.http.errors import Overloaded, http_error
from flowbed.server.http.origins import is_here, is_other_page
from flowbed.server.http.places import Shares
from flowbed.server.http.request_context import KEY, RequestContext
from flowbed.services.files import FILE_BYTES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping, Sequence

    from starlette.routing import BaseRoute, Route

    from flowbed.services.service import Service

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Any, Receive, Send], Awaitable[None]]
    Watcher = Callable[[RequestContext], None]

    class RouteTable(Protocol):
        """Finds the route of a request, and the parameters in its path."""

        def find(self, method: str, path: str) -> tuple[Route, dict[str, str]] | None:
            """Return them; None if the application has to look."""
            ...


# Paths for probes, scrapers and readers of the API's description: no key, no limit, no part of the load, and no text or
# vector in the response.
OPEN = frozenset({"/", "/health/live", "/health/ready", "/metrics", "/openapi.json"})
# The files of the page, below this, are open too.
PAGE = "/page/"
# Of these, what shows details to some callers only.
DETAILED = "/health/ready"
# A file may be larger than other bodies, plus the form around it.
UPLOAD = ("POST", "/v1/files")
UPLOAD_BYTES = FILE_BYTES + 2**16
# Bodies of the largest size that are read into memory at the same time.
LARGEST_BODIES = 16
# POST requests whose answers nobody can use after the client left, and that change nothing.
CANCELLED = ("/v1/embeddings", "/v1/search", "/query", "/get")
# Routes whose callers wait for no model.
BACKGROUND = ("/v1/files", "/v1/batches", "/v1/jobs", "/v1/admin/flow")
# Seconds after a response in which the client may well send its next request, as people who type and loops do.
LINGERING = 1.0
# Methods that change nothing: a page of another origin cannot read their responses.
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
GONE = 499  # status in logs and metrics for a client that left before its request was read
ID_LENGTH = 128
ID_LETTERS = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:")


@dataclass(slots=True)
class Load:
    """Requests in progress: all, and those of clients that wait for a model.

    `waited` is when the last one of these ended, in seconds of the gate's clock.
    """

    busy: int = 0
    waiting: int = 0
    waited: float = float("-inf")

    def is_busy(self, now: float) -> bool:
        """Tell whether clients wait for a model, or did a moment ago."""
        return self.waiting > 0 or now - self.waited < LINGERING


class Gate:
    """An ASGI application that admits requests to `app`, and answers every error in OpenAI's format."""

    def __init__(
        self,
        app: App,
        service: Service,
        *,
        clock: Callable[[], float],
        new_id: Callable[[], str],
        loopback: bool,
        load: Load,
        watchers: Sequence[Watcher] = (),
        begun: Watcher | None = None,
        body_seconds: float = BODY_SECONDS,
        direct: RouteTable | None = None,
        routes: Sequence[BaseRoute] = (),
    ) -> None:
        """Guard `app`.

        `loopback` says that only this machine can reach it; `clock` returns seconds. `begun` is called when a response
        starts, `watchers` when it has ended. Requests for `direct`, by method and path, skip `app` and go straight to
        their route. `routes` give refused requests their route in metrics.
        """
        self._app, self._keys, self._allowance = app, service.keys, service.quotas.allowance
        self._clock, self._new_id = clock, new_id
        self._loopback, self._load = loopback, load
        self._watchers, self._begun = tuple(watchers), begun
        self._body_bytes, self._body_seconds = service.serving.body_bytes, body_seconds
        self._most = service.serving.concurrency
        self._origins = frozenset(service.serving.origins)
        self._places = Shares(self._most)
        self._memory = Shares(LARGEST_BODIES * self._body_bytes)
        self._direct, self._routes = direct, routes

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        target = scope["method"], scope["path"]
        upload = target == UPLOAD
        body = RequestBody(
            receive,
            most=UPLOAD_BYTES if upload else self._body_bytes,
            seconds=self._body_seconds,
            memory=self._memory,
        )
        scope[KEY] = context = RequestContext(
            id=_id_of(headers.get(b"x-request-id")) or self._new_id(),
            method=scope["method"],
            path=scope["path"],
            started=self._clock(),
            headers=headers,
            read=body.read,
        )
        answer = _Response(send, context, self._clock, self._begun, body)
        self._load.busy += 1
        waiting = not _is_open(context.path) and not context.path.startswith(BACKGROUND)
        self._load.waiting += waiting
        cancelled = context.method == "POST" and context.path.endswith(CANCELLED)
        connection = scope.get(CONNECTION) if cancelled else None
        if connection is not None:
            connection.answering = asyncio.current_task()
        try:
            await self._answer(scope, context, body, answer)
        except asyncio.CancelledError:
            if connection is None or not connection.left:
                raise
            context.status = GONE
        finally:
            if connection is not None:
                connection.answering = None
            body.end()
            self._load.busy -= 1
            ended = self._clock()
            if waiting:
                self._load.waiting -= 1
                self._load.waited = ended
            context.seconds = ended - context.started
            context.route = getattr(scope.get("route") or self._matching_route(scope), "path", "")
            for watcher in self._watchers:
                watcher(context)

    async def _answer(
        self, scope: Any, context: RequestContext, body: RequestBody, answer: _Response
    ) -> None:
        """Answer one request, or send the error that prevents it."""
        placed = False
        try:
            await self._admit(context)
            holder = context.caller.key or ""
            placed = self._take_place(context.path, holder)
            body.begin(context.headers.get(b"content-length", b""), holder)
            found = None if self._direct is None else self._direct.find(context.method, context.path)
            if found is None:
                await self._app(scope, body, answer)
            else:
                route, scope["path_params"] = found
                scope["route"] = route
                await route.app(scope, body, answer)
        except ClientDisconnect:
            context.status = GONE
        except Exception as error:  # noqa: BLE001 - nothing else can answer; the log reports it
            refused = http_error(error, context, allowance=self._allowance)
            if not answer.begun:
                await answer(
                    {"type": "http.response.start", "status": refused.status, "headers": refused.headers}
                )
                await answer({"type": "http.response.body", "body": refused.body})
        finally:
            if placed:
                self._places.give_back(context.caller.key or "")

    def _matching_route(self, scope: Any) -> BaseRoute | None:
        """Find the route of a request that was refused before it got there."""
        return next((each for each in self._routes if each.matches(scope)[0] is not Match.NONE), None)

    async def _admit(self, context: RequestContext) -> None:
        """Identify the caller.

        Raises:
            Overloaded: the limit of concurrent requests is reached.
            Unauthorized: a valid key is required and was not sent.
            Forbidden: there are no keys, and a page of another origin sends it.
        """
        if context.path == DETAILED:
            with contextlib.suppress(Error):
                await self._identify(context)
        if _is_open(context.path):
            return
        if not self._places.free:
            raise self._overloaded()
        await self._identify(context)

    async def _identify(self, context: RequestContext) -> None:
        caller = await self._keys.caller(_secret_of(context.headers))
        if caller.key is None:
            if not (self._loopback and is_here(context.headers, self._origins)):
                raise Unauthorized(
                    "This server has no API keys, so it only answers clients on this machine that call it localhost or"
                    " 127.0.0.1, and no web pages from elsewhere. Its operator can create a key with `flowbed keys"
                    " create`."
                )
            if context.method not in SAFE and is_other_page(context.headers, self._origins):
                raise Forbidden(
                    "Without API keys, pages of another origin may not change or send anything. The operator can add"
                    " the origin to `origins` in [serve], or create a key with `flowbed keys create`."
                )
        context.caller = caller

    def _take_place(self, path: str, holder: str) -> bool:
        if _is_open(path):
            return False
        if not self._places.take(holder):
            raise self._overloaded()
        return True

    def _overloaded(self) -> Overloaded:
        return Overloaded(
            f"The server is at its limit of {self._most} concurrent requests, or this key at its share of them; try"
            " again in a moment."
        )


class _Response:
    """An ASGI `send` that adds the headers of every response."""

    __slots__ = ("_begun", "_body", "_clock", "_context", "_send", "begun")

    def __init__(
        self,
        send: Send,
        context: RequestContext,
        clock: Callable[[], float],
        begun: Watcher | None,
        body: RequestBody,
    ) -> None:
        self._send, self._context, self._clock, self._begun = send, context, clock, begun
        self._body = body
        self.begun = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            context = self._context
            context.status = message["status"]
            if self._begun is not None:
                self._begun(context)
            message["headers"] = [
                *message["headers"],
                (b"x-request-id", context.id.encode()),
                (b"openai-processing-ms", b"%d" % ((self._clock() - context.started) * 1000)),
            ]
            if context.headers.get(b"expect", b"").lower() == b"100-continue" and not self._body.asked:
                # The client keeps its body back. What it sends next would be taken for that body.
                message["headers"].append((b"connection", b"close"))
        await self._send(message)


def _is_open(path: str) -> bool:
    return path in OPEN or path.startswith(PAGE)


def _id_of(sent: bytes | None) -> str:
    """Return the id that a proxy or client gave the request, if it is safe in a header and a log."""
    if not sent or len(sent) > ID_LENGTH or not ID_LETTERS.issuperset(sent):
        return ""
    return sent.decode()


def _secret_of(headers: dict[bytes, bytes]) -> str | None:
    """Return the key, sent as OpenAI's clients, Azure's or Chroma's do."""
    scheme, _, secret = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and secret.strip():
        return secret.strip().decode("latin-1")
    other = headers.get(b"api-key", b"").strip() or headers.get(b"x-chroma-token", b"").strip()
    return other.decode("latin-1") if other else None
