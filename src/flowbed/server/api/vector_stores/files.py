"""The routes of the files attached to stores, one by one and in batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from fastapi import APIRouter, Request, Response

from flowbed.errors import Rejected
from flowbed.server.api.files import page
from flowbed.server.api.openapi import FAILURES, body_of, query_of
from flowbed.server.api.schemas import vector_stores as schemas
from flowbed.server.api.schemas.shapes import model_of
from flowbed.server.api.search import read
from flowbed.server.api.vector_stores.shapes import (
    batch_answer,
    file_answer,
    owner_of,
    shown_file,
    strategy_of,
    window_of,
)
from flowbed.server.http.request_context import context_of
from flowbed.server.http.responses import json
from flowbed.services.vector_stores.attached import Attachment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.ledger.vector_stores import VectorStoreRow
    from flowbed.services.service import Service
    from flowbed.services.vector_stores.attached import AttachedFiles

# Bytes of a file batch: 2,000 files with 16 attributes each of 64 + 512 characters take 20 MB.
BATCH_BYTES = 24 * 2**20


def file_routes(service: Service) -> APIRouter:
    """Create the routes of files over `service`."""
    router = APIRouter(prefix="/v1/vector_stores", tags=["vector stores"])
    stores, attached = service.vector_stores.stores, service.vector_stores.files

    @router.post(
        "/{vector_store}/files",
        openapi_extra=body_of(schemas.AttachRequest),
        responses={200: {"model": schemas.StoreFileObject}, **FAILURES},
    )
    async def attach_file(request: Request, vector_store: str) -> Response:
        """Attach a file, which is indexed in the background; attaching it again changes nothing unless it failed."""
        row = await stores.get(owner_of(request), vector_store)
        await service.quotas.admit(context_of(request.scope).caller)
        body = await read(request, schemas.AttachRequest, nulls=True)
        return file_answer(await attached.attach(row, _attachment(body)))

    @router.get("/{vector_store}/files", **_listing())
    async def list_attached_files(request: Request, vector_store: str) -> Response:
        """List the files of a vector store."""
        row = await stores.get(owner_of(request), vector_store)
        return await _listed(request, attached, row)

    @router.get(
        "/{vector_store}/files/{file}", responses={200: {"model": schemas.StoreFileObject}, **FAILURES}
    )
    async def retrieve_attached_file(request: Request, vector_store: str, file: str) -> Response:
        """Return a file of a vector store."""
        row = await stores.get(owner_of(request), vector_store)
        return file_answer(await attached.get(row, file))

    @router.post(
        "/{vector_store}/files/{file}",
        openapi_extra=body_of(schemas.AttributesRequest),
        responses={200: {"model": schemas.StoreFileObject}, **FAILURES},
    )
    async def update_attributes(request: Request, vector_store: str, file: str) -> Response:
        """Replace the attributes of a file; nothing is embedded again."""
        row = await stores.get(owner_of(request), vector_store)
        body = await read(request, schemas.AttributesRequest, nulls=True)
        return file_answer(await attached.describe(row, file, body.attributes or {}))

    @router.delete(
        "/{vector_store}/files/{file}", responses={200: {"model": schemas.StoreFileDeleted}, **FAILURES}
    )
    async def detach_file(request: Request, vector_store: str, file: str) -> Response:
        """Take a file out of a vector store; the file itself stays."""
        row = await stores.get(owner_of(request), vector_store)
        await attached.remove(row, file)
        return json({"id": file, "object": "vector_store.file.deleted", "deleted": True})

    @router.get(
        "/{vector_store}/files/{file}/content",
        responses={200: {"model": schemas.StoreFileContent}, **FAILURES},
    )
    async def retrieve_attached_content(request: Request, vector_store: str, file: str) -> Response:
        """Return the texts of a file's chunks, in order."""
        row = await stores.get(owner_of(request), vector_store)
        texts = await attached.content(row, file)
        return json(
            {
                "object": "vector_store.file_content.page",
                "data": [{"type": "text", "text": text} for text in texts],
                "has_more": False,
                "next_page": None,
            }
        )

    return router


def batch_routes(service: Service) -> APIRouter:
    """Create the routes of file batches over `service`."""
    router = APIRouter(prefix="/v1/vector_stores", tags=["vector stores"])
    stores, attached = service.vector_stores.stores, service.vector_stores.files

    @router.post(
        "/{vector_store}/file_batches",
        openapi_extra=body_of(schemas.BatchAttachRequest),
        responses={200: {"model": schemas.FileBatchObject}, **FAILURES},
    )
    async def create_file_batch(request: Request, vector_store: str) -> Response:
        """Attach several files, which are indexed in the background."""
        row = await stores.get(owner_of(request), vector_store)
        await service.quotas.admit(context_of(request.scope).caller)
        body = await read(request, schemas.BatchAttachRequest, nulls=True, most=BATCH_BYTES)
        return batch_answer(await attached.attach_batch(row, _attachments(body)))

    @router.get(
        "/{vector_store}/file_batches/{batch}",
        responses={200: {"model": schemas.FileBatchObject}, **FAILURES},
    )
    async def retrieve_file_batch(request: Request, vector_store: str, batch: str) -> Response:
        """Return a file batch."""
        row = await stores.get(owner_of(request), vector_store)
        return batch_answer(await attached.batch(row, batch))

    @router.post(
        "/{vector_store}/file_batches/{batch}/cancel",
        responses={200: {"model": schemas.FileBatchObject}, **FAILURES},
    )
    async def cancel_file_batch(request: Request, vector_store: str, batch: str) -> Response:
        """Cancel a file batch; files that are completed stay."""
        row = await stores.get(owner_of(request), vector_store)
        return batch_answer(await attached.cancel_batch(row, batch))

    @router.get("/{vector_store}/file_batches/{batch}/files", **_listing())
    async def list_batch_files(request: Request, vector_store: str, batch: str) -> Response:
        """List the files of a file batch."""
        row = await stores.get(owner_of(request), vector_store)
        among = orjson.loads((await attached.batch(row, batch)).row.files)
        return await _listed(request, attached, row, among=among)

    return router


def _listing() -> dict[str, Any]:
    """Describe a route that lists files of a store."""
    return {
        "openapi_extra": query_of(schemas.StoreFilesQuery),
        "responses": {200: {"model": schemas.StoreFileList}, **FAILURES},
    }


async def _listed(
    request: Request, attached: AttachedFiles, store: VectorStoreRow, *, among: Sequence[str] | None = None
) -> Response:
    """Answer a request for a page of the files of a store, of all or `among` some."""
    query = model_of(schemas.StoreFilesQuery, dict(request.query_params))
    found, more = await attached.list(store, window_of(query), status=query.filter or "", among=among)
    return json(page([shown_file(each) for each in found], more=more))


def _attachments(body: schemas.BatchAttachRequest) -> Sequence[Attachment]:
    if (body.files is None) == (body.file_ids is None):
        raise Rejected("Send either 'file_ids', or 'files' with attributes for each file.", param="file_ids")
    if body.files is not None:
        return [_attachment(each) for each in body.files]
    chunking = strategy_of(body.chunking_strategy)
    return [
        Attachment(file=each, attributes=body.attributes or {}, chunking=chunking)
        for each in body.file_ids or ()
    ]


def _attachment(body: schemas.AttachRequest) -> Attachment:
    return Attachment(
        file=body.file_id, attributes=body.attributes or {}, chunking=strategy_of(body.chunking_strategy)
    )
