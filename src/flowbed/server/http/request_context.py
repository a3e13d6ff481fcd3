"""What is known of one request while it is answered: the route fills it, metrics, logs and traces read it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flowbed.records.serving import Caller

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from flowbed.records.serving import EmbeddingsResult

# Who asks, as long as that is not known.
NOBODY = Caller(name="nobody")
# Where a request's exchange is found in its ASGI scope.
KEY = "flowbed.exchange"


@dataclass(slots=True)
class Exchange:
    """One request and its answer. `started` is in seconds of a clock that only goes forward; texts are never here."""

    id: str
    method: str
    path: str
    started: float
    headers: dict[bytes, bytes] = field(repr=False)  # the API key is among them
    read: Callable[[], Awaitable[bytes]] = field(repr=False)  # the whole body
    caller: Caller = NOBODY
    route: str = ""
    status: int = 0
    seconds: float = 0.0
    model: str = ""
    inputs: int = 0
    answered: EmbeddingsResult | None = field(default=None, repr=False)
    code: str | None = None  # of an error, as the answer has it
    reason: str = ""  # of an error that is the server's, for its operator
    fault: Exception | None = None  # what nobody expected


def exchange_of(scope: Any) -> Exchange:  # an ASGI scope
    """Give the exchange of the request that `scope` describes."""
    exchange: Exchange = scope[KEY]
    return exchange
