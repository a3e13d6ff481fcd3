"""Bodies of requests to Chroma's API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flowbed.errors import Rejected
from flowbed.server.http.errors import Malformed
from flowbed.server.http.request_context import context_of

if TYPE_CHECKING:
    from typing import TypeVar

    from fastapi import Request

    Shape = TypeVar("Shape", bound=BaseModel)

Count = Annotated[int, Field(ge=0, lt=2**32)]
Include = Literal["distances", "documents", "embeddings", "metadatas", "uris"]


class Body(BaseModel):
    """A request; fields that Chroma adds later are ignored, as Chroma does."""

    model_config = ConfigDict(extra="ignore", strict=True)


class Filtered(Body):
    """A request about some rows."""

    ids: list[str] | None = None
    where: Any = None
    where_document: Any = None


class GetBody(Filtered):
    """Which rows to get, and what of them."""

    limit: Count | None = None
    offset: Count | None = None
    include: list[Include] | None = None


class QueryBody(Filtered):
    """The vectors to search near, and how many rows near each."""

    query_embeddings: list[list[float]]
    n_results: Count | None = None
    include: list[Include] | None = None


async def read(request: Request, shape: type[Shape]) -> Shape:
    """Read a body and check it, with Chroma's words for what is wrong.

    Raises:
        Rejected: it is not JSON.
        Malformed: a field is missing or of a wrong type.
    """
    try:
        fields = orjson.loads(await context_of(request.scope).read())
    except orjson.JSONDecodeError as error:
        raise Rejected(f"Failed to parse the request body as JSON: {error.msg}") from error
    try:
        return shape.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise Malformed(
            f"Failed to deserialize the JSON body into the target type: {place}: {first['msg']}"
        ) from error
