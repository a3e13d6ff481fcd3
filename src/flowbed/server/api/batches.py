"""/v1/batches: jobs of this server, compatible with OpenAI's Batch API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from fastapi import APIRouter, Request, Response

from flowbed.server.api.files import page
from flowbed.server.api.openapi import FAILURES, body_of, query_of
from flowbed.server.api.schemas.batches import BatchesQuery, BatchList, BatchObject, BatchRequest
from flowbed.server.api.schemas.shapes import model_of
from flowbed.server.api.search import read
from flowbed.server.http.request_context import context_of
from flowbed.server.http.responses import json

if TYPE_CHECKING:
    from flowbed.ledger import JobRow
    from flowbed.services.service import Service

# States whose start is stamped.
STAMPED = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
# States in which a cancelled batch finishes its current part first.
CANCELLABLE = frozenset({"validating", "in_progress"})


def routes(service: Service) -> APIRouter:
    """Create the routes over `service`."""
    router = APIRouter(prefix="/v1/batches", tags=["batches"])
    jobs = service.jobs

    @router.post("", openapi_extra=body_of(BatchRequest), responses={200: {"model": BatchObject}, **FAILURES})
    async def create_batch(request: Request) -> Response:
        """Answer the requests of a file in the background, within a day."""
        await service.quotas.admit(context_of(request.scope).caller)
        body = await read(request, BatchRequest)
        row = await jobs.create(
            context_of(request.scope).caller,
            file=body.input_file_id,
            metadata=body.metadata,
            keep=None if body.output_expires_after is None else body.output_expires_after.seconds,
        )
        return json(shown(row))

    @router.get("", openapi_extra=query_of(BatchesQuery), responses={200: {"model": BatchList}, **FAILURES})
    async def list_batches(request: Request) -> Response:
        """List the batches of the key, newest first."""
        query = model_of(BatchesQuery, dict(request.query_params))
        found, more = await jobs.list(_owner(request), after=query.after, limit=query.limit)
        return json(page([shown(row) for row in found], more=more))

    @router.get("/{batch}", responses={200: {"model": BatchObject}, **FAILURES})
    async def retrieve_batch(request: Request, batch: str) -> Response:
        """Return a batch."""
        return json(shown(await jobs.get(_owner(request), batch)))

    @router.post("/{batch}/cancel", responses={200: {"model": BatchObject}, **FAILURES})
    async def cancel_batch(request: Request, batch: str) -> Response:
        """Cancel a batch; results up to that point are kept."""
        return json(shown(await jobs.cancel(_owner(request), batch)))

    return router


def shown(row: JobRow) -> dict[str, Any]:
    """Describe a job as OpenAI describes a batch."""
    stamps = orjson.loads(row.stamps)
    faults = orjson.loads(row.faults)
    return {
        "id": row.id,
        "object": "batch",
        "endpoint": row.endpoint,
        "model": row.model or None,
        "errors": {"object": "list", "data": faults} if faults else None,
        "input_file_id": row.input,
        "completion_window": row.window,
        "status": "cancelling" if row.cancel and row.state in CANCELLABLE else row.state,
        "output_file_id": row.output or None,
        "error_file_id": row.errors or None,
        "created_at": row.created // 1_000_000,
        "expires_at": row.expires // 1_000_000,
        **{f"{state}_at": stamps[state] // 1_000_000 if state in stamps else None for state in STAMPED},
        "request_counts": {"total": row.total, "completed": row.completed, "failed": row.failed},
        "usage": _usage(row.tokens) if row.ended and row.total else None,
        "metadata": orjson.loads(row.metadata),
    }


def _usage(tokens: int) -> dict[str, Any]:
    """Describe the usage; SDKs require every field."""
    return {
        "input_tokens": tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": tokens,
    }


def _owner(request: Request) -> str:
    return context_of(request.scope).caller.key or ""
