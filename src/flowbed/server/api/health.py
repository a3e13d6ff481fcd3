"""GET /health/...: whether the process is alive, and whether everything it depends on is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from flowbed.server.api.schemas.health import Readiness
from flowbed.server.http.request_context import context_of
from flowbed.server.http.responses import json

if TYPE_CHECKING:
    from flowbed.records.serving import Health
    from flowbed.services.service import Service

HIDDEN = "only a key with the admin scope is told why"
# From best to worst: the server is as its worst part is.
STATES = ("ok", "degraded", "unhealthy")


def routes(service: Service) -> APIRouter:
    """Create the routes over `service`."""
    router = APIRouter(tags=["health"])
    looking: asyncio.Task[list[Health]] | None = None

    @router.get("/health/live", responses={200: {"content": {"application/json": {}}}})
    async def live() -> Response:
        """Answer, which shows that the process is alive."""
        return json({"status": "ok"})

    @router.get("/health/ready", responses={200: {"model": Readiness}, 503: {"model": Readiness}})
    async def ready(request: Request) -> Response:
        """Check every dependency: each model embeds a real token. 503 if an indispensable one fails.

        Only callers with the admin scope learn the reasons.
        """
        # Anyone may call this: concurrent callers share one check.
        nonlocal looking
        if looking is None or looking.done():
            looking = asyncio.create_task(service.ready())
        checks = await asyncio.shield(looking)
        status = max((check.state for check in checks), key=STATES.index, default="ok")
        admin = context_of(request.scope).caller.admin
        shown = [
            {
                "name": check.name,
                "state": check.state,
                # It may quote a provider, or name a host or a path.
                "reason": check.reason if admin or not check.reason else HIDDEN,
                "seconds": round(check.seconds, 6),
            }
            for check in checks
        ]
        return json({"status": status, "checks": shown}, status=503 if status == "unhealthy" else 200)

    return router
