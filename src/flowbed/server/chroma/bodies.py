"""Bodies of requests to Chroma's API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import orjson
from pybase64 import b64decode
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flowbed.errors import Rejected
from flowbed.server.http.errors import Malformed
from flowbed.server.http.request_context import context_of

if TYPE_CHECKING:
    from typing import TypeVar

    from fastapi import Request

    Shape = TypeVar("Shape", bound=BaseModel)

Count = Annotated[int, Field(ge=0, lt=2**32)]
Metric = Literal["cosine", "l2", "ip"]
Include = Literal["distances", "documents", "embeddings", "metadatas", "uris"]


FLOAT = np.dtype("<f4")
UNREADABLE = "Failed to deserialize the JSON body into the target type: embeddings: expected lists of numbers or base64"


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


class WriteBody(Body):
    """Rows to write, column by column; a vector is a list of numbers, or base64 of little-endian float32."""

    ids: list[str]
    embeddings: list[Any] | None = None
    documents: list[str | None] | None = None
    metadatas: list[dict[str, Any] | None] | None = None
    uris: list[str | None] | None = None


class NewBody(WriteBody):
    """Rows to add or upsert, each with its vector."""

    embeddings: list[Any]


class DeleteBody(Filtered):
    """Which rows to delete."""

    limit: Count | None = None


class HnswBody(BaseModel):
    """What a client says of the index of a collection; only the distance counts."""

    model_config = ConfigDict(extra="allow", strict=True)

    space: Metric | None = None


class ConfigurationBody(Body):
    """The configuration of a collection."""

    hnsw: HnswBody | None = None
    embedding_function: dict[str, Any] | None = None


class CreateBody(Body):
    """A collection to create."""

    name: str
    metadata: dict[str, Any] | None = None
    configuration: ConfigurationBody | None = None
    get_or_create: bool = False


class ModifyBody(Body):
    """What to change of a collection."""

    new_name: str | None = None
    new_metadata: dict[str, Any] | None = None
    new_configuration: ConfigurationBody | None = None


def vectors_in(embeddings: list[Any] | None) -> list[Any] | None:
    """Return vectors as lists or arrays of numbers, and None where none was sent.

    Raises:
        Malformed: one is neither.
    """
    return None if embeddings is None else [_vector(each) for each in embeddings]


def _vector(sent: Any) -> Any:
    if sent is None:
        return None
    try:
        if isinstance(sent, str):
            return np.frombuffer(b64decode(sent, validate=True), FLOAT)
        if isinstance(sent, list):
            with np.errstate(over="ignore"):  # what does not fit is refused where vectors are checked
                return np.asarray(sent, np.float64).astype(FLOAT)
    except (TypeError, ValueError) as error:
        raise Malformed(f"{UNREADABLE}: {error}") from error
    raise Malformed(UNREADABLE)


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
