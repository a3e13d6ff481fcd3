"""Routes that create, change and delete collections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response

from flowbed.errors import Rejected
from flowbed.server.api.embeddings import DirectRoute
from flowbed.server.chroma.bodies import ConfigurationBody, CreateBody, ModifyBody, read
from flowbed.server.chroma.collections import DATABASE, admit
from flowbed.server.http.request_context import context_of
from flowbed.server.http.responses import json
from flowbed.services.chroma.collections import CollectionSettings, metric_of

if TYPE_CHECKING:
    from flowbed.services.service import Service


def routes(service: Service) -> APIRouter:
    """Create the routes over `service`."""
    router = APIRouter(route_class=DirectRoute, include_in_schema=False)
    directory, creation = service.chroma.collections, service.chroma.creation

    @router.post(f"{DATABASE}/collections")
    async def create(request: Request) -> Response:
        """Create a collection, or return the one that there is."""
        await admit(request, service)
        body = await read(request, CreateBody)
        if body.metadata == {}:
            raise Rejected("Validation error: metadata: Metadata cannot be empty")
        caller = context_of(request.scope).caller
        found = await creation.create(caller, body.name, said(body), get_or_create=body.get_or_create)
        return json(found.described())

    @router.put(f"{DATABASE}/collections/{{id}}")
    async def modify(request: Request) -> Response:
        """Change what is said of a collection."""
        await admit(request, service)
        body = await read(request, ModifyBody)
        if body.new_metadata == {}:
            raise Rejected("Validation error: new_metadata: Metadata cannot be empty")
        configuration = body.new_configuration or ConfigurationBody()
        await creation.modify(
            context_of(request.scope).caller,
            await directory.with_id(request.path_params["id"]),
            name=body.new_name,
            metadata=body.new_metadata,
            hnsw=hnsw_in(configuration),
            embedding_function=configuration.embedding_function,
        )
        return json({})

    @router.delete(f"{DATABASE}/collections/{{name}}")
    async def delete(request: Request) -> Response:
        """Delete a collection that a client created."""
        await admit(request, service)
        await creation.delete(context_of(request.scope).caller, request.path_params["name"])
        return json({})

    return router


def said(body: CreateBody) -> CollectionSettings:
    """Return what a client says of a new collection: the distance as Chroma chooses it."""
    configuration, metadata = body.configuration or ConfigurationBody(), body.metadata or {}
    named = configuration.hnsw.space if configuration.hnsw is not None else None
    return CollectionSettings(
        metadata=body.metadata,
        metric=metric_of(named or metadata.get("hnsw:space", "l2")),
        hnsw=hnsw_in(configuration),
        embedding_function=configuration.embedding_function,
    )


def hnsw_in(configuration: ConfigurationBody) -> dict[str, Any]:
    """Return what a client says of the index, which is shown to others and does nothing."""
    return (
        {}
        if configuration.hnsw is None
        else configuration.hnsw.model_dump(exclude={"space"}, exclude_none=True)
    )
