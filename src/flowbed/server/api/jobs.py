"""/v1/jobs: texts, documents and stored files that are written into a collection in the background."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import orjson
from fastapi import APIRouter, Request, Response

from flowbed.errors import Rejected
from flowbed.ledger.index_jobs import shown_state
from flowbed.server.api.files import page
from flowbed.server.api.openapi import FAILURES, body_of, query_of
from flowbed.server.api.schemas.jobs import (
    JobCancel,
    JobChange,
    JobList,
    JobObject,
    JobRequest,
    JobsQuery,
    TextItem,
)
from flowbed.server.api.schemas.shapes import model_of
from flowbed.server.api.search import read
from flowbed.server.http.request_context import context_of
from flowbed.server.http.responses import ACCEPTED, json
from flowbed.services.jobs.notes import counts_of, progress_of
from flowbed.services.jobs.requests import IndexRequest, JobDocument, JobFile

if TYPE_CHECKING:
    from flowbed.ledger.index_jobs import IndexJobRow
    from flowbed.services.service import Service

STATES = frozenset({"queued", "running", "cancelling", "completed", "failed", "cancelled"})
FILE_URL = re.compile(r"(?:https?://[^/?#]+)?/v1/files/(?P<file>[A-Za-z0-9_-]{1,80})(?:/content)?")
REPLAYED = (b"idempotency-replayed", b"true")


def routes(service: Service) -> APIRouter:
    """Create the routes over `service`."""
    router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
    jobs = service.index_jobs

    @router.post(
        "",
        status_code=ACCEPTED,
        openapi_extra=body_of(JobRequest),
        responses={ACCEPTED: {"model": JobObject}, 200: {"model": JobObject}, **FAILURES},
    )
    async def create_job(request: Request) -> Response:
        """Write texts, a document or a stored file into a collection, in the background."""
        context = context_of(request.scope)
        await service.quotas.admit(context.caller)
        body = await read(request, JobRequest, most=service.serving.body_bytes)
        row, replayed = await jobs.create(context.caller, asked_of(body, _idempotency(context.headers, body)))
        headers = [(b"location", f"/v1/jobs/{row.id}".encode())]
        if replayed:
            return json(shown(row), headers=[*headers, REPLAYED])
        return json(shown(row), status=ACCEPTED, headers=headers)

    @router.get("", openapi_extra=query_of(JobsQuery), responses={200: {"model": JobList}, **FAILURES})
    async def list_jobs(request: Request) -> Response:
        """List the jobs of the key, newest first."""
        query = model_of(JobsQuery, _numbers(dict(request.query_params)))
        found, more = await jobs.list(
            _owner(request),
            states=_states(query.status),
            collection=query.collection or "",
            after=query.after,
            limit=query.limit,
            descending=query.order == "desc",
        )
        return json(page([shown(row) for row in found], more=more))

    @router.get("/{job}", responses={200: {"model": JobObject}, **FAILURES})
    async def retrieve_job(request: Request, job: str) -> Response:
        """Return a job."""
        row = await jobs.get(_owner(request), job)
        ahead = await jobs.ahead(row) if not (row.ended or row.worker) else None
        return json(shown(row, ahead=ahead, now=service.bed.clock()))

    @router.patch(
        "/{job}", openapi_extra=body_of(JobChange), responses={200: {"model": JobObject}, **FAILURES}
    )
    async def change_job(request: Request, job: str) -> Response:
        """Change the priority or the metadata of a job."""
        body = await read(request, JobChange)
        row = await jobs.change(_owner(request), job, priority=body.priority, metadata=body.metadata)
        return json(shown(row))

    @router.post(
        "/{job}/cancel",
        openapi_extra=body_of(JobCancel, required=False),
        responses={200: {"model": JobObject}, **FAILURES},
    )
    async def cancel_job(request: Request, job: str) -> Response:
        """End a job: whole documents that are finished stay, or with rollback nothing of it."""
        body = await read(request, JobCancel, optional=True)
        return json(shown(await jobs.cancel(_owner(request), job, rollback=body.rollback)))

    @router.post("/{job}/retry", responses={200: {"model": JobObject}, **FAILURES})
    async def retry_job(request: Request, job: str) -> Response:
        """Start a job that failed or was cancelled again; what is stored is not embedded again."""
        return json(shown(await jobs.retry(_owner(request), job)))

    return router


def asked_of(body: JobRequest, key: str | None) -> IndexRequest:
    """Turn a body into a request for a job.

    Raises:
        Rejected: it asks for nothing, or for several things at once.
    """
    given = [name for name in ("texts", "document", "file_id", "url") if getattr(body, name) is not None]
    given += ["reembed"] if body.reembed else []
    if len(given) > 1:
        raise Rejected(
            f"A job takes one of texts, document, file_id, url and reembed; this one has {' and '.join(given)}.",
            param=given[1],
        )
    items = body.texts or ([body.document] if body.document else [])
    file = body.file_id or (None if body.url is None else _file_of(body.url))
    return IndexRequest(
        collection=body.collection,
        documents=[_document(each) for each in items],
        files=[JobFile(file=file, id=file)] if file else [],
        reembed=body.reembed,
        model=body.model or "",
        into=body.into or "",
        capacity=body.chunking.capacity if body.chunking else None,
        priority=body.priority,
        metadata=body.metadata or {},
        idempotency=key,
    )


def _document(each: str | TextItem) -> JobDocument:
    if isinstance(each, str):
        return JobDocument(id="", text=each)
    return JobDocument(
        id=each.id or "", text=each.text, kind=each.kind, title=each.title, metadata=each.metadata
    )


def _file_of(url: str) -> str:
    match = FILE_URL.fullmatch(url)
    if match is None:
        raise Rejected(
            "The url must be that of a file of this server, /v1/files/{id}: upload the file there first.",
            param="url",
        )
    return match["file"]


def _idempotency(headers: dict[bytes, bytes], body: JobRequest) -> str | None:
    sent = headers.get(b"idempotency-key")
    key = None if sent is None else sent.decode("latin-1").strip()
    if key is not None and body.idempotency_key not in {None, key}:
        raise Rejected(
            "The header Idempotency-Key and the field idempotency_key differ; send one.",
            param="idempotency_key",
        )
    return body.idempotency_key if key is None else key


def _states(status: str | None) -> list[str]:
    states = [] if status is None else [each.strip() for each in status.split(",")]
    if unknown := set(states) - STATES:
        raise Rejected(
            f"{min(unknown)[:40]!r} is no status of a job; there are: {', '.join(sorted(STATES))}.",
            param="status",
        )
    return states


def _numbers(query: dict[str, Any]) -> dict[str, Any]:
    """Turn the limit of a query, which is text, into a number; what is none is refused later."""
    limit = query.get("limit", "")
    return {**query, "limit": int(limit)} if limit.isdecimal() and limit.isascii() else query


def shown(row: IndexJobRow, *, ahead: int | None = None, now: int | None = None) -> dict[str, Any]:
    """Describe a job to its owner; `now` is the time in µs since 1970."""
    stamps: dict[str, int] = orjson.loads(row.stamps)
    started = stamps.get("running")
    return {
        "id": row.id,
        "object": "job",
        "kind": row.kind,
        "status": shown_state(row),
        "stage": None if row.ended else row.stage,
        "collection": row.collection,
        "model": row.model or None,
        "into": row.target or None,
        "priority": row.priority,
        "metadata": orjson.loads(row.metadata),
        "chunking": orjson.loads(row.chunking),
        "created_at": row.created // 1_000_000,
        "started_at": started // 1_000_000 if started else None,
        "ended_at": row.ended // 1_000_000 if row.ended else None,
        "counts": counts_of(row),
        "progress": progress_of(row),
        "seconds_left": _seconds_left(row, started, now),
        "tokens": row.tokens,
        "cost": {"estimated_usd": row.estimated_usd, "billed_usd": row.billed_usd},
        "queue": None
        if ahead is None
        else {
            "ahead": ahead,
            "reason": row.reason or None,
            "due_at": row.due // 1_000_000 if row.due else None,
        },
        "error": {"message": row.error} if row.error else None,
        "errors": orjson.loads(row.faults),
    }


def _seconds_left(row: IndexJobRow, started: int | None, now: int | None) -> float | None:
    """Estimate how long a job still takes, from how long it took so far."""
    done = progress_of(row)
    if row.ended or started is None or now is None or not done:
        return None
    return round((now - started) / 1e6 * (1 - done) / done, 1)


def _owner(request: Request) -> str:
    return context_of(request.scope).caller.key or ""
