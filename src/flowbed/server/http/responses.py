"""Responses whose bytes and headers are ready: nothing is encoded twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from starlette.responses import Response

if TYPE_CHECKING:
    from flowbed.server.http.rate_limit_headers import Headers

CREATED, ACCEPTED = 201, 202
JSON: tuple[bytes, bytes] = (b"content-type", b"application/json")


class RawResponse(Response):
    """Bytes and headers, sent unchanged."""

    def __init__(self, body: bytes, headers: Headers, status: int = 200) -> None:
        """Take a body and all its headers except the length."""
        self.status_code, self.body, self.background = status, body, None
        self.raw_headers = [*headers, (b"content-length", b"%d" % len(body))]


def json(value: Any, *, status: int = 200, headers: Headers | None = None) -> RawResponse:
    """Create a JSON response."""
    return RawResponse(orjson.dumps(value), [JSON, *(headers or [])], status)
