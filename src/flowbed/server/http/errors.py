"""The tree of errors as HTTP tells it: OpenAI's body and status codes, and headers that say when to ask again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from flowbed.errors import (
    Conflict,
    Error,
    Exhausted,
    Forbidden,
    Misconfigured,
    NotFound,
    Rejected,
    TooMany,
    Transient,
    Unauthorized,
    Unavailable,
)
from flowbed.server.http.rate_limit_headers import allowance_headers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flowbed.records.serving import Allowance, Caller
    from flowbed.server.http.rate_limit_headers import Headers
    from flowbed.server.http.request_context import Exchange

INVALID = "invalid_request_error"
SERVER = "server_error"
# Seconds, where nobody knows better: long enough for a burst to pass, short enough for a person who waits.
RETRY_AFTER = 1.0
UNAUTHORIZED, TOO_MANY, FAULT = 401, 429, 500
RETRIED = frozenset({408, TOO_MANY, 503})


class TooLarge(Rejected):
    """A body is larger than the server reads."""


class Unsupported(Rejected):
    """A body is of another type than JSON."""


class TooSlow(Transient):
    """A body did not arrive in time."""


class Overloaded(Transient):
    """The server works on as many requests as it takes at once."""


class WrongMethod(Rejected):
    """A path is known, and not for this method; `allow` lists those it is known for."""

    def __init__(self, message: str, *, allow: str) -> None:
        """Keep the methods beside the message."""
        super().__init__(message, code="method_not_supported")
        self.allow = allow


@dataclass(frozen=True, slots=True)
class Kind:
    """What HTTP makes of a class of errors: `retried` is told to the SDKs, which else decide by the status."""

    status: int
    type: str
    code: str | None = None
    retried: bool | None = None


# By class; a class that is missing is told as the nearest one above it.
KINDS: Mapping[type[Error], Kind] = {
    Error: Kind(500, SERVER, retried=False),
    Rejected: Kind(400, INVALID),
    Unauthorized: Kind(401, INVALID, "invalid_api_key"),
    Forbidden: Kind(403, INVALID, "permission_denied"),
    NotFound: Kind(404, INVALID),
    WrongMethod: Kind(405, INVALID),
    TooSlow: Kind(408, INVALID, "request_timeout"),
    # The SDKs ask again at 409 by themselves; but what conflicts once conflicts again until someone decides anew.
    Conflict: Kind(409, INVALID, "conflict", retried=False),
    TooLarge: Kind(413, INVALID, "request_too_large"),
    Unsupported: Kind(415, INVALID, "unsupported_content_type"),
    TooMany: Kind(429, "requests", "rate_limit_exceeded"),
    # 429 as well, and yet not to be asked again before another day.
    Exhausted: Kind(429, "insufficient_quota", "insufficient_quota", retried=False),
    Misconfigured: Kind(500, SERVER, "misconfigured", retried=False),
    Transient: Kind(503, SERVER, "service_unavailable"),
    Unavailable: Kind(503, SERVER, "provider_unavailable"),
    Overloaded: Kind(503, SERVER, "overloaded"),
}
# Errors that OpenAI tells with a type of their own, by code.
TYPES = {"max_tokens_per_request": "max_tokens_per_request"}


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that is an error."""

    status: int
    body: bytes
    headers: Headers


def refusal(error: Exception, exchange: Exchange, *, allowance: Callable[[Caller], Allowance]) -> Refusal:
    """Word an error, and note it in the exchange; `allowance` tells what the caller may still ask for.

    What is wrong with the server, its settings above all, is told to its operators alone.
    """
    kind = next((KINDS[each] for each in type(error).__mro__ if each in KINDS), KINDS[Error])
    caller = exchange.caller
    message = str(error)
    code = getattr(error, "code", None) or kind.code
    if not isinstance(error, Error):
        exchange.fault = error
    exchange.code, exchange.reason = code, message
    if kind.status == FAULT and not (isinstance(error, Error) and caller.admin):
        message = (
            "The server had an error while processing your request. Its operator finds it in the log under"
            f" {exchange.id}."
        )
    body = {
        "error": {
            "message": message,
            "type": TYPES.get(code or "", kind.type),
            "param": getattr(error, "param", None),
            "code": code,
        }
    }
    headers = _headers(error, kind)
    if kind.status == TOO_MANY:
        headers += allowance_headers(allowance(caller))
    return Refusal(kind.status, orjson.dumps(body), headers)


def _headers(error: Exception, kind: Kind) -> Headers:
    headers = [(b"content-type", b"application/json")]
    seconds: float | None = getattr(error, "retry_after", None)
    if seconds is None and kind.status in RETRIED and kind.retried is None:
        seconds = RETRY_AFTER
    if seconds is not None:
        # Whole seconds for everyone, rounded up; the SDKs read the exact milliseconds first.
        headers.append((b"retry-after", b"%d" % max(math.ceil(seconds), 1)))
        headers.append((b"retry-after-ms", b"%d" % max(math.ceil(seconds * 1000), 1)))
    if kind.retried is not None:
        headers.append((b"x-should-retry", b"true" if kind.retried else b"false"))
    if isinstance(error, WrongMethod):
        headers.append((b"allow", error.allow.encode()))
    if kind.status == UNAUTHORIZED:
        headers.append((b"www-authenticate", b"Bearer"))
    return headers
