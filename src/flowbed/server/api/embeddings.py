"""POST /v1/embeddings, compatible with OpenAI's API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from flowbed.server.api.openapi import FAILURES, body_of
from flowbed.server.api.schemas.embeddings import EmbeddingList, EmbeddingsBody
from flowbed.server.http.rate_limit_headers import allowance_headers
from flowbed.server.http.request_context import context_of
from flowbed.server.http.responses import JSON, RawResponse
from flowbed.server.http.wire import parse, write

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from starlette.routing import BaseRoute, Route

    from flowbed.services.service import Service

# Vectors padded with zeros belong to no model's space and must not be stored.
PADDED = (b"x-flowbed-padded", b"1")


class DirectRoute(APIRoute):
    """A route that FastAPI documents but does not execute: its endpoint reads the request itself.

    FastAPI's work around an endpoint takes longer than answering from the cache.
    """

    def __init__(
        self,
        path: str,
        endpoint: Callable[[Request], Awaitable[Response]],
        **described: Any,
    ) -> None:
        """Route `path` to `endpoint`."""
        super().__init__(path, endpoint, **described)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            response = await endpoint(Request(scope, receive))
            await response(scope, receive, send)

        self.app = app


class DirectRoutes:
    """Finds direct routes by method and path: whole paths, and paths with parameters and a fixed end."""

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        """Take the direct routes among `routes`; the first one that matches a path is found."""
        self._whole: dict[tuple[str, str], Route] = {}
        self._ends: dict[tuple[str, str], list[Route]] = {}
        for route in routes:
            if not isinstance(route, DirectRoute):
                continue
            end = route.path.rpartition("/")[2]
            for method in route.methods or ():
                if not route.param_convertors:
                    self._whole[method, route.path] = route
                elif "{" not in end:
                    self._ends.setdefault((method, end), []).append(route)

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]] | None:
        """Return a route with the parameters in its path; None if FastAPI has to look."""
        route = self._whole.get((method, path))
        if route is not None:
            return route, {}
        for each in self._ends.get((method, path.rpartition("/")[2]), ()):
            if (found := each.path_regex.match(path)) is not None:
                return each, found.groupdict()
        return None


def routes(service: Service) -> APIRouter:
    """Create the routes over `service`."""
    router = APIRouter(tags=["embeddings"], route_class=DirectRoute)

    @router.post(
        "/v1/embeddings",
        openapi_extra=body_of(EmbeddingsBody),
        responses={200: {"model": EmbeddingList}, **FAILURES},
    )
    async def create_embeddings(request: Request) -> Response:
        """Embed texts, as OpenAI's API does; the headers X-Flowbed-... name who answered."""
        context = context_of(request.scope)
        headers = context.headers
        embedding_request = parse(
            await context.read(),
            content_type=headers.get(b"content-type", b""),
            crossing=headers.get(b"x-flowbed-allow-crossing") == b"1",
        )
        context.model = embedding_request.model
        context.result = result = await service.embeddings.answer(embedding_request, context.caller)
        body = await write(result, embedding_request.encoding)
        return RawResponse(
            body,
            [
                JSON,
                (b"x-flowbed-space", result.space.encode()),
                (b"x-flowbed-provider", result.provider.encode()),
                *((PADDED,) if result.padded else ()),
                *allowance_headers(service.quotas.allowance(context.caller)),
            ],
        )

    return router
