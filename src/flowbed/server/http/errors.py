"""Errors as HTTP responses: OpenAI's bodies and status codes, or Chroma's, and headers that say when to retry."""

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
from flowbed.services.jobs.requests import KeyReused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flowbed.records.serving import Allowance, Caller
    from flowbed.server.http.rate_limit_headers import Headers
    from flowbed.server.http.request_context import RequestContext

INVALID = "invalid_request_error"
SERVER = "server_error"
# Default seconds before a retry: long enough for a burst to pass, short enough for a person who waits.
RETRY_AFTER = 1.0
UNAUTHORIZED, TOO_MANY, FAULT, UNAVAILABLE = 401, 429, 500, 503
RETRIED = frozenset({408, TOO_MANY, UNAVAILABLE})


class TooLarge(Rejected):
    """A body exceeds the limit of the server."""


class Unsupported(Rejected):
    """A body is not JSON."""


class Malformed(Rejected):
    """A body is JSON, but a field is missing or of a wrong type; Chroma's API tells these apart."""


class Gone(Rejected):
    """The address belongs to an API that is no longer served."""


class Unsupplied(Rejected):
    """The API has this, but this server does not."""


class TooSlow(Transient):
    """A body did not arrive in time."""


class Overloaded(Transient):
    """The server is at its limit of concurrent requests."""


class WrongMethod(Rejected):
    """A known path does not support the method; `allow` lists the methods it supports."""

    def __init__(self, message: str, *, allow: str) -> None:
        """Keep the supported methods with the message."""
        super().__init__(message, code="method_not_supported")
        self.allow = allow


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """Status, type and code of a class of errors; `retried` overrides what SDKs conclude from the status."""

    status: int
    type: str
    code: str | None = None
    retried: bool | None = None


# By class; a class that is not listed uses its nearest base class.
KINDS: Mapping[type[Error], ErrorKind] = {
    Error: ErrorKind(500, SERVER, retried=False),
    Rejected: ErrorKind(400, INVALID),
    Unauthorized: ErrorKind(401, INVALID, "invalid_api_key"),
    Forbidden: ErrorKind(403, INVALID, "permission_denied"),
    NotFound: ErrorKind(404, INVALID),
    WrongMethod: ErrorKind(405, INVALID),
    Gone: ErrorKind(410, INVALID),
    TooSlow: ErrorKind(408, INVALID, "request_timeout"),
    # SDKs retry 409 by themselves, but a conflict persists until someone resolves it.
    Conflict: ErrorKind(409, INVALID, "conflict", retried=False),
    TooLarge: ErrorKind(413, INVALID, "request_too_large"),
    Unsupported: ErrorKind(415, INVALID, "unsupported_content_type"),
    Malformed: ErrorKind(422, INVALID),
    KeyReused: ErrorKind(422, INVALID, retried=False),
    TooMany: ErrorKind(429, "requests", "rate_limit_exceeded"),
    # Also 429, but not worth a retry before the next day.
    Exhausted: ErrorKind(429, "insufficient_quota", "insufficient_quota", retried=False),
    Unsupplied: ErrorKind(501, INVALID, retried=False),
    Misconfigured: ErrorKind(500, SERVER, "misconfigured", retried=False),
    Transient: ErrorKind(503, SERVER, "service_unavailable"),
    Unavailable: ErrorKind(503, SERVER, "provider_unavailable"),
    Overloaded: ErrorKind(503, SERVER, "overloaded"),
}
# Paths of Chroma's API, whose clients raise errors by these names; any other status is a ChromaError.
CHROMA = "/api/"
CHROMA_NAMES = {
    400: "InvalidArgumentError",
    401: "AuthError",
    403: "AuthError",
    404: "NotFoundError",
    410: "Unimplemented",
    413: "BatchSizeExceededError",
    429: "RateLimitError",
    500: "InternalError",
    503: "InternalError",
}
# Error types of OpenAI's own, by code.
TYPES = {"max_tokens_per_request": "max_tokens_per_request"}


@dataclass(frozen=True, slots=True)
class HttpError:
    """The status, body and headers of an error response."""

    status: int
    body: bytes
    headers: Headers


def http_error(
    error: Exception, context: RequestContext, *, allowance: Callable[[Caller], Allowance]
) -> HttpError:
    """Convert an error to a response and note it in the context; `allowance` returns what the caller has left.

    Faults of the server and of what it depends on are shown to callers with the admin scope only: they may name
    settings, paths, hosts, or what a provider said.
    """
    kind = next((KINDS[each] for each in type(error).__mro__ if each in KINDS), KINDS[Error])
    caller = context.caller
    message = str(error)
    code = getattr(error, "code", None) or kind.code
    if not isinstance(error, Error):
        context.exception = error
    context.code, context.reason = code, message
    if kind.status == FAULT and not (isinstance(error, Error) and caller.admin):
        message = (
            "The server had an error while processing your request. Its operator finds it in the log under"
            f" {context.id}."
        )
    elif kind.status == UNAVAILABLE and not caller.admin and not isinstance(error, Overloaded):
        message = (
            "The server cannot answer now; try again. Its operator finds the reason in the log under"
            f" {context.id}."
        )
    body: dict[str, object] = {
        "error": {
            "message": message,
            "type": TYPES.get(code or "", kind.type),
            "param": getattr(error, "param", None),
            "code": code,
        }
    }
    if context.path.startswith(CHROMA):
        body = {"error": CHROMA_NAMES.get(kind.status, "ChromaError"), "message": message}
    headers = _headers(error, kind)
    if kind.status == TOO_MANY:
        headers += allowance_headers(allowance(caller))
    return HttpError(kind.status, orjson.dumps(body), headers)


def _headers(error: Exception, kind: ErrorKind) -> Headers:
    headers = [(b"content-type", b"application/json")]
    seconds: float | None = getattr(error, "retry_after", None)
    if seconds is None and kind.status in RETRIED and kind.retried is None:
        seconds = RETRY_AFTER
    if seconds is not None:
        # Whole seconds, rounded up, for everyone; SDKs read the exact milliseconds first.
        headers.append((b"retry-after", b"%d" % max(math.ceil(seconds), 1)))
        headers.append((b"retry-after-ms", b"%d" % max(math.ceil(seconds * 1000), 1)))
    if kind.retried is not None:
        headers.append((b"x-should-retry", b"true" if kind.retried else b"false"))
    if isinstance(error, WrongMethod):
        headers.append((b"allow", error.allow.encode()))
    if kind.status == UNAUTHORIZED:
        headers.append((b"www-authenticate", b"Bearer"))
    return headers
