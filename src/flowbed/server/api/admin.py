"""/v1/admin/...: cache, breakers and providers, for keys with the admin scope."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Depends, Request, Response

from flowbed.errors import Forbidden
from flowbed.server.api.openapi import FAILURES, body_of
from flowbed.server.api.schemas.admin import (
    BreakerName,
    Breakers,
    Caches,
    Cleared,
    Providers,
    Reprocessed,
    ReprocessRequest,
    Warmed,
    WarmRequest,
)
from flowbed.server.api.search import read
from flowbed.server.http.request_context import context_of
from flowbed.server.http.responses import ACCEPTED, json

if TYPE_CHECKING:
    from flowbed.embedding.wrappers.breaker import Breaker
    from flowbed.services.service import Service


async def require_admin(request: Request) -> None:
    """Refuse callers without the admin scope.

    Raises:
        Forbidden: the key lacks the admin scope.
    """
    if not context_of(request.scope).caller.admin:
        raise Forbidden("This key lacks the admin scope; create one with `flowbed keys create NAME --admin`.")


def routes(service: Service) -> APIRouter:
    """Create the routes over `service`."""
    router = APIRouter(prefix="/v1/admin", tags=["admin"], dependencies=[Depends(require_admin)])
    models = service.models

    @router.get("/cache", responses={200: {"model": Caches}, **FAILURES})
    async def show_cache() -> Response:
        """Report hits and misses of each cache tier."""
        return json({"tiers": [asdict(tier) for tier in models.caches()]})

    @router.delete("/cache", responses={200: {"model": Cleared}, **FAILURES})
    async def clear_cache() -> Response:
        """Empty the cache in memory and in Redis; vectors on disk were paid for and stay."""
        await models.clear()
        return json({"cleared": True})

    @router.post(
        "/cache/warm", openapi_extra=body_of(WarmRequest), responses={200: {"model": Warmed}, **FAILURES}
    )
    async def warm_cache(request: Request) -> Response:
        """Embed the texts requested most since the server started, so that the cache holds them."""
        body = await read(request, WarmRequest)
        return json({"warmed": await models.warm(body.model, most=body.most)})

    @router.get("/breakers", responses={200: {"model": Breakers}, **FAILURES})
    async def show_breakers() -> Response:
        """Report which providers are in use and which are known to be down."""
        return json({"breakers": [_shown(breaker) for breaker in models.breakers()]})

    @router.post(
        "/breakers/reset",
        openapi_extra=body_of(BreakerName),
        responses={200: {"model": Breakers}, **FAILURES},
    )
    async def reset_breaker(request: Request) -> Response:
        """Use a provider again at once."""
        body = await read(request, BreakerName)
        return json({"breakers": [_shown(models.reset(body.name))]})

    @router.get("/providers", responses={200: {"model": Providers}, **FAILURES})
    async def show_providers() -> Response:
        """List the providers of each model in the order in which they are tried."""
        listed = [(served, models.named(served.id)) for served in models.listed()]
        providers = [
            {
                "name": breaker.name,
                "model": served.id,
                "space": served.space,
                "dimensions": served.dimensions,
                "state": breaker.state.value,
                "remote": model.remote,
                "usd_per_million_tokens": model.source.price,
            }
            for served, model in listed
            for breaker in model.breakers
        ]
        return json({"providers": providers})

    @router.post(
        "/reprocess",
        status_code=ACCEPTED,
        openapi_extra=body_of(ReprocessRequest),
        responses={ACCEPTED: {"model": Reprocessed}, **FAILURES},
    )
    async def reprocess(request: Request) -> Response:
        """Queue again what failed of a source, a day or a batch file, and embed it after the answer."""
        body = await read(request, ReprocessRequest)
        done = await service.events.replay(source=body.source, day=body.day, batch=body.batch)
        failures = [{"subject": each.subject, "reason": each.reason} for each in done.failures]
        answer = {"waiting": done.waiting, "read": done.read, "failures": failures}
        return json(answer, status=ACCEPTED)

    return router


def _shown(breaker: Breaker) -> dict[str, Any]:
    return {"name": breaker.name, "state": breaker.state.value, "opened": breaker.opened}
