"""The ASGI application: every route, behind the gate."""

from __future__ import annotations

import secrets
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Match, Route

from flowbed.errors import Error, NotFound
from flowbed.server.api import (
    admin,
    batches,
    documents,
    embeddings,
    events,
    files,
    health,
    job_events,
    jobs,
    models,
    search,
)
from flowbed.server.api.batch_lines import HttpLineCodec
from flowbed.server.api.embeddings import DirectRoutes
from flowbed.server.api.openapi import DescribedApplication
from flowbed.server.api.vector_stores import STORE_ROUTES
from flowbed.server.chroma import CHROMA_ROUTES
from flowbed.server.http.body import BODY_SECONDS
from flowbed.server.http.errors import WrongMethod, http_error
from flowbed.server.http.gate import Gate, Load
from flowbed.server.http.request_context import context_of
from flowbed.server.http.responses import RawResponse
from flowbed.server.metrics import Metrics
from flowbed.server.page import assets, collections, maps, operations
from flowbed.services.batches.stage import BatchJobs, FileRetention
from flowbed.services.jobs.stage import index_job_stages
from flowbed.services.vector_stores.stage import VectorStoreWork
from flowbed.workers.opening import worker_beside_requests

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastapi import APIRouter, FastAPI, Request, Response
    from fastapi.telemetry import TelemetryConfig
    from starlette.routing import BaseRoute

    from flowbed.server.http.gate import Watcher
    from flowbed.server.http.request_context import RequestContext
    from flowbed.server.tracing import Tracing
    from flowbed.services.service import Service
    from flowbed.services.stages import Stage
    from flowbed.workers.worker import Worker

# The route modules of `server.api`, in the order of the OpenAPI document, and those of Chroma's API, which has its own.
ROUTES: tuple[Callable[[Service], APIRouter], ...] = (
    embeddings.routes,
    models.routes,
    files.routes,
    batches.routes,
    jobs.routes,
    job_events.routes,
    search.routes,
    *STORE_ROUTES,
    documents.routes,
    collections.routes,
    maps.routes,
    events.routes,
    admin.routes,
    operations.routes,
    health.routes,
    *CHROMA_ROUTES,
    assets.routes,
)
NOT_ALLOWED = 405
NOT_FOUND = 404


def new_id() -> str:
    """Return a request id in OpenAI's format."""
    return f"req_{secrets.token_hex(16)}"


def create_app(
    service: Service,
    *,
    loopback: bool = True,
    clock: Callable[[], float] = time.perf_counter,
    new_id: Callable[[], str] = new_id,
    watchers: Sequence[Watcher] = (),
    tracing: Tracing | None = None,
    body_seconds: float = BODY_SECONDS,
) -> FastAPI:
    """Create the application over an opened service.

    `loopback` says that only this machine can reach it, `clock` returns seconds, `watchers` are called with each
    finished request, and a body that takes longer than `body_seconds` is refused.
    """
    telemetry: TelemetryConfig = {
        "tracing": tracing is not None,
        "tracer_provider": None if tracing is None else tracing.provider,
        "metrics": False,
        "logs": False,
        "operation_spans": False,
    }
    app = DescribedApplication(
        title="Flowbed",
        version=version("flowbed"),
        summary="OpenAI's embeddings, files and batches, and search over the project's collections.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry=telemetry,
    )
    load = Load()
    metrics = Metrics(service, load)
    app.state.metrics, app.state.load = metrics, load
    routers = [routes(service) for routes in ROUTES]
    for router in routers:
        app.include_router(router)
    app.add_api_route(
        "/metrics", metrics.endpoint, response_model=None, response_class=PlainTextResponse, tags=["health"]
    )
    # The application keeps the routes of routers in a form of its own.
    known = [
        *(route for router in routers for route in router.routes),
        *(route for route in app.routes if isinstance(route, Route)),
    ]

    async def refuse(request: Request, error: Exception) -> Response:
        context = context_of(request.scope)
        if isinstance(error, HTTPException):
            error = _unmatched(error, context, _methods(known, request.scope))
        refused = http_error(error, context, allowance=service.quotas.allowance)
        return RawResponse(refused.body, refused.headers, refused.status)

    app.add_exception_handler(Error, refuse)
    app.add_exception_handler(HTTPException, refuse)
    app.add_middleware(
        Gate,
        service=service,
        clock=clock,
        new_id=new_id,
        loopback=loopback,
        load=load,
        watchers=(metrics, *watchers),
        begun=None if tracing is None else tracing.describe,
        body_seconds=body_seconds,
        # FastAPI names a request's span after the route that it matches itself.
        direct=DirectRoutes(()) if tracing is not None else DirectRoutes(known),
        routes=known,
    )
    if service.serving.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=service.serving.origins, allow_methods=["*"], allow_headers=["*"]
        )
    return app


def working(app: FastAPI, service: Service, *, clock: Callable[[], float] = time.perf_counter) -> Worker:
    """Create the worker that executes the application's batches and jobs; `clock` is the application's.

    With `execute_jobs = false` in the settings, it executes none: workers of their own do.
    """
    if not service.serving.execute_jobs:
        return worker_beside_requests(service, [])
    load: Load = app.state.load
    metrics: Metrics = app.state.metrics
    batches = BatchJobs(service, HttpLineCodec(), busy=lambda: load.is_busy(clock()), done=metrics.lines)
    stores = VectorStoreWork(service.vector_stores.processing)
    stages: list[Stage] = [batches, FileRetention(service), stores, *index_job_stages(service.index_jobs)]
    return worker_beside_requests(service, stages)


def _methods(routes: Sequence[BaseRoute], scope: Any) -> list[str]:
    """Return the methods that a path has, of all its routes."""
    matching = (route for route in routes if route.matches(scope)[0] is not Match.NONE)
    return sorted({method for route in matching for method in getattr(route, "methods", None) or ()})


def _unmatched(error: HTTPException, context: RequestContext, methods: Sequence[str]) -> Exception:
    """Word the error for an unknown path or method; `methods` are those of the path."""
    if error.status_code == NOT_FOUND:
        return NotFound(f"Invalid URL ({context.method} {context.path})", code="unknown_url")
    if error.status_code == NOT_ALLOWED:
        message = (
            f"Not allowed to {context.method} on {context.path} (HINT: Perhaps you meant to use a different HTTP"
            " method?)"
        )
        return WrongMethod(message, allow=", ".join(methods))
    return error
