"""The application: every route, and the gate before them."""

from __future__ import annotations

import secrets
import time
from importlib.metadata import version
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse

from flowbed.errors import Error, NotFound
from flowbed.server.api import admin, batches, embeddings, files, health, models, search
from flowbed.server.api.batch_lines import Lines
from flowbed.server.http.errors import WrongMethod, refusal
from flowbed.server.http.gate import BODY_SECONDS, Gate, Load
from flowbed.server.http.request_context import exchange_of
from flowbed.server.http.responses import Answer
from flowbed.server.metrics import Metrics
from flowbed.services.batches.worker import Working

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastapi.telemetry import TelemetryConfig
    from starlette.routing import BaseRoute

    from flowbed.server.http.gate import Watcher
    from flowbed.server.http.request_context import Exchange
    from flowbed.server.tracing import Tracing
    from flowbed.services.service import Service

NOT_ALLOWED = 405
NOT_FOUND = 404


def new_id() -> str:
    """Make an id of a request, as OpenAI's look."""
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
    """Make the application over what `open_service` has opened.

    `loopback` says that only this machine can reach it, `clock` gives seconds, `watchers` are told of each request that
    has ended, and a body that is not here within `body_seconds` is given up.
    """
    telemetry: TelemetryConfig = {
        "tracing": tracing is not None,
        "tracer_provider": None if tracing is None else tracing.provider,
        "metrics": False,
        "logs": False,
        "operation_spans": False,
    }
    app = FastAPI(
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
    embed = embeddings.route(service)
    app.router.routes.append(embed)
    known: list[BaseRoute] = [embed]
    for routes in (models.routes, files.routes, batches.routes, search.routes, admin.routes, health.routes):
        router = routes(service)
        app.include_router(router)
        known += router.routes
    app.add_api_route(
        "/metrics", metrics.endpoint, response_model=None, response_class=PlainTextResponse, tags=["health"]
    )

    async def refuse(request: Request, error: Exception) -> Response:
        exchange = exchange_of(request.scope)
        if isinstance(error, HTTPException):
            error = _unmatched(error, exchange)
        refused = refusal(error, exchange, allowance=service.quotas.allowance)
        return Answer(refused.body, refused.headers, refused.status)

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
        # FastAPI names the span of a request by the route that it finds.
        direct={} if tracing is not None else {("POST", embed.path): embed},
        routes=known,
    )
    return app


def working(app: FastAPI, service: Service, *, clock: Callable[[], float] = time.perf_counter) -> Working:
    """Make the context in which the batches of an application go on, beside its requests; `clock` as the app's."""
    load: Load = app.state.load
    metrics: Metrics = app.state.metrics
    return Working(service, Lines(), busy=lambda: load.is_busy(clock()), done=metrics.lines)


def _unmatched(error: HTTPException, exchange: Exchange) -> Exception:
    """Tell of a path or method that no route is for."""
    if error.status_code == NOT_FOUND:
        return NotFound(f"Invalid URL ({exchange.method} {exchange.path})", code="unknown_url")
    if error.status_code == NOT_ALLOWED:
        message = (
            f"Not allowed to {exchange.method} on {exchange.path} (HINT: Perhaps you meant to use a different HTTP"
            " method?)"
        )
        return WrongMethod(message, allow=(error.headers or {}).get("Allow", ""))
    return error
