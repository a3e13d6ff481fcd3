"""GET /health/...: whether the process lives, and whether all that its answers depend on does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fastapi import APIRouter, Response

from flowbed.server.api.schemas import Readiness
from flowbed.server.http.responses import json

if TYPE_CHECKING:
    from flowbed.records.serving import Health
    from flowbed.services.service import Service

# From the best to the worst: the whole is as its worst part is.
STATES = ("ok", "degraded", "unhealthy")


def routes(service: Service) -> APIRouter:
    """Make the routes over `service`."""
    router = APIRouter(tags=["health"])
    looking: asyncio.Task[list[Health]] | None = None

    @router.get("/health/live", responses={200: {"content": {"application/json": {}}}})
    async def live() -> Response:
        """Answer, which is all there is to show."""
        return json({"status": "ok"})

    @router.get("/health/ready", responses={200: {"model": Readiness}, 503: {"model": Readiness}})
    async def ready() -> Response:
        """Try what answers depend on: each model embeds a real token. 503 where something cannot be done without."""
        # Anyone may ask: many who come while something does not answer are told what the first of them is.
        nonlocal looking
        if looking is None or looking.done():
            looking = asyncio.create_task(service.ready())
        checks = await asyncio.shield(looking)
        status = max((check.state for check in checks), key=STATES.index, default="ok")
        shown = [
            {
                "name": check.name,
                "state": check.state,
                "reason": check.reason,
                "seconds": round(check.seconds, 6),
            }
            for check in checks
        ]
        return json({"status": status, "checks": shown}, status=503 if status == "unhealthy" else 200)

    return router
