"""The routes of stores, and of searches in them."""

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
from flowbed.server.api.vector_stores.shapes import counts_of, owner_of, strategy_of, window_of
from flowbed.server.http.request_context import context_of
from flowbed.server.http.responses import json
from flowbed.services.vector_stores.attached import Attachment
from flowbed.services.vector_stores.searching import StoreQuery
from flowbed.services.vector_stores.stores import StoreChange, StoreDescription

if TYPE_CHECKING:
    from flowbed.ledger.vector_stores import VectorStoreRow
    from flowbed.services.service import Service

# Results of a search that names no number.
RESULTS = 10
KEY = b"idempotency-key"
KEY_MOST = 255


def store_routes(service: Service) -> APIRouter:
    """Create the routes of stores over `service`."""
    router = APIRouter(prefix="/v1/vector_stores", tags=["vector stores"])
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
        chunking = strategy_of(body.chunking_strategy)
        await attached.require_files(owner_of(request), body.file_ids or ())
        row = await stores.create(
            owner_of(request),
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
        found, more = await stores.list(owner_of(request), window_of(query))
        return json(page([await _shown(service, row) for row in found], more=more))

    @router.get("/{vector_store}", responses={200: {"model": schemas.StoreObject}, **FAILURES})
    async def retrieve_vector_store(request: Request, vector_store: str) -> Response:
        """Return a vector store."""
        return json(await _shown(service, await stores.get(owner_of(request), vector_store)))

    @router.post(
        "/{vector_store}",
        openapi_extra=body_of(schemas.StoreUpdate),
        responses={200: {"model": schemas.StoreObject}, **FAILURES},
    )
    async def update_vector_store(request: Request, vector_store: str) -> Response:
        """Change name, metadata or expiry of a vector store."""
        await stores.get(owner_of(request), vector_store)
        body = await read(request, schemas.StoreUpdate, nulls=True)
        sent = body.model_fields_set
        change = StoreChange(
            name=(body.name or "") if "name" in sent else None,
            metadata=(body.metadata or {}) if "metadata" in sent else None,
            days=(0 if body.expires_after is None else body.expires_after.days)
            if "expires_after" in sent
            else None,
        )
        return json(await _shown(service, await stores.update(owner_of(request), vector_store, change)))

    @router.delete("/{vector_store}", responses={200: {"model": schemas.StoreDeleted}, **FAILURES})
    async def delete_vector_store(request: Request, vector_store: str) -> Response:
        """Delete a vector store; its files stay."""
        await stores.delete(owner_of(request), vector_store)
        return json({"id": vector_store, "object": "vector_store.deleted", "deleted": True})

    @router.post(
        "/{vector_store}/search",
        openapi_extra=body_of(schemas.StoreSearchRequest),
        responses={200: {"model": schemas.StoreSearchResponse}, **FAILURES},
    )
    async def search_vector_store(request: Request, vector_store: str) -> Response:
        """Find the chunks nearest to a query among the completed files of a vector store."""
        row = await stores.get(owner_of(request), vector_store)
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

    return router


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
        "file_counts": counts_of(counts),
        "last_active_at": row.active // 1_000_000,
        "expires_after": {"anchor": "last_active_at", "days": row.days} if row.days else None,
        "expires_at": row.expires() // 1_000_000 if row.days else None,
        "metadata": orjson.loads(row.metadata),
    }


def _idempotency_key(request: Request) -> str:
    sent = context_of(request.scope).headers.get(KEY, b"").decode("latin-1")
    if len(sent) > KEY_MOST or not (sent.isprintable() and sent.isascii()):
        raise Rejected(
            f"An Idempotency-Key has up to {KEY_MOST} printable characters.", param="Idempotency-Key"
        )
    return sent
