"""The gate before every route: request ids, authentication, limits on bodies and on concurrent requests."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect
from starlette.routing import Match

from flowbed.errors import Unauthorized
from flowbed.server.http.body import BODY_SECONDS, RequestBody
from flowbed.server.http.errors import Overloaded, http_error
from flowbed.server.http.request_context import KEY, RequestContext
from flowbed.services.files import FILE_BYTES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence

    from starlette.routing import BaseRoute, Route

    from flowbed.services.service import Service

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Any, Receive, Send], Awaitable[None]]
    Watcher = Callable[[RequestContext], None]

# Paths for probes, scrapers and readers of the API's description: no key, no limit, no part of the load, and no text or
# vector in the response.
OPEN = frozenset({"/health/live", "/health/ready", "/metrics", "/openapi.json"})
# Host names that a web page cannot make a browser use for another machine: without keys, neither a page under its own
# name that resolves here nor a request of another origin gets an answer.
LOOPBACK = frozenset({b"localhost", b"127.0.0.1", b"[::1]"})
# A file may be larger than other bodies (plus the form around it) and take longer, as long as it comes at more than 1
# Mbit/s.
UPLOAD = ("POST", "/v1/files")
UPLOAD_BYTES, UPLOAD_RATE = FILE_BYTES + 2**16, 2**17
# Routes whose callers wait for no model.
BACKGROUND = ("/v1/files", "/v1/batches")
# Seconds after a response in which the client may well send its next request, as people who type and loops do.
LINGERING = 1.0
GONE = 499  # status in logs and metrics for a client that left before its request was read
ID_LENGTH = 128
ID_LETTERS = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:")
NO_ROUTES: Mapping[tuple[str, str], Route] = MappingProxyType({})


@dataclass(slots=True)
class Load:
    """Requests in progress: all, those under the limit, and those of clients that wait for a model.

    `waited` is when the last one of these ended, in seconds of the gate's clock.
    """

    busy: int = 0
    limited: int = 0
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
        direct: Mapping[tuple[str, str], Route] = NO_ROUTES,
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
            headers,
            most=UPLOAD_BYTES if upload else self._body_bytes,
            seconds=self._body_seconds,
            rate=UPLOAD_RATE if upload else math.inf,
        )
        scope[KEY] = context = RequestContext(
            id=_id_of(headers.get(b"x-request-id")) or self._new_id(),
            method=scope["method"],
            path=scope["path"],
            started=self._clock(),
            headers=headers,
            read=body.read,
        )
        answer = _Response(send, context, self._clock, self._begun)
        limited = context.path not in OPEN
        self._load.busy += 1
        self._load.limited += limited
        waiting = limited and not context.path.startswith(BACKGROUND)
        self._load.waiting += waiting
        try:
            await self._admit(context)
            route = self._direct.get(target)
            if route is None:
                await self._app(scope, body, answer)
            else:
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
            self._load.busy -= 1
            self._load.limited -= limited
            ended = self._clock()
            if waiting:
                self._load.waiting -= 1
                self._load.waited = ended
            context.seconds = ended - context.started
            context.route = getattr(scope.get("route") or self._matching_route(scope), "path", "")
            for watcher in self._watchers:
                watcher(context)

    def _matching_route(self, scope: Any) -> BaseRoute | None:
        """Find the route of a request that was refused before it got there."""
        return next((each for each in self._routes if each.matches(scope)[0] is not Match.NONE), None)

    async def _admit(self, context: RequestContext) -> None:
        """Identify the caller.

        Raises:
            Overloaded: the limit of concurrent requests is reached.
            Unauthorized: a valid key is required and was not sent.
        """
        if context.path in OPEN:
            return
        if self._load.limited > self._most:
            raise Overloaded(
                f"The server is at its limit of {self._most} concurrent requests; try again in a moment."
            )
        context.caller = caller = await self._keys.caller(_secret_of(context.headers))
        if caller.key is None and not (self._loopback and _is_here(context.headers)):
            raise Unauthorized(
                "This server has no API keys, so it only answers clients on this machine that call it localhost or"
                " 127.0.0.1, and no web pages from elsewhere. Its operator can create a key with `flowbed keys create`."
            )


class _Response:
    """An ASGI `send` that adds the headers of every response."""

    __slots__ = ("_begun", "_clock", "_context", "_send", "begun")

    def __init__(
        self, send: Send, context: RequestContext, clock: Callable[[], float], begun: Watcher | None
    ) -> None:
        self._send, self._context, self._clock, self._begun = send, context, clock, begun
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
        await self._send(message)


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


def _is_here(headers: dict[bytes, bytes]) -> bool:
    """Tell whether the client addresses this server by a loopback name, and is not a page of another origin."""
    # Browsers send it with every request of a page that may have effects.
    origin = headers.get(b"origin")
    names = [headers.get(b"host", b""), *([] if origin is None else [origin.rpartition(b"://")[2]])]
    return all(_name_of(name) in LOOPBACK for name in names)


def _name_of(address: bytes) -> bytes:
    """Return the host of an address, without the port."""
    host = address.lower()
    return host[: host.index(b"]") + 1] if host.startswith(b"[") and b"]" in host else host.partition(b":")[0]
