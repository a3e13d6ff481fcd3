"""Which deed a request asks for, and lists told page by page, as OpenAI and Voyage have them alike."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from flowbed.testing.simulators.wire import Deed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbed.testing.simulators.wire import Answer, Asked, Request, Scene, Stream


class Do(Protocol):
    """What is done for a request; the parts of its path that stand for a name come before the scene."""

    def __call__(self, request: Request, /, *names: Any) -> Answer | Stream:  # names, then the scene
        """Do it."""
        ...


class Routes:
    """Paths such as `/v1/files/*/content`, and what is done there."""

    def __init__(self, *routes: tuple[str, str, Do]) -> None:
        """Take method, path and what is done."""
        self._routes = [
            (method, re.compile(re.escape(path).replace(r"\*", "([^/]+)")), do) for method, path, do in routes
        ]

    def find(self, request: Request, asked: Callable[[Request], Asked] | None = None) -> Deed | None:
        """Find the deed for a request, None where there is none; a POST of a whole list makes what is `asked`."""
        for method, path, do in self._routes:
            if method == request.method and (found := path.fullmatch(request.path)):
                makes = asked is not None and method == "POST" and not found.groups()
                return Deed(
                    do=partial(_done, do, request, found.groups()),
                    job=asked(request) if asked and makes else None,
                )
        return None


def _done(do: Do, request: Request, names: Sequence[str], scene: Scene) -> Answer | Stream:
    return do(request, *names, scene)


def page(told: Sequence[dict[str, Any]], *, after: str, limit: int) -> dict[str, Any] | None:
    """Give `limit` objects of a list, those after the one that is called `after`; None where none is."""
    start = 0
    if after:
        places = [place for place, each in enumerate(told) if each["id"] == after]
        if not places:
            return None
        start = places[0] + 1
    data = told[start : start + limit]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": start + limit < len(told),
    }
