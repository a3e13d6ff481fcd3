"""POST /v1/search and GET /v1/collections/.../fields: what a project's collections have, and what to filter by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from fastapi import APIRouter, Request, Response

from flowbed.errors import NotFound, Rejected
from flowbed.records.names import NAME, is_store
from flowbed.server.api.openapi import FAILURES, body_of, query_of
from flowbed.server.api.schemas.search import FieldsQuery, FieldsResponse, SearchRequest, SearchResponse
from flowbed.server.api.schemas.shapes import known_fields, model_of
from flowbed.server.http.errors import TooLarge
from flowbed.server.http.request_context import context_of
from flowbed.server.http.responses import json
from flowbed.server.http.wire import read_object

if TYPE_CHECKING:
    from typing import TypeVar

    from pydantic import BaseModel

    from flowbed.records.serving import Caller
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
        if (body.query is None) == (body.like is None):
            raise Rejected("give 'query' or 'like', one of them", param="query")
        caller = context_of(request.scope).caller
        if body.collection is not None:
            await _require_visible(service, caller, body.collection)
        found = await service.search.find(
            caller,
            body.query or "",
            collection=body.collection,
            where=body.where,
            limit=body.limit,
            at=body.at,
            unit=body.unit,
            mode=body.mode,
            text=body.text,
            since=body.since,
            before=body.before,
            order=body.order,
            like=body.like,
            rerank=body.rerank,
            cursor=body.cursor,
        )
        return json(
            {
                "hits": found.hits,
                "versions": dict(found.versions),
                "warnings": found.warnings,
                "next": found.next,
            }
        )

    @router.get(
        "/v1/collections/{collection}/fields",
        openapi_extra=query_of(FieldsQuery),
        responses={200: {"model": FieldsResponse}, **FAILURES},
    )
    async def fields(request: Request, collection: str) -> Response:
        """Return which metadata the rows of a collection have: keys, types, common values."""
        query = model_of(FieldsQuery, dict(request.query_params))
        caller = context_of(request.scope).caller
        await _require_visible(service, caller, collection)
        found = await service.search.fields(
            caller, collection, where=_filter(query.where), values=query.values
        )
        return json(found)

    return router


async def _require_visible(service: Service, caller: Caller, collection: str) -> None:
    """Check that a caller may see a collection.

    Raises:
        NotFound: it cannot exist, or is the vector store of another key.
    """
    if not NAME.fullmatch(collection):
        # The store would refuse the name with an error of its own.
        raise NotFound(f"there is no collection {collection[:REPEATED]!r}")
    if is_store(collection):
        await service.vector_stores.stores.get(caller.key or "", collection)


def _filter(text: str | None) -> Any:
    """Read a filter in a query string; the search checks what it says.

    Raises:
        Rejected: it is not JSON.
    """
    try:
        return None if text is None else orjson.loads(text)
    except ValueError as error:
        raise Rejected(f"where is not JSON: {error}", param="where") from error


async def read(
    request: Request,
    shape: type[Shape],
    *,
    nulls: bool = False,
    most: int = BODY_BYTES,
    optional: bool = False,
) -> Shape:
    """Read a body of at most `most` bytes and validate it against a schema; an `optional` one may be empty.

    Null fields are left out, if they are in the schema, unless `nulls` says something by them.

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
    fields = read_object(body, context.headers.get(b"content-type", b""), nulls=True)
    known = known_fields(shape)
    return model_of(
        shape,
        {name: each for name, each in fields.items() if nulls or each is not None or name not in known},
    )
