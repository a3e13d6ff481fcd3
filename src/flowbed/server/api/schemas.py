"""Schemas of requests and responses, for the OpenAPI document and for validation."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flowbed.errors import Rejected
from flowbed.server.http.wire import LAST_TOKEN
from flowbed.services.inputs import ITEMS_MOST

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TypeVar

    Shape = TypeVar("Shape", bound=BaseModel)

Text = Annotated[str, Field(min_length=1)]
Tokens = Annotated[list[Annotated[int, Field(ge=0, le=LAST_TOKEN)]], Field(min_length=1)]


class Closed(BaseModel):
    """A request that refuses unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True)


class EmbeddingsBody(Closed):
    """What to embed."""

    input: Annotated[
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=ITEMS_MOST)]
        | Tokens
        | Annotated[list[Tokens], Field(min_length=1, max_length=ITEMS_MOST)],
        Field(description="A text, texts, an array of token ids or several of them; none of them empty."),
    ]
    model: Annotated[Text, Field(description="The id or an alias of a model that /v1/models lists.")]
    encoding_format: Annotated[
        Literal["float", "base64"] | None, Field(description="base64: the bytes of little-endian float32.")
    ] = None
    dimensions: Annotated[
        int | None,
        Field(ge=1, description="How many; what becomes of other than the model's own is a setting."),
    ] = None
    user: Annotated[str | None, Field(description="Taken for compatibility; neither used nor kept.")] = None
    input_type: Annotated[
        Literal["document", "query"] | None,
        Field(description="What the vectors are for: models that embed queries differently do so."),
    ] = None


class Embedding(BaseModel):
    """One vector."""

    object: Literal["embedding"]
    index: Annotated[int, Field(ge=0)]
    embedding: list[float] | str


class Usage(BaseModel):
    """Tokens of the inputs, including those answered from the cache."""

    prompt_tokens: Annotated[int, Field(ge=0)]
    total_tokens: Annotated[int, Field(ge=0)]


class EmbeddingList(BaseModel):
    """Vectors in the order of the input."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class ModelObject(BaseModel):
    """A model that requests may name; `root` is its own id if `id` is an alias."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    dimensions: int
    space: str


class ModelList(BaseModel):
    """Every model that the key may use."""

    object: Literal["list"]
    data: list[ModelObject]


class SearchRequest(Closed):
    """A query, and where to search."""

    query: Annotated[
        Text | Annotated[list[float], Field(min_length=1, fail_fast=True)] | None,
        Field(description="A text, or a vector of the collection's space; required without `like`."),
    ] = None
    like: Annotated[
        Text | None, Field(description="In place of a query: the id of a row, to find what is near it.")
    ] = None
    collection: Annotated[
        Text | None, Field(description="Without one, all of the model's space are searched.")
    ] = None
    where: Annotated[dict[str, Any] | None, Field(description='A filter, such as {"source": "slack"}.')] = (
        None
    )
    since: Annotated[
        str | float | None,
        Field(description="Rows not before: a date, a time, seconds since 1970, or an age such as 7d."),
    ] = None
    before: Annotated[str | float | None, Field(description="Rows before: the same.")] = None
    order: Annotated[
        Literal["score", "newest", "oldest"], Field(description="newest, oldest: the best by their time.")
    ] = "score"
    rerank: Annotated[
        bool, Field(description="Order the best hits by the reranker of the project's settings.")
    ] = False
    limit: Annotated[int, Field(ge=1, le=10_000)] = 10
    cursor: Annotated[
        str | None, Field(description="`next` of the page before, with the same arguments.")
    ] = None
    at: Annotated[int | None, Field(ge=1, description="An older version of the collection named.")] = None
    unit: Annotated[
        Literal["chunk", "document"], Field(description="document: each document once, by its best chunk.")
    ] = "chunk"
    mode: Annotated[
        Literal["vector", "text", "hybrid"],
        Field(description="vector: nearest in meaning; text: with the words of the query; hybrid: both."),
    ] = "vector"
    text: Annotated[str, Field(description="The words of a hybrid search whose query is a vector.")] = ""


class SearchHighlight(BaseModel):
    """A word of the query in a text: its characters (Unicode code points) from `start` to before `end`."""

    start: int
    end: int
    term: str


class SearchHit(BaseModel):
    """A result of a search; `score` is the cosine similarity, the BM25 score, or in a hybrid search of both ranks."""

    id: str
    score: float
    document: str
    metadata: dict[str, Any]
    collection: str
    scores: Annotated[
        dict[str, float],
        Field(description="In a hybrid search the score in each list; `rerank`: that of the reranker."),
    ]
    matched: Annotated[list[str], Field(description="Words of the query in the text; not by vector.")]
    highlights: Annotated[list[SearchHighlight], Field(description="Where these words are; not by vector.")]


class SearchResponse(BaseModel):
    """Results of a search, best first, and the version of each collection searched."""

    hits: list[SearchHit]
    versions: dict[str, int]
    warnings: Annotated[
        list[str], Field(description="What was not searched; why nothing may have been found.")
    ]
    next: Annotated[str | None, Field(description="The cursor of the next page, if there is one.")]


class FieldsQuery(BaseModel):
    """How much of each key is returned, and of which rows."""

    model_config = ConfigDict(extra="forbid")

    values: Annotated[int, Field(ge=1, le=1_000, description="Values of each key, at most.")] = 10
    where: Annotated[str | None, Field(description="A filter as JSON: only rows that match it.")] = None


class FieldValueObject(BaseModel):
    """A value of a key, and the rows that have it."""

    value: str | float | bool
    rows: int


class FieldObject(BaseModel):
    """A key of metadata: the rows that have it, its values by type (text, number, boolean), the commonest first."""

    name: str
    rows: int
    types: dict[str, int]
    values: list[FieldValueObject]
    distinct: Annotated[int | None, Field(description="None: too many values to count them all.")]
    least: Annotated[float | None, Field(description="Of the numbers, as `most` is.")]
    most: float | None


class FieldsResponse(BaseModel):
    """The metadata of a collection; of many rows, those `read` are spread evenly."""

    collection: str
    version: int
    rows: int
    read: int
    fields: list[FieldObject]


class HealthCheck(BaseModel):
    """State of one dependency."""

    name: str
    state: Literal["ok", "degraded", "unhealthy"]
    reason: str
    seconds: float


class Readiness(BaseModel):
    """State of the server and of everything it depends on."""

    status: Literal["ok", "degraded", "unhealthy"]
    checks: list[HealthCheck]


class ErrorDetail(BaseModel):
    """An error as OpenAI describes it."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """The body of every error response."""

    error: ErrorDetail


class CacheTierStats(BaseModel):
    """Hits and misses of one tier for one model; its contents, where known without a scan."""

    model: str
    tier: str
    hits: int
    misses: int
    vectors: int | None
    bytes: int | None


class Caches(BaseModel):
    """Every tier of the cache, nearest first."""

    tiers: list[CacheTierStats]


class Cleared(BaseModel):
    """The cache was emptied."""

    cleared: bool


class WarmRequest(Closed):
    """Which model's popular texts to embed, and how many at most."""

    model: Text
    most: Annotated[int, Field(ge=1, le=4_096)] = 1_000


class Warmed(BaseModel):
    """How many texts were embedded."""

    warmed: int


class EventFailure(BaseModel):
    """A part of an event that could not be taken in."""

    subject: str
    reason: str


class MessageFailure(BaseModel):
    """A message of the queue to send again, in the form that a Lambda answers with."""

    itemIdentifier: str  # noqa: N815 - the name is AWS's


class EventTaken(BaseModel):
    """What an event told of: batch files that were queued, and what became of the rest."""

    batches: int
    read: int
    already: int
    later: list[str]
    ignored: dict[str, int]
    failures: list[EventFailure]
    batchItemFailures: list[MessageFailure]  # noqa: N815 - the name is AWS's


class ReprocessRequest(Closed):
    """Which failures to try again; of several fields all must fit."""

    source: Annotated[str, Field(max_length=63, description="The name of a source.")] = ""
    day: Annotated[
        str, Field(pattern=r"^([0-9]{4}-[0-9]{2}-[0-9]{2})?$", description="Of the batch files, in UTC.")
    ] = ""
    batch: Annotated[str, Field(max_length=1024, description="The key or the id of one batch file.")] = ""


class Reprocessed(BaseModel):
    """How many chunks wait again, how many files of other programs were read again, and what failed again."""

    waiting: int
    read: int
    failures: list[EventFailure]


class BreakerStatus(BaseModel):
    """State of one provider's breaker, and how often it opened."""

    name: str
    state: Literal["closed", "open", "half_open"]
    opened: int


class Breakers(BaseModel):
    """The breakers in the order in which their providers are tried."""

    breakers: list[BreakerStatus]


class BreakerName(Closed):
    """The provider whose breaker to reset."""

    name: Text


class ProviderStatus(BaseModel):
    """A provider of a model."""

    name: str
    model: str
    space: str
    dimensions: int
    state: Literal["closed", "open", "half_open"]
    remote: bool
    usd_per_million_tokens: float


class Providers(BaseModel):
    """The providers of each model in the order in which they are tried."""

    providers: list[ProviderStatus]


def model_of(shape: type[Shape], fields: Mapping[str, Any]) -> Shape:
    """Validate fields against a schema.

    Raises:
        Rejected: they do not match; the message names the field.
    """
    # Pydantic would make an error for each of them.
    unknown = [name for name in fields if name not in known_fields(shape)]
    if unknown and shape.model_config.get("extra") == "forbid":
        raise Rejected(f"Unrecognized request argument supplied: {unknown[0]}", param=unknown[0])
    try:
        return shape.model_validate(fields)
    except ValidationError as error:
        raise rejected(error) from error


@cache
def known_fields(shape: type[BaseModel]) -> frozenset[str]:
    """Return the names that the fields of a request have."""
    return frozenset(field.alias or name for name, field in shape.model_fields.items())


def rejected(error: ValidationError) -> Rejected:
    """Word the first error without its value, which may be a text."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = str(first["loc"][0]) if first["loc"] else None
    if first["type"] == "extra_forbidden":
        return Rejected(f"Unrecognized request argument supplied: {where}", param=where)
    if first["type"] == "missing":
        return Rejected(f"'{where}' is a required property", param=where)
    return Rejected(f"Invalid '{where}': {first['msg']}.", param=where, code="invalid_value")
