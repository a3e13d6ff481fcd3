"""What is known of one request: filled by the route, read by metrics, logs and traces."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flowbed.records.serving import Caller

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from flowbed.records.serving import EmbeddingsResult

# The caller before authentication.
NOBODY = Caller(name="nobody")
# The key of the context in an ASGI scope.
KEY = "flowbed.context"


@dataclass(slots=True)
class RequestContext:
    """One request and its response; no texts. `started` is in seconds of a monotonic clock."""

    id: str
    method: str
    path: str
    started: float
    headers: dict[bytes, bytes] = field(repr=False)  # includes the API key
    read: Callable[[], Awaitable[bytes]] = field(repr=False)  # the whole body
    caller: Caller = NOBODY
    route: str = ""
    status: int = 0
    seconds: float = 0.0
    model: str = ""
    inputs: int = 0
    result: EmbeddingsResult | None = field(default=None, repr=False)
    code: str | None = None  # of an error response
    reason: str = ""  # of a server error, for the operator
    exception: Exception | None = None  # an unexpected one


def context_of(scope: Any) -> RequestContext:
    """Return the context of the request in `scope`."""
    context: RequestContext = scope[KEY]
    return context
