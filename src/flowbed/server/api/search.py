"""POST /v1/search: the nearest neighbours of a text or a vector in the project's collections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from flowbed.errors import NotFound
from flowbed.records.vector_stores import is_store
from flowbed.server.api.openapi import FAILURES, body_of
from flowbed.server.api.schemas import SearchRequest, SearchResponse, model_of
from flowbed.server.http.errors import TooLarge
from flowbed.server.http.request_context import context_of
from flowbed.server.http.responses import json
from flowbed.server.http.wire import read_object
from flowbed.settings.project import NAME

if TYPE_CHECKING:
    from typing import TypeVar

    from pydantic import BaseModel

    from flowbed.services.service import Service

    Shape = TypeVar("Shape", bound=BaseModel)

# Characters of an unknown name that are repeated: no name is longer.
REPEATED = 64
# Bytes of a body: a filter of thousands of values, or the largest vector, takes a third.
BODY_BYTES = 2**20


def routes(service: Service) -> APIRouter:
    """Create the routes over `service`."""
    router = APIRouter(tags=["search"])

    @router.post(
        "/v1/search",
        openapi_extra=body_of(SearchRequest),
        responses={200: {"model": SearchResponse}, **FAILURES},
    )
    async def search(request: Request) -> Response:
        """Find the nearest neighbours, best first."""
        body = await read(request, SearchRequest)
        if body.collection is not None and not NAME.fullmatch(body.collection):
            # The store would refuse the name with an error of its own.
            raise NotFound(f"there is no collection {body.collection[:REPEATED]!r}")
        caller = context_of(request.scope).caller
        if body.collection is not None and is_store(body.collection):
            await service.vector_stores.stores.get(caller.key or "", body.collection)
        found = await service.search.find(
            caller,
            body.query,
            collection=body.collection,
            where=body.where,
            limit=body.limit,
            at=body.at,
            unit=body.unit,
            mode=body.mode,
            text=body.text,
        )
        return json({"hits": found.hits, "versions": dict(found.versions), "warnings": found.warnings})

    return router


async def read(
    request: Request,
    shape: type[Shape],
    *,
    nulls: bool = False,
    most: int = BODY_BYTES,
    optional: bool = False,
) -> Shape:
    """Read a body of at most `most` bytes and validate it against a schema; an `optional` one may be empty.

    Null fields are left out unless `nulls` says something by them.

    Raises:
        TooLarge: it is far larger than a valid one.
        Rejected: it does not match; the message names the field.
    """
    context = context_of(request.scope)
    body = await context.read()
    if len(body) > most:
        raise TooLarge(f"The body of the request has {len(body):,} bytes; this path takes {most:,}.")
    if optional and not body:
        return model_of(shape, {})
    return model_of(shape, read_object(body, context.headers.get(b"content-type", b""), nulls=nulls))
