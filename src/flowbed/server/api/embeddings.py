"""POST /v1/embeddings, as OpenAI's API has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from flowbed.server.api.openapi import FAILURES, body_of
from flowbed.server.api.schemas import Embeddings, EmbeddingsBody
from flowbed.server.http.rate_limit_headers import allowance_headers
from flowbed.server.http.request_context import exchange_of
from flowbed.server.http.responses import JSON, Answer
from flowbed.server.http.wire import parse, write

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from flowbed.services.service import Service

# Vectors filled up with zeros are of no model's space: nobody may store them.
PADDED = (b"x-flowbed-padded", b"1")


class Direct(APIRoute):
    """A route that FastAPI describes, and does nothing else for: its endpoint reads the request by itself.

    What FastAPI does before and after an endpoint takes longer than giving vectors from the cache.
    """

    def __init__(
        self,
        path: str,
        endpoint: Callable[[Request], Awaitable[Response]],
        **described: Any,  # FastAPI's
    ) -> None:
        """Lead `path` to `endpoint`."""
        super().__init__(path, endpoint, **described)

        async def app(scope: Any, receive: Any, send: Any) -> None:  # ASGI's
            response = await endpoint(Request(scope, receive))
            await response(scope, receive, send)

        self.app = app


def route(service: Service) -> Direct:
    """Make the route over `service`."""

    async def create_embeddings(request: Request) -> Response:
        """Embed texts, as OpenAI's API does; what the headers X-Flowbed-... name is who answered."""
        exchange = exchange_of(request.scope)
        headers = exchange.headers
        asked = parse(
            await exchange.read(),
            content_type=headers.get(b"content-type", b""),
            crossing=headers.get(b"x-flowbed-allow-crossing") == b"1",
        )
        exchange.model = asked.model
        exchange.answered = answered = await service.embeddings.answer(asked, exchange.caller)
        body = await write(answered, asked.encoding)
        return Answer(
            body,
            [
                JSON,
                (b"x-flowbed-space", answered.space.encode()),
                (b"x-flowbed-provider", answered.provider.encode()),
                *((PADDED,) if answered.padded else ()),
                *allowance_headers(service.quotas.allowance(exchange.caller)),
            ],
        )

    return Direct(
        "/v1/embeddings",
        create_embeddings,
        methods=["POST"],
        tags=["embeddings"],
        openapi_extra=body_of(EmbeddingsBody),
        responses={200: {"model": Embeddings}, **FAILURES},
    )
