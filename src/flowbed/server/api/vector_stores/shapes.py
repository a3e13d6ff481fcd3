"""What stores, files and batches look like to OpenAI's clients, and what their requests have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from flowbed.errors import Rejected
from flowbed.ledger.vector_stores import Window
from flowbed.server.api.schemas import vector_stores as schemas
from flowbed.server.http.request_context import context_of
from flowbed.server.http.responses import json

if TYPE_CHECKING:
    from fastapi import Request, Response

    from flowbed.ledger.vector_stores import VectorStoreFileRow
    from flowbed.server.api.schemas.vector_stores import Chunking
    from flowbed.services.vector_stores.attached import FileBatch
    from flowbed.services.vector_stores.stores import Counts

# How OpenAI shows the strategy `auto`, which SDKs read as `static`; this server cuts by its own rules then.
AUTO = {"max_chunk_size_tokens": 800, "chunk_overlap_tokens": 400}
# Milliseconds after which a client that waits for files may ask again.
POLL_AFTER = (b"openai-poll-after-ms", b"500")


def file_answer(row: VectorStoreFileRow) -> Response:
    """Answer with a file, and say when to ask again."""
    return json(shown_file(row), headers=[POLL_AFTER])


def shown_file(row: VectorStoreFileRow) -> dict[str, Any]:
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


def batch_answer(batch: FileBatch) -> Response:
    """Describe a file batch as OpenAI does."""
    return json(
        {
            "id": batch.row.id,
            "object": "vector_store.files_batch",
            "created_at": batch.row.created // 1_000_000,
            "vector_store_id": batch.row.store,
            "status": batch.status,
            "file_counts": counts_of(batch.counts),
        },
        headers=[POLL_AFTER],
    )


def counts_of(counts: Counts) -> dict[str, int]:
    """Describe how many files of a store or batch have each status."""
    return {
        "in_progress": counts.in_progress,
        "completed": counts.completed,
        "failed": counts.failed,
        "cancelled": counts.cancelled,
        "total": counts.total,
    }


def window_of(query: schemas.StoresQuery) -> Window:
    """Return the part of a list that a query asks for."""
    return Window(limit=query.limit, descending=query.order == "desc", after=query.after, before=query.before)


def strategy_of(chunking: Chunking | None) -> dict[str, Any]:
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


def owner_of(request: Request) -> str:
    """Return the owner of a request's stores: the id of its key, or "" where there is none."""
    return context_of(request.scope).caller.key or ""
