"""POST /v1/search: what is nearest to a text or a vector, in the collections of the project."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from flowbed.errors import NotFound
from flowbed.server.api.openapi import FAILURES, body_of
from flowbed.server.api.schemas import SearchRequest, SearchResponse, model_of
from flowbed.server.http.request_context import exchange_of
from flowbed.server.http.responses import json
from flowbed.server.http.wire import read_object
from flowbed.settings.project import NAME

if TYPE_CHECKING:
    from typing import TypeVar

    from pydantic import BaseModel

    from flowbed.services.service import Service

    Shape = TypeVar("Shape", bound=BaseModel)

# Characters of what was asked for that are worth repeating: no name is longer.
REPEATED = 64


def routes(service: Service) -> APIRouter:
    """Make the routes over `service`."""
    router = APIRouter(tags=["search"])

    @router.post(
        "/v1/search",
        openapi_extra=body_of(SearchRequest),
        responses={200: {"model": SearchResponse}, **FAILURES},
    )
    async def search(request: Request) -> Response:
        """Find what is nearest, best first."""
        asked = await read(request, SearchRequest)
        if asked.collection is not None and not NAME.fullmatch(asked.collection):
            # The store would refuse to look for it, which is nothing to tell a client of.
            raise NotFound(f"no collection is called {asked.collection[:REPEATED]!r}")
        found = await service.search.find(
            exchange_of(request.scope).caller,
            asked.query,
            collection=asked.collection,
            where=asked.where,
            limit=asked.limit,
            at=asked.at,
            unit=asked.unit,
        )
        return json({"hits": found.hits, "versions": dict(found.versions)})

    return router


async def read(request: Request, shape: type[Shape]) -> Shape:
    """Read a body of the given shape.

    Raises:
        Rejected: it is of another; the message says where.
    """
    exchange = exchange_of(request.scope)
    fields = read_object(await exchange.read(), exchange.headers.get(b"content-type", b""))
    return model_of(shape, fields)
