"""Which operation a request asks for, and paginated lists, the same for OpenAI and Voyage."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from flowbed.testing.simulators.wire import Operation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbed.testing.simulators.wire import Answer, JobTexts, OperationContext, Request, Stream


class Handler(Protocol):
    """The handler of a request; the names in its path come before the context."""

    def __call__(self, request: Request, /, *names: Any) -> Answer | Stream:  # names, then the context
        """Handle the request."""
        ...


class Routes:
    """Paths such as `/v1/files/*/content`, and their handlers."""

    def __init__(self, *routes: tuple[str, str, Handler]) -> None:
        """Take method, path and handler."""
        self._routes = [
            (method, re.compile(re.escape(path).replace(r"\*", "([^/]+)")), do) for method, path, do in routes
        ]

    def find(self, request: Request, asked: Callable[[Request], JobTexts] | None = None) -> Operation | None:
        """Find the operation for a request, None if there is none; a POST to a list creates what is `asked`."""
        for method, path, do in self._routes:
            if method == request.method and (found := path.fullmatch(request.path)):
                makes = asked is not None and method == "POST" and not found.groups()
                return Operation(
                    do=partial(_done, do, request, found.groups()),
                    job=asked(request) if asked and makes else None,
                )
        return None


def _done(do: Handler, request: Request, names: Sequence[str], context: OperationContext) -> Answer | Stream:
    return do(request, *names, context)


def page(objects: Sequence[dict[str, Any]], *, after: str, limit: int) -> dict[str, Any] | None:
    """Return `limit` objects of a list after the one named `after`; None if there is no such object."""
    start = 0
    if after:
        places = [place for place, each in enumerate(objects) if each["id"] == after]
        if not places:
            return None
        start = places[0] + 1
    data = objects[start : start + limit]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": start + limit < len(objects),
    }
