"""Routes that read the rows of a collection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from flowbed.server.api.embeddings import DirectRoute
from flowbed.server.chroma.answers import write_neighbours, write_rows
from flowbed.server.chroma.bodies import GetBody, QueryBody, read
from flowbed.server.chroma.collections import DATABASE
from flowbed.server.chroma.system import require_path
from flowbed.server.http.errors import Unsupplied
from flowbed.server.http.request_context import context_of
from flowbed.server.http.responses import json

if TYPE_CHECKING:
    from flowbed.records.serving import Caller
    from flowbed.services.service import Service

COLLECTION = f"{DATABASE}/collections/{{id}}"
# What clients get that do not say what they want.
GOT = ["documents", "metadatas"]
FOUND = [*GOT, "distances"]
RESULTS = 10
# What Chroma's own server refuses too, unless it runs in its cloud.
CLOUD = {"fork": "POST", "fork_count": "GET", "search": "POST", "indexing_status": "GET"}


def routes(service: Service) -> APIRouter:
    """Create the routes over `service`."""
    router = APIRouter(route_class=DirectRoute, include_in_schema=False)
    rows = service.chroma.rows

    @router.get(f"{COLLECTION}/count")
    async def count(request: Request) -> Response:
        caller, collection = asked(request)
        return json(await rows.count(caller, collection))

    @router.post(f"{COLLECTION}/get")
    async def get(request: Request) -> Response:
        """Return rows by id, filter and position."""
        caller, collection = asked(request)
        body = await read(request, GetBody)
        found = await rows.select(
            caller,
            collection,
            ids=body.ids,
            where=body.where,
            where_document=body.where_document,
            offset=body.offset or 0,
            limit=body.limit,
        )
        return await write_rows(found, GOT if body.include is None else body.include)

    @router.post(f"{COLLECTION}/query")
    async def query(request: Request) -> Response:
        """Return the rows nearest to each vector."""
        caller, collection = asked(request)
        body = await read(request, QueryBody)
        found = await rows.query(
            caller,
            collection,
            body.query_embeddings,
            ids=body.ids,
            where=body.where,
            where_document=body.where_document,
            limit=RESULTS if body.n_results is None else body.n_results,
        )
        return write_neighbours(found, FOUND if body.include is None else body.include)

    async def unsupplied(request: Request) -> Response:
        name = request.url.path.rpartition("/")[2]
        raise Unsupplied(f"Flowbed does not answer {name}: it exists only in Chroma's cloud")

    for name, method in CLOUD.items():
        router.add_api_route(f"{COLLECTION}/{name}", unsupplied, methods=[method])
    return router


def asked(request: Request) -> tuple[Caller, str]:
    """Return who asks, and for which collection's id.

    Raises:
        NotFound: another tenant or database is named.
    """
    require_path(request)
    return context_of(request.scope).caller, request.path_params["id"]
