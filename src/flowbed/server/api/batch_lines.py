"""The lines of batches, written like the requests, responses and errors of /v1/embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.records.serving import Allowance
from flowbed.server.http import wire
from flowbed.server.http.errors import http_error
from flowbed.server.http.request_context import RequestContext

if TYPE_CHECKING:
    from flowbed.records.serving import Caller, EmbeddingsRequest, EmbeddingsResult


class HttpLineCodec:
    """The `LineCodec` of the services, in the words of the route."""

    def read(self, body: bytes) -> EmbeddingsRequest:
        """Parse the body of a request; raises `Rejected`."""
        return wire.parse(body)

    async def write(self, result: EmbeddingsResult, encoding: str) -> bytes:
        """Write the body of a response."""
        return await wire.write(result, encoding)

    def refuse(self, error: Exception, request: str, caller: Caller) -> tuple[int, bytes]:
        """Return the status and body of the response to an error."""
        context = RequestContext(
            id=request, method="POST", path="", started=0.0, headers={}, read=_nothing, caller=caller
        )
        refused = http_error(error, context, allowance=lambda _: Allowance())
        return refused.status, refused.body


async def _nothing() -> bytes:
    return b""
