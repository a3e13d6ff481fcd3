"""/v1/vector_stores: stores, the files attached to them, and searches, compatible with OpenAI's API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from fastapi import APIRouter, Request, Response

from flowbed.errors import Rejected
from flowbed.ledger.vector_stores import Window
from flowbed.server.api import vector_store_schemas as schemas
from flowbed.server.api.files import page
from flowbed.server.api.openapi import FAILURES, body_of, query_of
from flowbed.server.api.schemas import model_of
from flowbed.server.api.search import read
from flowbed.server.http.request_context import context_of
from flowbed.server.http.responses import json
from flowbed.services.vector_stores.attached import Attachment
from flowbed.services.vector_stores.searching import StoreQuery
from flowbed.services.vector_stores.stores import StoreChange, StoreDescription

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.ledger.vector_stores import VectorStoreFileRow, VectorStoreRow
    from flowbed.server.api.vector_store_schemas import Chunking
    from flowbed.services.service import Service
    from flowbed.services.vector_stores.attached import FileBatch
    from flowbed.services.vector_stores.stores import Counts

# How OpenAI shows the strategy `auto`, which SDKs read as `static`; this server cuts by its own rules then.
AUTO = {"max_chunk_size_tokens": 800, "chunk_overlap_tokens": 400}
# Milliseconds after which a client that waits for files may ask again.
POLL_AFTER = (b"openai-poll-after-ms", b"500")
# Results of a search that names no number.
RESULTS = 10
# Bytes of a file batch: 2,000 files with 16 attributes each of 64 + 512 characters take 20 MB.
BATCH_BYTES = 24 * 2**20
KEY = b"idempotency-key"
KEY_MOST = 255


def routes(service: Service) -> APIRouter:
    """Create the routes over `service`."""
    router = APIRouter(prefix="/v1/vector_stores", tags=["vector stores"])
    _stores(router, service)
    _files(router, service)
    _batches(router, service)
    return router


def _stores(router: APIRouter, service: Service) -> None:
    stores, attached = service.vector_stores.stores, service.vector_stores.files

    @router.post(
        "",
        openapi_extra=body_of(schemas.StoreRequest, required=False),
        responses={200: {"model": schemas.StoreObject}, **FAILURES},
    )
    async def create_vector_store(request: Request) -> Response:
        """Create a vector store, and attach files to it; an Idempotency-Key makes a repeated request safe."""
        await service.quotas.admit(context_of(request.scope).caller)
        # The SDK for Node sends no body where there is nothing to say.
        body = await read(request, schemas.StoreRequest, nulls=True, optional=True)
        chunking = _sent(body.chunking_strategy)
        await attached.require_files(_owner(request), body.file_ids or ())
        row = await stores.create(
            _owner(request),
            StoreDescription(
                name=body.name or "",
                description=body.description or "",
                metadata=body.metadata,
                days=0 if body.expires_after is None else body.expires_after.days,
            ),
            model=body.embedding_model,
            request=_idempotency_key(request),
        )
        if body.file_ids:
            await attached.attach_batch(
                row, [Attachment(file=each, attributes={}, chunking=chunking) for each in body.file_ids]
            )
        return json(await _shown(service, row))

    @router.get(
        "",
        openapi_extra=query_of(schemas.StoresQuery),
        responses={200: {"model": schemas.StoreList}, **FAILURES},
    )
    async def list_vector_stores(request: Request) -> Response:
        """List the vector stores of the key."""
        query = model_of(schemas.StoresQuery, dict(request.query_params))
        found, more = await stores.list(_owner(request), _window(query))
        return json(page([await _shown(service, row) for row in found], more=more))

    @router.get("/{vector_store}", responses={200: {"model": schemas.StoreObject}, **FAILURES})
    async def retrieve_vector_store(request: Request, vector_store: str) -> Response:
        """Return a vector store."""
        return json(await _shown(service, await stores.get(_owner(request), vector_store)))

    @router.post(
        "/{vector_store}",
        openapi_extra=body_of(schemas.StoreUpdate),
        responses={200: {"model": schemas.StoreObject}, **FAILURES},
    )
    async def update_vector_store(request: Request, vector_store: str) -> Response:
        """Change name, metadata or expiry of a vector store."""
        await stores.get(_owner(request), vector_store)
        body = await read(request, schemas.StoreUpdate, nulls=True)
        sent = body.model_fields_set
        change = StoreChange(
            name=(body.name or "") if "name" in sent else None,
            metadata=(body.metadata or {}) if "metadata" in sent else None,
            days=(0 if body.expires_after is None else body.expires_after.days)
            if "expires_after" in sent
            else None,
        )
        return json(await _shown(service, await stores.update(_owner(request), vector_store, change)))

    @router.delete("/{vector_store}", responses={200: {"model": schemas.StoreDeleted}, **FAILURES})
    async def delete_vector_store(request: Request, vector_store: str) -> Response:
        """Delete a vector store; its files stay."""
        await stores.delete(_owner(request), vector_store)
        return json({"id": vector_store, "object": "vector_store.deleted", "deleted": True})

    @router.post(
        "/{vector_store}/search",
        openapi_extra=body_of(schemas.StoreSearchRequest),
        responses={200: {"model": schemas.StoreSearchResponse}, **FAILURES},
    )
    async def search_vector_store(request: Request, vector_store: str) -> Response:
        """Find the chunks nearest to a query among the completed files of a vector store."""
        row = await stores.get(_owner(request), vector_store)
        body = await read(request, schemas.StoreSearchRequest, nulls=True)
        texts = [body.query] if isinstance(body.query, str) else body.query
        options = body.ranking_options
        query = StoreQuery(
            texts=texts,
            limit=body.max_num_results or RESULTS,
            filters=body.filters,
            threshold=(options.score_threshold or 0.0) if options is not None else 0.0,
        )
        hits = await service.vector_stores.search.find(context_of(request.scope).caller, row, query)
        data = [
            {
                "file_id": hit.file,
                "filename": hit.filename,
                "score": hit.score,
                "attributes": hit.attributes,
                "content": [{"type": "text", "text": hit.text}],
            }
            for hit in hits
        ]
        return json(
            {
                "object": "vector_store.search_results.page",
                "search_query": texts,
                "data": data,
                "has_more": False,
                "next_page": None,
            }
        )


def _files(router: APIRouter, service: Service) -> None:
    stores, attached = service.vector_stores.stores, service.vector_stores.files

    @router.post(
        "/{vector_store}/files",
        openapi_extra=body_of(schemas.AttachRequest),
        responses={200: {"model": schemas.StoreFileObject}, **FAILURES},
    )
    async def attach_file(request: Request, vector_store: str) -> Response:
        """Attach a file, which is indexed in the background; attaching it again changes nothing unless it failed."""
        row = await stores.get(_owner(request), vector_store)
        await service.quotas.admit(context_of(request.scope).caller)
        body = await read(request, schemas.AttachRequest, nulls=True)
        return _file(await attached.attach(row, _attachment(body)))

    @router.get(
        "/{vector_store}/files",
        openapi_extra=query_of(schemas.StoreFilesQuery),
        responses={200: {"model": schemas.StoreFileList}, **FAILURES},
    )
    async def list_attached_files(request: Request, vector_store: str) -> Response:
        """List the files of a vector store."""
        row = await stores.get(_owner(request), vector_store)
        query = model_of(schemas.StoreFilesQuery, dict(request.query_params))
        found, more = await attached.list(row, _window(query), status=query.filter or "")
        return json(page([_shown_file(each) for each in found], more=more))

    @router.get(
        "/{vector_store}/files/{file}", responses={200: {"model": schemas.StoreFileObject}, **FAILURES}
    )
    async def retrieve_attached_file(request: Request, vector_store: str, file: str) -> Response:
        """Return a file of a vector store."""
        row = await stores.get(_owner(request), vector_store)
        return _file(await attached.get(row, file))

    @router.post(
        "/{vector_store}/files/{file}",
        openapi_extra=body_of(schemas.AttributesRequest),
        responses={200: {"model": schemas.StoreFileObject}, **FAILURES},
    )
    async def update_attributes(request: Request, vector_store: str, file: str) -> Response:
        """Replace the attributes of a file; nothing is embedded again."""
        row = await stores.get(_owner(request), vector_store)
        body = await read(request, schemas.AttributesRequest, nulls=True)
        return _file(await attached.describe(row, file, body.attributes or {}))

    @router.delete(
        "/{vector_store}/files/{file}", responses={200: {"model": schemas.StoreFileDeleted}, **FAILURES}
    )
    async def detach_file(request: Request, vector_store: str, file: str) -> Response:
        """Take a file out of a vector store; the file itself stays."""
        row = await stores.get(_owner(request), vector_store)
        await attached.remove(row, file)
        return json({"id": file, "object": "vector_store.file.deleted", "deleted": True})

    @router.get(
        "/{vector_store}/files/{file}/content",
        responses={200: {"model": schemas.StoreFileContent}, **FAILURES},
    )
    async def retrieve_attached_content(request: Request, vector_store: str, file: str) -> Response:
        """Return the texts of a file's chunks, in order."""
        row = await stores.get(_owner(request), vector_store)
        texts = await attached.content(row, file)
        return json(
            {
                "object": "vector_store.file_content.page",
                "data": [{"type": "text", "text": text} for text in texts],
                "has_more": False,
                "next_page": None,
            }
        )


def _batches(router: APIRouter, service: Service) -> None:
    stores, attached = service.vector_stores.stores, service.vector_stores.files

    @router.post(
        "/{vector_store}/file_batches",
        openapi_extra=body_of(schemas.BatchAttachRequest),
        responses={200: {"model": schemas.FileBatchObject}, **FAILURES},
    )
    async def create_file_batch(request: Request, vector_store: str) -> Response:
        """Attach several files, which are indexed in the background."""
        row = await stores.get(_owner(request), vector_store)
        await service.quotas.admit(context_of(request.scope).caller)
        body = await read(request, schemas.BatchAttachRequest, nulls=True, most=BATCH_BYTES)
        return _batch(await attached.attach_batch(row, _attachments(body)))

    @router.get(
        "/{vector_store}/file_batches/{batch}",
        responses={200: {"model": schemas.FileBatchObject}, **FAILURES},
    )
    async def retrieve_file_batch(request: Request, vector_store: str, batch: str) -> Response:
        """Return a file batch."""
        row = await stores.get(_owner(request), vector_store)
        return _batch(await attached.batch(row, batch))

    @router.post(
        "/{vector_store}/file_batches/{batch}/cancel",
        responses={200: {"model": schemas.FileBatchObject}, **FAILURES},
    )
    async def cancel_file_batch(request: Request, vector_store: str, batch: str) -> Response:
        """Cancel a file batch; files that are completed stay."""
        row = await stores.get(_owner(request), vector_store)
        return _batch(await attached.cancel_batch(row, batch))

    @router.get(
        "/{vector_store}/file_batches/{batch}/files",
        openapi_extra=query_of(schemas.StoreFilesQuery),
        responses={200: {"model": schemas.StoreFileList}, **FAILURES},
    )
    async def list_batch_files(request: Request, vector_store: str, batch: str) -> Response:
        """List the files of a file batch."""
        row = await stores.get(_owner(request), vector_store)
        query = model_of(schemas.StoreFilesQuery, dict(request.query_params))
        among = orjson.loads((await attached.batch(row, batch)).row.files)
        found, more = await attached.list(row, _window(query), status=query.filter or "", among=among)
        return json(page([_shown_file(each) for each in found], more=more))


async def _shown(service: Service, row: VectorStoreRow) -> dict[str, Any]:
    """Describe a store as OpenAI does."""
    stores = service.vector_stores.stores
    counts = await stores.counts(row)
    status = "expired" if stores.is_expired(row) else "in_progress" if counts.in_progress else "completed"
    return {
        "id": row.id,
        "object": "vector_store",
        "created_at": row.created // 1_000_000,
        "name": row.name,
        "description": row.description or None,
        "status": status,
        "usage_bytes": counts.usage,
        "file_counts": _counts(counts),
        "last_active_at": row.active // 1_000_000,
        "expires_after": {"anchor": "last_active_at", "days": row.days} if row.days else None,
        "expires_at": row.expires() // 1_000_000 if row.days else None,
        "metadata": orjson.loads(row.metadata),
    }


def _file(row: VectorStoreFileRow) -> Response:
    return json(_shown_file(row), headers=[POLL_AFTER])


def _shown_file(row: VectorStoreFileRow) -> dict[str, Any]:
    """Describe a file of a store as OpenAI does."""
    return {
        "id": row.file,
        "object": "vector_store.file",
        "created_at": row.created // 1_000_000,
        "vector_store_id": row.store,
        "status": row.status,
        "usage_bytes": row.usage,
        "last_error": {"code": row.code, "message": row.error} if row.code else None,
        "attributes": orjson.loads(row.attributes),
        "chunking_strategy": {
            "type": "static",
            "static": orjson.loads(row.chunking).get("static", AUTO),
        },
    }


def _batch(batch: FileBatch) -> Response:
    """Describe a file batch as OpenAI does."""
    return json(
        {
            "id": batch.row.id,
            "object": "vector_store.files_batch",
            "created_at": batch.row.created // 1_000_000,
            "vector_store_id": batch.row.store,
            "status": batch.status,
            "file_counts": _counts(batch.counts),
        },
        headers=[POLL_AFTER],
    )


def _counts(counts: Counts) -> dict[str, int]:
    return {
        "in_progress": counts.in_progress,
        "completed": counts.completed,
        "failed": counts.failed,
        "cancelled": counts.cancelled,
        "total": counts.total,
    }


def _window(query: schemas.StoresQuery) -> Window:
    return Window(limit=query.limit, descending=query.order == "desc", after=query.after, before=query.before)


def _attachments(body: schemas.BatchAttachRequest) -> Sequence[Attachment]:
    if (body.files is None) == (body.file_ids is None):
        raise Rejected("Send either 'file_ids', or 'files' with attributes for each file.", param="file_ids")
    if body.files is not None:
        return [_attachment(each) for each in body.files]
    chunking = _sent(body.chunking_strategy)
    return [
        Attachment(file=each, attributes=body.attributes or {}, chunking=chunking)
        for each in body.file_ids or ()
    ]


def _attachment(body: schemas.AttachRequest) -> Attachment:
    return Attachment(
        file=body.file_id, attributes=body.attributes or {}, chunking=_sent(body.chunking_strategy)
    )


def _sent(chunking: Chunking | None) -> dict[str, Any]:
    """Return a strategy as it is kept.

    Raises:
        Rejected: chunks overlap by more than half.
    """
    if not isinstance(chunking, schemas.StaticChunking):
        return {}
    if chunking.static.chunk_overlap_tokens * 2 > chunking.static.max_chunk_size_tokens:
        raise Rejected(
            "chunk_overlap_tokens must not exceed half of max_chunk_size_tokens.",
            param="chunking_strategy",
            code="invalid_value",
        )
    return chunking.model_dump()


def _idempotency_key(request: Request) -> str:
    sent = context_of(request.scope).headers.get(KEY, b"").decode("latin-1")
    if len(sent) > KEY_MOST or not (sent.isprintable() and sent.isascii()):
        raise Rejected(
            f"An Idempotency-Key has up to {KEY_MOST} printable characters.", param="Idempotency-Key"
        )
    return sent


def _owner(request: Request) -> str:
    return context_of(request.scope).caller.key or ""
