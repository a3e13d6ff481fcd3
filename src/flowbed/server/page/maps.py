"""/v1/collections/{collection}/map: the collection as points in a plane, and the rows of some points or of an area."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from flowbed.records.plain import plain
from flowbed.server.api.openapi import FAILURES, body_of
from flowbed.server.api.search import read
from flowbed.server.http.request_context import context_of
from flowbed.server.http.responses import RawResponse, json
from flowbed.server.page.collections import named
from flowbed.server.page.schemas import AreaRequest, IdList, PointsRequest, RowList
from flowbed.services.page.maps import Area

if TYPE_CHECKING:
    from flowbed.services.service import Service

BYTES = "application/octet-stream"


def routes(service: Service) -> APIRouter:
    """Create the routes over `service`."""
    router = APIRouter(tags=["collections"])
    maps = service.maps

    @router.get(
        "/v1/collections/{collection}/map",
        responses={
            200: {"content": {BYTES: {"schema": {"type": "string", "format": "binary"}}}},
            **FAILURES,
        },
    )
    async def show_map(request: Request, collection: str) -> Response:
        """Project the vectors of a collection onto a plane; docs/page.md describes the bytes."""
        from flowbed.server.page.map_bytes import bytes_of

        found = await maps.get(context_of(request.scope).caller, named(collection))
        return RawResponse(
            bytes_of(found), [(b"content-type", BYTES.encode()), (b"cache-control", b"no-store")]
        )

    @router.post(
        "/v1/collections/{collection}/map/rows",
        openapi_extra=body_of(PointsRequest),
        responses={200: {"model": RowList}, **FAILURES},
    )
    async def list_points(request: Request, collection: str) -> Response:
        """Read the rows of some points of a map."""
        body = await read(request, PointsRequest)
        found = await maps.rows(
            context_of(request.scope).caller, named(collection), version=body.version, points=body.points
        )
        return json({"rows": plain(found), "total": len(found)})

    @router.post(
        "/v1/collections/{collection}/map/ids",
        openapi_extra=body_of(AreaRequest),
        responses={200: {"model": IdList}, **FAILURES},
    )
    async def list_inside(request: Request, collection: str) -> Response:
        """List the ids of the rows inside a path on a map, to search among them."""
        body = await read(request, AreaRequest)
        area = Area(path=body.path, by=body.by, without=body.without)
        found = await maps.inside(
            context_of(request.scope).caller, named(collection), version=body.version, area=area
        )
        return json({"ids": found})

    return router
