"""Routes that write the rows of a collection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from flowbed.errors import Rejected
from flowbed.server.api.embeddings import DirectRoute
from flowbed.server.chroma.bodies import DeleteBody, NewBody, WriteBody, read, vectors_in
from flowbed.server.chroma.records import COLLECTION, asked
from flowbed.server.http.responses import json

if TYPE_CHECKING:
    from flowbed.services.service import Service

# The shape of the body of each kind of write, and the status of its answer.
WRITES: dict[str, tuple[type[WriteBody], int]] = {
    "add": (NewBody, 201),
    "upsert": (NewBody, 200),
    "update": (WriteBody, 200),
}


def routes(service: Service) -> APIRouter:
    """Create the routes over `service`."""
    router = APIRouter(route_class=DirectRoute, include_in_schema=False)
    writes = service.chroma.writes

    async def write(request: Request) -> Response:
        """Add, upsert or update rows, as the last part of the path says."""
        caller, collection = asked(request)
        action = request.url.path.rpartition("/")[2]
        shape, status = WRITES[action]
        body = await read(request, shape)
        if any(body.uris or ()):
            raise Rejected("Flowbed keeps no uris: put them into the metadata")
        await writes.write(
            caller,
            collection,
            action,
            body.ids,
            vectors=vectors_in(body.embeddings),
            texts=body.documents,
            metadata=body.metadatas,
        )
        return json({}, status=status)

    for action in WRITES:
        router.add_api_route(f"{COLLECTION}/{action}", write, methods=["POST"])

    @router.post(f"{COLLECTION}/delete")
    async def delete(request: Request) -> Response:
        """Delete rows by id and filter."""
        caller, collection = asked(request)
        body = await read(request, DeleteBody)
        deleted = await writes.delete(
            caller,
            collection,
            ids=body.ids,
            where=body.where,
            where_document=body.where_document,
            limit=body.limit,
        )
        return json({"deleted": deleted})

    return router
