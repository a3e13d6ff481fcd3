"""Routes about the server: who asks, its one tenant and database, its limits; and Chroma's first API, which is gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from flowbed.errors import Conflict, NotFound
from flowbed.server.api.embeddings import DirectRoute
from flowbed.server.http.errors import Gone, Unsupplied
from flowbed.server.http.request_context import context_of
from flowbed.server.http.responses import json
from flowbed.services.chroma.collections import DATABASE, TENANT, require_database

if TYPE_CHECKING:
    from flowbed.services.service import Service

# The version of the API that Chroma's own server of 1.5 states, which is not the version of its package.
VERSION = "1.0.0"
# Chroma's own limit, by which clients cut what they send.
BATCH = 5_461
DESCRIBED = {"id": "00000000-0000-0000-0000-000000000000", "name": DATABASE, "tenant": TENANT}
ANY = ("GET", "POST", "PUT", "PATCH", "DELETE")


def routes(service: Service) -> APIRouter:
    """Create the routes over `service`."""
    router = APIRouter(route_class=DirectRoute, include_in_schema=False)

    async def heartbeat(_: Request) -> Response:
        return json({"nanosecond heartbeat": service.bed.clock() * 1000})

    for path, endpoint, methods in (
        ("/api/v2", heartbeat, ("GET",)),
        ("/api/v2/heartbeat", heartbeat, ("GET",)),
        ("/api/v2/healthcheck", healthcheck, ("GET",)),
        ("/api/v2/version", version, ("GET",)),
        ("/api/v2/pre-flight-checks", checks, ("GET",)),
        ("/api/v2/auth/identity", identity, ("GET",)),
        ("/api/v2/reset", reset, ("POST",)),
        ("/api/v2/tenants", create_tenant, ("POST",)),
        ("/api/v2/tenants/{tenant}", describe_tenant, ("GET",)),
        ("/api/v2/tenants/{tenant}/databases", list_databases, ("GET",)),
        ("/api/v2/tenants/{tenant}/databases", create_database, ("POST",)),
        ("/api/v2/tenants/{tenant}/databases/{database}", describe_database, ("GET",)),
        ("/api/v2/tenants/{tenant}/databases/{database}", delete_database, ("DELETE",)),
        ("/api/v1", first_version, ANY),
        ("/api/v1/{path:path}", first_version, ANY),
        ("/api/v2/{path:path}", unknown, ANY),
    ):
        router.add_api_route(path, endpoint, methods=list(methods))
    return router


async def identity(request: Request) -> Response:
    """Say who asks, by the id of the key."""
    caller = context_of(request.scope).caller
    return json({"user_id": caller.key or "", "tenant": TENANT, "databases": [DATABASE]})


async def healthcheck(_: Request) -> Response:
    """Say that the server answers; `/health/ready` says more."""
    return json({"is_executor_ready": True, "is_log_client_ready": True})


async def version(_: Request) -> Response:
    """State the version of the API."""
    return json(VERSION)


async def checks(_: Request) -> Response:
    """State the limits of a write."""
    return json({"max_batch_size": BATCH, "supports_base64_encoding": True})


async def reset(_: Request) -> Response:
    """Refuse to delete everything."""
    raise Unsupplied("Reset is not available: it would delete every collection of the project")


async def create_tenant(_: Request) -> Response:
    """Refuse another tenant."""
    raise Conflict(f"Tenant [{TENANT}] already exists, and there is only this one")


async def describe_tenant(request: Request) -> Response:
    """Describe the tenant."""
    require_path(request)
    return json({"name": TENANT, "resource_name": None})


async def list_databases(request: Request) -> Response:
    """List the one database."""
    require_path(request)
    return json([DESCRIBED])


async def create_database(request: Request) -> Response:
    """Refuse another database."""
    require_path(request)
    raise Conflict(f"Database [{DATABASE}] already exists, and there is only this one")


async def describe_database(request: Request) -> Response:
    """Describe the database."""
    require_path(request)
    return json(DESCRIBED)


async def delete_database(request: Request) -> Response:
    """Refuse to delete everything."""
    require_path(request)
    raise Unsupplied("The database cannot be deleted: it is the whole project")


async def first_version(_: Request) -> Response:
    """Refer to the second version, as Chroma does."""
    raise Gone("The v1 API is deprecated. Please use /v2 apis")


async def unknown(request: Request) -> Response:
    """Refuse what later versions of Chroma may have."""
    context = context_of(request.scope)
    raise NotFound(f"Flowbed does not answer {context.method} {context.path}")


def require_path(request: Request) -> None:
    """Require the tenant and the database that a path names.

    Raises:
        NotFound: there is no such tenant or database.
    """
    require_database(request.path_params["tenant"], request.path_params.get("database"))
