"""Azure's copy of OpenAI's embeddings API, simulated, at its older address and at its newer one.

`/openai/deployments/NAME/embeddings?api-version=...` names the deployment in the path, `/openai/v1/embeddings` in
place of the model.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

from flowbed.testing.simulators.providers.openai import OpenAI
from flowbed.testing.simulators.wire import VendorError, as_json, fields

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from flowbed.testing.simulators.limits import Room
    from flowbed.testing.simulators.wire import Answer, Call, Headers, Refusal, Request, Vectors

EMBEDDINGS = re.compile(r"/openai/deployments/(?P<name>[^/]+)/embeddings")


class Azure:
    """How Azure parses requests and words answers; the body of a request is validated as OpenAI does."""

    name = "azure"
    positional = False
    jobs: None = None  # its Batch API is not simulated

    def __init__(self, *, deployments: Mapping[str, str], keys: Collection[str] | None = None) -> None:
        """Deploy models under names; accept these `keys`, or any."""
        # Azure ignores unknown fields.
        self._openai = OpenAI(strict=False)
        self._deployments = deployments
        self._keys = keys

    def key(self, request: Request) -> str:
        """Return the key, or the token of Entra ID."""
        return request.headers.get("api-key", "") or request.bearer

    def read(self, request: Request) -> Call | Answer:
        """Validate a request as Azure does."""
        key = self.key(request)
        if not key or (self._keys is not None and key not in self._keys):
            raise _error(
                401,
                "401",
                "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key "
                "for an active subscription and use a correct regional API endpoint for your resource.",
            )
        if request.method != "POST":
            raise _error(404, "404", "Resource not found")
        model = self._deployments.get(_deployment(request))
        if model is None:
            raise _error(
                404,
                "DeploymentNotFound",
                "The API deployment for this resource does not exist. If you created the deployment within the last "
                "5 minutes, please wait a moment and try again.",
            )
        return self._openai.judge(request.body, model)

    def width(self, call: Call) -> int:
        """Return the dimensions of a call's vectors."""
        return self._openai.width(call)

    def write(self, call: Call, vectors: Vectors) -> Answer:
        """Answer a call as OpenAI does."""
        return self._openai.write(call, vectors)

    def refuse(self, refusal: Refusal, request: Request) -> Answer:
        """Word a refusal as Azure does."""
        if refusal.reason == "error":
            return _error(refusal.status, str(refusal.status), "A fault to order.").answer
        if refusal.reason == "quota":
            return self._openai.refuse(refusal, request)
        wait = "later" if refusal.retry_after is None else f"after {-(-refusal.retry_after // 1):.0f} seconds"
        return _error(
            429,
            "429",
            "Requests to the Embeddings_Create Operation under Azure OpenAI API have exceeded call rate limit of your "
            f"current OpenAI S0 pricing tier. Please retry {wait}.",
        ).answer

    def standing(self, rooms: Sequence[Room]) -> Headers:
        """Return the rate limit headers; Azure reports what is left, not the limit."""
        return tuple(
            (f"x-ratelimit-remaining-{room.unit}".encode(), str(room.remaining).encode()) for room in rooms
        )


def _deployment(request: Request) -> str:
    """Return the requested deployment; an empty name counts as missing."""
    if request.path == "/openai/v1/embeddings":
        return str((fields(request.body) or {}).get("model", ""))
    asked = EMBEDDINGS.fullmatch(request.path)
    if asked is None or not request.parameter("api-version"):
        raise _error(404, "404", "Resource not found")
    return unquote(asked["name"])


def _error(status: int, code: str, message: str) -> VendorError:
    return VendorError(as_json(status, {"error": {"code": code, "message": message}}))
