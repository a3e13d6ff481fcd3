"""GET /v1/jobs/{id}/events: what happens to a job, as a page or as server-sent events."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson
from fastapi import APIRouter, Request, Response
from starlette.responses import StreamingResponse

from flowbed.errors import Rejected
from flowbed.server.api.openapi import FAILURES, query_of
from flowbed.server.api.schemas.jobs import EventsQuery, JobEventList
from flowbed.server.api.schemas.shapes import model_of
from flowbed.server.http.connection import KEY as CONNECTION
from flowbed.server.http.request_context import context_of
from flowbed.server.http.responses import json

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flowbed.ledger.index_jobs import IndexJobEvent
    from flowbed.services.service import Service

# Milliseconds after which a client that was cut off connects again.
RETRY_MS = 2_000
STREAM = "text/event-stream"
# A proxy must neither keep nor gather what is sent.
HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}
NOTHING_MORE = 204
SEQ_MOST = 2**53


def routes(service: Service) -> APIRouter:
    """Create the route over `service`."""
    router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
    jobs = service.index_jobs

    @router.get(
        "/{job}/events",
        openapi_extra=query_of(EventsQuery),
        responses={
            200: {"model": JobEventList, "content": {STREAM: {"schema": {"type": "string"}}}},
            NOTHING_MORE: {"description": "The job has ended, and every event was read."},
            **FAILURES,
        },
    )
    async def follow_job(request: Request, job: str) -> Response:
        """Return the events of a job, or follow them where text/event-stream is accepted."""
        context = context_of(request.scope)
        query = model_of(EventsQuery, _numbers(dict(request.query_params)))
        row = await jobs.get(context.caller.key or "", job)
        stream = STREAM in context.headers.get(b"accept", b"").decode("latin-1")
        after = _last(context.headers.get(b"last-event-id"), query.after)
        if not stream:
            events = await jobs.events({row.id: after}, limit=query.limit + 1)
            page = [shown(each) for each in events[: query.limit]]
            return json({"object": "list", "data": page, "has_more": len(events) > query.limit})
        if row.ended and after >= row.seq:
            return Response(status_code=NOTHING_MORE)  # the one answer after which browsers do not ask again
        connection = request.scope.get(CONNECTION)
        leaving = asyncio.Event() if connection is None else connection.leaving
        events_of = jobs.following.follow(row.owner, row.id, after=after, until=leaving)
        first = await anext(events_of, None)
        return StreamingResponse(_lines(first, events_of), media_type=STREAM, headers=HEADERS)

    return router


def shown(event: IndexJobEvent) -> dict[str, Any]:
    """Describe an event; times are Unix seconds."""
    return {
        "id": event.seq,
        "object": "job.event",
        "job": event.job,
        "type": event.type,
        "created_at": event.at // 1_000_000,
        "data": orjson.loads(event.data),
    }


async def _lines(
    first: IndexJobEvent | None, events: AsyncIterator[IndexJobEvent | None]
) -> AsyncIterator[bytes]:
    yield b"retry: %d\n\n" % RETRY_MS
    if first is not None:
        yield _line(first)
    async for event in events:
        yield b": nothing new\n\n" if event is None else _line(event)


def _line(event: IndexJobEvent) -> bytes:
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (event.seq, event.type.encode(), orjson.dumps(shown(event)))


def _last(header: bytes | None, query: int) -> int:
    """Return the number of the last event that a client has; the header is what browsers send."""
    if header is None:
        return query
    text = header.decode("latin-1").strip()
    if not (text.isdecimal() and text.isascii() and int(text) < SEQ_MOST):
        raise Rejected("Last-Event-ID must be the id of an event, a number.", param="last-event-id")
    return int(text)


def _numbers(query: dict[str, Any]) -> dict[str, Any]:
    """Turn what a query says in digits into numbers; what is none is refused later."""
    return {
        name: int(value)
        if value.isdecimal() and value.isascii() and len(value) <= len(str(SEQ_MOST))
        else value
        for name, value in query.items()
    }
