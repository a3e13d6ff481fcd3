"""/v1/collections, /v1/rows and /v1/why: what is indexed, for everyone who may search it."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from flowbed.errors import NotFound
from flowbed.records.names import NAME, is_store
from flowbed.records.plain import plain
from flowbed.server.api.openapi import FAILURES, body_of, query_of
from flowbed.server.api.schemas.shapes import model_of
from flowbed.server.api.search import REPEATED, read
from flowbed.server.http.request_context import context_of
from flowbed.server.http.responses import json
from flowbed.server.page.schemas import (
    AroundQuery,
    ChangesQuery,
    CollectionList,
    DifferenceShown,
    ReasonList,
    RowList,
    RowsRequest,
    Session,
    VersionList,
    WhyQuery,
)

if TYPE_CHECKING:
    from flowbed.records.serving import Caller
    from flowbed.services.service import Service


def routes(service: Service) -> APIRouter:
    """Create the routes over `service`."""
    router = APIRouter(tags=["collections"])
    browse = service.browse

    @router.get("/v1/session", responses={200: {"model": Session}, **FAILURES})
    async def session(request: Request) -> Response:
        """Tell who asks and what they may do."""
        caller = _caller(request)
        return json(
            {
                "name": caller.name,
                "key": caller.key,
                "admin": caller.admin,
                "keys_required": caller.key is not None,
                "model": service.bed.model,
                "version": version("flowbed"),
                "watching": bool(getattr(request.app.state, "watching", False)),
            }
        )

    @router.get("/v1/collections", responses={200: {"model": CollectionList}, **FAILURES})
    async def list_collections(request: Request) -> Response:
        """List the collections."""
        return json({"collections": plain(await browse.collections(_caller(request)))})

    @router.get("/v1/collections/{collection}/versions", responses={200: {"model": VersionList}, **FAILURES})
    async def list_versions(request: Request, collection: str) -> Response:
        """List the versions of a collection that are kept, newest first."""
        return json({"versions": plain(await browse.versions(_caller(request), named(collection)))})

    @router.get(
        "/v1/collections/{collection}/changes",
        openapi_extra=query_of(ChangesQuery),
        responses={200: {"model": DifferenceShown}, **FAILURES},
    )
    async def show_changes(request: Request, collection: str) -> Response:
        """Compare two versions of a collection."""
        query = model_of(ChangesQuery, dict(request.query_params))
        found = await browse.difference(_caller(request), named(collection), start=query.start, end=query.end)
        return json(plain(found))

    @router.post(
        "/v1/collections/{collection}/rows",
        openapi_extra=body_of(RowsRequest),
        responses={200: {"model": RowList}, **FAILURES},
    )
    async def list_rows(request: Request, collection: str) -> Response:
        """Read rows of a collection in the order of their ids."""
        body = await read(request, RowsRequest)
        found = await browse.rows(
            _caller(request), named(collection), where=body.where, offset=body.offset, limit=body.limit
        )
        return json(plain(found))

    @router.get(
        "/v1/rows", openapi_extra=query_of(AroundQuery), responses={200: {"model": RowList}, **FAILURES}
    )
    async def show_row(request: Request) -> Response:
        """Read a row and those around it in its document."""
        query = model_of(AroundQuery, dict(request.query_params))
        collection = None if query.collection is None else named(query.collection)
        found = await browse.around(
            _caller(request), query.id, collection=collection, before=query.before, after=query.after
        )
        return json({"rows": plain(found), "total": len(found)})

    @router.get(
        "/v1/why", openapi_extra=query_of(WhyQuery), responses={200: {"model": ReasonList}, **FAILURES}
    )
    async def why(request: Request) -> Response:
        """Explain what became of a chunk or of a document."""
        query = model_of(WhyQuery, dict(request.query_params))
        return json({"chunks": plain(await browse.why(_caller(request), query.id))})

    return router


def named(collection: str) -> str:
    """Return the name of a collection if it can be one that everyone may read.

    Raises:
        NotFound: it is a vector store, or the store would refuse the name with an error of its own.
    """
    if not NAME.fullmatch(collection) or is_store(collection):
        raise NotFound(f"there is no collection {collection[:REPEATED]!r}")
    return collection


def _caller(request: Request) -> Caller:
    return context_of(request.scope).caller
