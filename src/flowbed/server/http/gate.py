"""The gate before every route: an id, who asks, how large a body may be, and how many requests at once."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect
from starlette.routing import Match

from flowbed.errors import Unauthorized
from flowbed.server.http.errors import Overloaded, TooLarge, TooSlow, refusal
from flowbed.server.http.request_context import KEY, Exchange
from flowbed.services.files import FILE_BYTES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence

    from starlette.routing import BaseRoute, Route

    from flowbed.services.service import Service

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Any, Receive, Send], Awaitable[None]]
    Watcher = Callable[[Exchange], None]

# What probes, scrapers and readers of the API's description may see without a key, at any load, and without being part
# of it: no text, no vector.
OPEN = frozenset({"/health/live", "/health/ready", "/metrics", "/openapi.json"})
# Names of this machine that a browser cannot be made to take for another's: neither a page that has its own name lead
# here nor one of another origin that sends its requests here can ask a server that needs no key.
LOOPBACK = frozenset({b"localhost", b"127.0.0.1", b"[::1]"})
# Seconds in which a body has to be here: 32 MB at 5 Mbit/s.
BODY_SECONDS = 60.0
# A file may be larger than any other body, with some bytes of the form around it, and may take longer: as long as more
# than so many bytes come in a second, 1 Mbit.
UPLOAD = ("POST", "/v1/files")
UPLOAD_BYTES, UPLOAD_RATE = FILE_BYTES + 2**16, 2**17
# What nobody waits for an answer of a model to.
LEISURELY = ("/v1/files", "/v1/batches")
# Seconds after an answer in which its client may well come with the next request: who types, or asks in a loop, does.
LINGERING = 1.0
GONE = 499  # what logs and metrics call a request whose client left before it was read
ID_LENGTH = 128
ID_LETTERS = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:")
NO_ROUTES: Mapping[tuple[str, str], Route] = MappingProxyType({})


@dataclass(slots=True)
class Load:
    """How many requests are being worked on, how many of them the limit is for, and how many somebody waits for.

    `waited` is when the last one of these ended, in seconds of the gate's clock.
    """

    busy: int = 0
    limited: int = 0
    waiting: int = 0
    waited: float = float("-inf")

    def is_busy(self, now: float) -> bool:
        """Tell whether people wait for answers, or did a moment ago."""
        return self.waiting > 0 or now - self.waited < LINGERING


class Gate:
    """An ASGI application that lets requests through to `app`, and answers whatever goes wrong in OpenAI's shape."""

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
        """Stand before `app`.

        `loopback` says that only this machine can reach it; `clock` gives seconds. `begun` is told of each answer that
        begins, `watchers` of each that has ended. Requests for `direct`, by method and path, go to their route without
        what `app` would ask before it finds that. `routes` are those that requests which are not let in count for.
        """
        self._app, self._keys, self._allowance = app, service.keys, service.quotas.allowance
        self._clock, self._new_id = clock, new_id
        self._loopback, self._load = loopback, load
        self._watchers, self._begun = tuple(watchers), begun
        self._body_bytes, self._body_seconds = service.serving.body_bytes, body_seconds
        self._most = service.serving.concurrency
        self._direct, self._routes = direct, routes

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:  # an ASGI scope
        """Answer one request, whatever happens."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        asked = scope["method"], scope["path"]
        upload = asked == UPLOAD
        body = _Body(
            receive,
            headers,
            most=UPLOAD_BYTES if upload else self._body_bytes,
            seconds=self._body_seconds,
            rate=UPLOAD_RATE if upload else math.inf,
        )
        scope[KEY] = exchange = Exchange(
            id=_id_of(headers.get(b"x-request-id")) or self._new_id(),
            method=scope["method"],
            path=scope["path"],
            started=self._clock(),
            headers=headers,
            read=body.read,
        )
        answer = _Answer(send, exchange, self._clock, self._begun)
        limited = exchange.path not in OPEN
        self._load.busy += 1
        self._load.limited += limited
        waiting = limited and not exchange.path.startswith(LEISURELY)
        self._load.waiting += waiting
        try:
            await self._let_in(exchange)
            route = self._direct.get(asked)
            if route is None:
                await self._app(scope, body, answer)
            else:
                scope["route"] = route
                await route.app(scope, body, answer)
        except ClientDisconnect:
            exchange.status = GONE
        except Exception as error:  # noqa: BLE001 - the last one that can answer; the log's watcher tells of it
            refused = refusal(error, exchange, allowance=self._allowance)
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
            exchange.seconds = ended - exchange.started
            exchange.route = getattr(scope.get("route") or self._asked_for(scope), "path", "")
            for watcher in self._watchers:
                watcher(exchange)

    def _asked_for(self, scope: Any) -> BaseRoute | None:  # an ASGI scope
        """Find the route of a request that did not come as far as that."""
        return next((each for each in self._routes if each.matches(scope)[0] is not Match.NONE), None)

    async def _let_in(self, exchange: Exchange) -> None:
        """Find out who asks.

        Raises:
            Overloaded: as many requests as may be are being worked on.
            Unauthorized: a key is needed, and none that is valid was sent.
        """
        if exchange.path in OPEN:
            return
        if self._load.limited > self._most:
            raise Overloaded(
                f"The server is working on {self._most} requests already; try again in a moment."
            )
        exchange.caller = caller = await self._keys.caller(_secret_of(exchange.headers))
        if caller.key is None and not (self._loopback and _is_here(exchange.headers)):
            raise Unauthorized(
                "This server has no API keys, so it answers this machine alone, by the names localhost and 127.0.0.1,"
                " and no web page of another name. Its operator makes a key with `flowbed keys create`."
            )


class _Answer:
    """`send`, which adds the headers that every answer has."""

    __slots__ = ("_clock", "_exchange", "_send", "_told", "begun")

    def __init__(
        self, send: Send, exchange: Exchange, clock: Callable[[], float], told: Watcher | None
    ) -> None:
        self._send, self._exchange, self._clock, self._told = send, exchange, clock, told
        self.begun = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            exchange = self._exchange
            exchange.status = message["status"]
            if self._told is not None:
                self._told(exchange)
            message["headers"] = [
                *message["headers"],
                (b"x-request-id", exchange.id.encode()),
                (b"openai-processing-ms", b"%d" % ((self._clock() - exchange.started) * 1000)),
            ]
        await self._send(message)


class _Body:
    """`receive`, which reads a body that is not too large and does not take too long.

    It may take `seconds`, and one more for each `rate` bytes that have come.
    """

    __slots__ = ("_late", "_length", "_most", "_rate", "_receive", "_seconds", "_seen", "_waited", "_whole")

    def __init__(
        self,
        receive: Receive,
        headers: dict[bytes, bytes],
        *,
        most: int,
        seconds: float,
        rate: float = math.inf,
    ) -> None:
        self._receive, self._most, self._seconds, self._rate = receive, most, seconds, rate
        self._length = headers.get(b"content-length", b"")
        self._waited = 0.0  # s; what is done with the body between its parts does not count
        self._seen, self._whole, self._late = 0, False, False

    async def __call__(self) -> Message:
        if self._whole:  # all that can come is the news that the client has left
            return await self._receive()
        # Known from the headers already: what is too large is not even asked for.
        if self._length.isdigit() and int(self._length) > self._most:
            raise self._too_large()
        message = await self._in_time()
        self._seen += len(message.get("body", b""))
        if self._seen > self._most:
            raise self._too_large()
        self._whole = message["type"] == "http.request" and not message.get("more_body", False)
        return message

    async def read(self) -> bytes:
        """Read all of it.

        Raises:
            TooLarge, TooSlow: it is, and is given up.
            ClientDisconnect: the client has left before it was here.
        """
        parts = []
        while not self._whole:
            message = await self()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            parts.append(message.get("body", b""))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _in_time(self) -> Message:
        """Receive before the time is over, as `asyncio.timeout` does, which takes longer than reading most bodies."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in one
        begun = loop.time()
        patience = self._seconds + self._seen / self._rate
        timer = loop.call_at(begun + patience - self._waited, self._give_up, task)
        try:
            return await self._receive()
        except asyncio.CancelledError:
            if self._late and task.uncancel() == 0:
                raise TooSlow(
                    f"The body of the request did not arrive within {patience:g} seconds."
                ) from None
            raise
        finally:
            timer.cancel()
            self._waited += loop.time() - begun

    def _give_up(self, task: asyncio.Task[Any]) -> None:
        self._late = True
        task.cancel()

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"The body of the request is larger than the {self._most:,} bytes that this server reads; send fewer"
            " inputs in one request."
        )


def _id_of(sent: bytes | None) -> str:
    """Take the id that a proxy or client has given the request, where it is harmless in a header and a log."""
    if not sent or len(sent) > ID_LENGTH or not ID_LETTERS.issuperset(sent):
        return ""
    return sent.decode()


def _secret_of(headers: dict[bytes, bytes]) -> str | None:
    """Find the key: as OpenAI's clients send it, or as Azure's do."""
    scheme, _, secret = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and secret.strip():
        return secret.strip().decode("latin-1")
    azure = headers.get(b"api-key", b"").strip()
    return azure.decode("latin-1") if azure else None


def _is_here(headers: dict[bytes, bytes]) -> bool:
    """Tell whether the client knows this server by a name of this machine, and is no page of another's."""
    # Browsers say it with whatever a page sends that changes or costs something.
    origin = headers.get(b"origin")
    names = [headers.get(b"host", b""), *([] if origin is None else [origin.rpartition(b"://")[2]])]
    return all(_name_of(name) in LOOPBACK for name in names)


def _name_of(address: bytes) -> bytes:
    """Tell the name in an address, without the port."""
    host = address.lower()
    return host[: host.index(b"]") + 1] if host.startswith(b"[") and b"]" in host else host.partition(b":")[0]
