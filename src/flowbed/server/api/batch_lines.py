"""The lines of jobs, worded as /v1/embeddings words its requests, answers and errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.records.serving import Allowance
from flowbed.server.http import wire
from flowbed.server.http.errors import refusal
from flowbed.server.http.request_context import Exchange

if TYPE_CHECKING:
    from flowbed.records.serving import Caller, EmbeddingsRequest, EmbeddingsResult


class Lines:
    """What `services` needs to know of the wire."""

    def read(self, body: bytes) -> EmbeddingsRequest:
        """Read the body of a request; raises `Rejected`."""
        return wire.parse(body)

    async def write(self, answered: EmbeddingsResult, encoding: str) -> bytes:
        """Write the body of an answer."""
        return await wire.write(answered, encoding)

    def refuse(self, error: Exception, request: str, caller: Caller) -> tuple[int, bytes]:
        """Give status and body of the answer that is an error."""
        exchange = Exchange(
            id=request, method="POST", path="", started=0.0, headers={}, read=_nothing, caller=caller
        )
        refused = refusal(error, exchange, allowance=lambda _: Allowance())
        return refused.status, refused.body


async def _nothing() -> bytes:
    return b""
