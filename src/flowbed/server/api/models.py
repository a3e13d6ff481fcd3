"""GET /v1/models: the models that requests may name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response

from flowbed.errors import NotFound
from flowbed.server.api.openapi import FAILURES
from flowbed.server.api.schemas.embeddings import ModelList, ModelObject
from flowbed.server.http.request_context import context_of
from flowbed.server.http.responses import json

if TYPE_CHECKING:
    from flowbed.records.serving import Caller, ModelInfo
    from flowbed.services.service import Service


def routes(service: Service) -> APIRouter:
    """Create the routes over `service`."""
    router = APIRouter(tags=["models"])

    @router.get("/v1/models", responses={200: {"model": ModelList}, **FAILURES})
    async def list_models(request: Request) -> Response:
        """List the models that the key may use, by ids and aliases."""
        caller = context_of(request.scope).caller
        return json({"object": "list", "data": list(_shown(service, caller).values())})

    @router.get("/v1/models/{model:path}", responses={200: {"model": ModelObject}, **FAILURES})
    async def retrieve_model(request: Request, model: str) -> Response:
        """Describe one model."""
        caller = context_of(request.scope).caller
        names = (
            (served, (served.id, served.spec, *served.aliases)) for served in service.models.listed(caller)
        )
        found = next((_described(served, model) for served, known in names if model in known), None)
        if found is None:
            raise NotFound(
                f"The model `{model}` does not exist or you do not have access to it.",
                param="model",
                code="model_not_found",
            )
        return json(found)

    return router


def _shown(service: Service, caller: Caller) -> dict[str, dict[str, Any]]:
    """Describe each model under each of its names."""
    return {
        name: _described(served, name)
        for served in service.models.listed(caller)
        for name in (served.id, *served.aliases)
    }


def _described(served: ModelInfo, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": served.created,
        "owned_by": served.provider,
        "root": served.id,
        "dimensions": served.dimensions,
        "space": served.space,
    }
