"""POST /v1/events: notifications of object stores and queues, as they come; for keys with the admin scope."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Depends, Request, Response

from flowbed.server.api.admin import require_admin
from flowbed.server.api.openapi import FAILURES
from flowbed.server.api.schemas.events import EventTaken
from flowbed.server.http.errors import TooLarge
from flowbed.server.http.request_context import context_of
from flowbed.server.http.responses import ACCEPTED, json

if TYPE_CHECKING:
    from flowbed.services.service import Service

# Bytes of an event: messages of SQS have up to 1 MiB, as has a batch of them; a Lambda gets up to 6 MB.
BODY_BYTES = 6 * 2**20
# A sender names its content as it likes: SNS sends text/plain.
ANY_JSON = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"type": ["object", "array"]}}, "text/plain": {}},
    }
}


def routes(service: Service) -> APIRouter:
    """Create the routes over `service`."""
    router = APIRouter(tags=["events"], dependencies=[Depends(require_admin)])

    @router.post(
        "/v1/events",
        status_code=ACCEPTED,
        openapi_extra=ANY_JSON,
        responses={ACCEPTED: {"model": EventTaken}, **FAILURES},
    )
    async def take(request: Request) -> Response:
        """Queue the batch files that a notification tells of; they are embedded after the answer."""
        body = await context_of(request.scope).read()
        if len(body) > BODY_BYTES:
            raise TooLarge(f"The event has {len(body):,} bytes; this path takes {BODY_BYTES:,}.")
        told = await service.events.accept(body)
        return json(
            {
                "batches": told.batches,
                "read": told.read,
                "already": told.already,
                "later": list(told.later),
                "ignored": dict(told.ignored),
                "failures": [{"subject": each.subject, "reason": each.reason} for each in told.failures],
                "batchItemFailures": [{"itemIdentifier": each} for each in told.messages],
            },
            status=ACCEPTED,
        )

    return router
