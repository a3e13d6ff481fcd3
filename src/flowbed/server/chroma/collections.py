"""Routes that describe collections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from flowbed.errors import Rejected
from flowbed.server.api.embeddings import DirectRoute
from flowbed.server.chroma.system import require_path
from flowbed.server.http.request_context import context_of
from flowbed.server.http.responses import json
from flowbed.services.chroma.collections import UUIDS

if TYPE_CHECKING:
    from flowbed.services.service import Service

DATABASE = "/api/v2/tenants/{tenant}/databases/{database}"


def routes(service: Service) -> APIRouter:
    """Create the routes over `service`."""
    router = APIRouter(route_class=DirectRoute, include_in_schema=False)
    directory = service.chroma.collections

    @router.get(f"{DATABASE}/collections")
    async def list_collections(request: Request) -> Response:
        """List collections by name."""
        await admit(request, service)
        first, most = _number(request, "offset"), _number(request, "limit")
        found = await directory.all()
        last = None if most is None else (first or 0) + most
        return json([each.described() for each in found[first or 0 : last]])

    @router.get(f"{DATABASE}/collections_count")
    async def count_collections(request: Request) -> Response:
        await admit(request, service)
        return json(len(await directory.all()))

    @router.get(f"{DATABASE}/collections/by-id/{{id}}")
    async def collection_by_id(request: Request) -> Response:
        await admit(request, service)
        id_ = request.path_params["id"]
        if UUIDS.fullmatch(id_) is None:
            raise Rejected("Validation error: collection_id: Invalid collection ID format, expected UUID")
        return json((await directory.with_id(id_)).described())

    @router.get(f"{DATABASE}/collections/{{name}}")
    async def collection(request: Request) -> Response:
        await admit(request, service)
        return json((await directory.named(request.path_params["name"])).described())

    return router


async def admit(request: Request, service: Service) -> None:
    """Count a request against its key's limit, and require the database that there is.

    Raises:
        TooMany: the requests of this minute are used up.
        NotFound: another tenant or database is named.
    """
    await service.quotas.admit(context_of(request.scope).caller)
    require_path(request)


def _number(request: Request, name: str) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit():
        raise Rejected(f"Failed to deserialize query string: {name}: invalid digit found in string")
    return int(text)
