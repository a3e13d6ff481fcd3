"""/v1/admin/...: what the page shows operators, and what they can do there; needs the admin scope."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Depends, Request, Response
from starlette.responses import StreamingResponse

from flowbed.records.plain import plain
from flowbed.server.api.admin import require_admin
from flowbed.server.api.openapi import FAILURES, body_of
from flowbed.server.api.search import read
from flowbed.server.http.connection import KEY as CONNECTION
from flowbed.server.http.errors import Overloaded
from flowbed.server.http.responses import ACCEPTED, CREATED, json
from flowbed.server.page.collections import named
from flowbed.server.page.operation_schemas import (
    Batches,
    ChecklistShown,
    FlowShown,
    KeyCreated,
    KeyList,
    KeyRequest,
    KeyShown,
    LetterList,
    Retried,
    RetryRequest,
    RollbackRequest,
    RolledBack,
    SpendingShown,
    SubmissionName,
    Submissions,
)
from flowbed.server.page.stream import HEADERS, MEDIA_TYPE, Streams

if TYPE_CHECKING:
    from flowbed.ledger import KeyRow
    from flowbed.services.page.operating import KeyUse
    from flowbed.services.service import Service

# Streams of one process: each is a place of the server's and looks at the project once a second.
STREAMS = 64


def routes(service: Service) -> APIRouter:  # noqa: C901 - a list of routes
    """Create the routes over `service`."""
    router = APIRouter(prefix="/v1/admin", tags=["admin"], dependencies=[Depends(require_admin)])
    operating = service.operating
    streams = Streams()

    @router.get("/flow", responses={200: {"model": FlowShown}, **FAILURES})
    async def show_flow(request: Request) -> Response:
        """Tell what is where between the sources and the publications, and what is stuck."""
        return json(await _flow(request))

    # Without an end, it is no part of the OpenAPI document: clients would wait for one.
    @router.get("/flow/events", include_in_schema=False)
    async def stream_flow(request: Request) -> Response:
        """Send the same as server-sent events, whenever it changes."""
        if streams.open >= STREAMS:
            raise Overloaded(
                f"The server sends events to {STREAMS} clients already; close a page, or try again."
            )
        connection = request.scope.get(CONNECTION)
        leaving = asyncio.Event() if connection is None else connection.leaving
        events = streams.follow(lambda: _flow(request), leaving=leaving)
        return StreamingResponse(events, media_type=MEDIA_TYPE, headers=HEADERS)

    async def _flow(request: Request) -> Any:
        watched = bool(getattr(request.app.state, "watching", False))
        return plain(await service.flow.look(watched=watched))

    @router.get("/checklist", responses={200: {"model": ChecklistShown}, **FAILURES})
    async def show_checklist() -> Response:
        """Walk the chain from sources to snapshots, as `flowbed doctor --checklist` does."""
        return json(plain(await operating.checklist()))

    @router.get("/dead-letters", responses={200: {"model": LetterList}, **FAILURES})
    async def list_letters() -> Response:
        """List the failures that need attention, oldest first."""
        return json({"letters": plain(await operating.letters())})

    @router.post(
        "/dead-letters/retry",
        status_code=ACCEPTED,
        openapi_extra=body_of(RetryRequest),
        responses={ACCEPTED: {"model": Retried}, **FAILURES},
    )
    async def retry_letters(request: Request) -> Response:
        """Queue again what failed, and embed it after the answer."""
        # Null is refused: left out, it would mean all of them.
        body = await read(request, RetryRequest, nulls=True)
        done = await operating.retry(body.subjects)
        failures = [{"subject": each.subject, "reason": each.reason} for each in done.failures]
        return json({"waiting": done.waiting, "read": done.read, "failures": failures}, status=ACCEPTED)

    @router.get("/submissions", responses={200: {"model": Submissions}, **FAILURES})
    async def list_submissions() -> Response:
        """List the live submissions to the provider's Batch API, and the last that ended."""
        live, ended = await operating.submissions()
        return json({"live": plain(live), "ended": plain(ended)})

    @router.post(
        "/submissions/cancel",
        openapi_extra=body_of(SubmissionName),
        responses={200: {"model": SubmissionName}, **FAILURES},
    )
    async def cancel_submission(request: Request) -> Response:
        """Ask for a submission to be cancelled; results up to that point are kept."""
        body = await read(request, SubmissionName)
        await operating.cancel(body.submission)
        return json({"submission": body.submission})

    @router.get("/batches", responses={200: {"model": Batches}, **FAILURES})
    async def list_batches() -> Response:
        """List the batches of all keys that have not ended."""
        return json({"batches": [_batch(plain(each)) for each in await operating.jobs()]})

    @router.get("/spending", responses={200: {"model": SpendingShown}, **FAILURES})
    async def show_spending() -> Response:
        """Sum the tokens that were planned and billed, and what they cost."""
        return json(plain(await operating.spending()))

    @router.get("/keys", responses={200: {"model": KeyList}, **FAILURES})
    async def list_keys() -> Response:
        """List the keys, their limits and their use of today; no secrets."""
        return json({"keys": [_use(each) for each in await operating.keys()], "tiers": operating.tiers})

    @router.post(
        "/keys",
        status_code=CREATED,
        openapi_extra=body_of(KeyRequest),
        responses={CREATED: {"model": KeyCreated}, **FAILURES},
    )
    async def create_key(request: Request) -> Response:
        """Create a key; the answer has its secret, which is not stored."""
        body = await read(request, KeyRequest)
        row, secret = await operating.create(body.name, tier=body.tier, models=body.models, admin=body.admin)
        return json({**_key(row), "secret": secret}, status=CREATED)

    @router.post("/keys/{key}/revoke", responses={200: {"model": KeyShown}, **FAILURES})
    async def revoke_key(key: str) -> Response:
        """Revoke a key for good."""
        return json(_key(await operating.revoke(key)))

    @router.post(
        "/rollback",
        openapi_extra=body_of(RollbackRequest),
        responses={200: {"model": RolledBack}, **FAILURES},
    )
    async def roll_back(request: Request) -> Response:
        """Restore an older version of a collection, as a new version."""
        body = await read(request, RollbackRequest)
        return json(plain(await operating.rollback(named(body.collection), body.version)))

    return router


def _batch(job: dict[str, Any]) -> dict[str, Any]:
    names = ("id", "owner", "state", "model", "total", "completed", "failed", "created", "expires", "cancel")
    return {name: job[name] for name in names}


def _use(each: KeyUse) -> dict[str, Any]:
    limits = None if each.limits is None else plain(each.limits)
    return {**_key(each.key), "limits": limits, "used_today": each.used}


def _key(row: KeyRow) -> dict[str, Any]:
    """Describe a key without the hash of its secret."""
    return {name: value for name, value in plain(row).items() if name != "hash"}
