"""The shapes of requests and answers, for the description of the API and for reading what is not read by hand."""

from __future__ import annotations

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
    """A request: what it does not know, it refuses."""

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
    """Tokens of the inputs, those whose vectors came from the cache too."""

    prompt_tokens: Annotated[int, Field(ge=0)]
    total_tokens: Annotated[int, Field(ge=0)]


class Embeddings(BaseModel):
    """Vectors, in the order of the input."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class Model(BaseModel):
    """A model that requests may name; `root` is its own id, where `id` is an alias."""

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
    data: list[Model]


class SearchRequest(Closed):
    """What to look for, and where."""

    query: Annotated[
        Text | Annotated[list[float], Field(min_length=1)],
        Field(description="A text, or a vector of the collection's space."),
    ]
    collection: Annotated[
        Text | None, Field(description="Without one, all of the model's space are searched.")
    ] = None
    where: Annotated[dict[str, Any] | None, Field(description='A filter, such as {"source": "slack"}.')] = (
        None
    )
    limit: Annotated[int, Field(ge=1, le=10_000)] = 10
    at: Annotated[int | None, Field(ge=1, description="An older version of the collection named.")] = None
    unit: Annotated[
        Literal["chunk", "document"], Field(description="document: each document once, by its best chunk.")
    ] = "chunk"


class Hit(BaseModel):
    """One answer of a search; `score` is the cosine similarity."""

    id: str
    score: float
    document: str
    metadata: dict[str, Any]
    collection: str


class SearchResponse(BaseModel):
    """What a search found, best first, and the version of each collection that was asked."""

    hits: list[Hit]
    versions: dict[str, int]


class Check(BaseModel):
    """How one thing that answers depend on is."""

    name: str
    state: Literal["ok", "degraded", "unhealthy"]
    reason: str
    seconds: float


class Readiness(BaseModel):
    """How the server is, and everything that it depends on."""

    status: Literal["ok", "degraded", "unhealthy"]
    checks: list[Check]


class Fault(BaseModel):
    """What is wrong, as OpenAI words it."""

    message: str
    type: str
    param: str | None
    code: str | None


class Failure(BaseModel):
    """Every answer that is an error."""

    error: Fault


class CacheTier(BaseModel):
    """How often one tier was asked for vectors of a model; what it holds, where that is known without looking."""

    model: str
    tier: str
    hits: int
    misses: int
    vectors: int | None
    bytes: int | None


class Caches(BaseModel):
    """Every tier of the cache, nearest first."""

    tiers: list[CacheTier]


class Cleared(BaseModel):
    """The cache was emptied."""

    cleared: bool


class WarmRequest(Closed):
    """Which model's texts to embed again, and how many at most."""

    model: Text
    most: Annotated[int, Field(ge=1, le=4_096)] = 1_000


class Warmed(BaseModel):
    """How many texts were embedded."""

    warmed: int


class Breaker(BaseModel):
    """Whether a provider is asked, and how often it was found to be down."""

    name: str
    state: Literal["closed", "open", "half_open"]
    opened: int


class Breakers(BaseModel):
    """The breakers, in the order in which their providers are asked."""

    breakers: list[Breaker]


class BreakerName(Closed):
    """Which provider to ask again."""

    name: Text


class Provider(BaseModel):
    """Who answers for a model."""

    name: str
    model: str
    space: str
    dimensions: int
    state: Literal["closed", "open", "half_open"]
    remote: bool
    usd_per_million_tokens: float


class Providers(BaseModel):
    """Who answers for each model, in the order in which they are asked."""

    providers: list[Provider]


def model_of(shape: type[Shape], fields: Mapping[str, Any]) -> Shape:
    """Read fields of the given shape.

    Raises:
        Rejected: they are of another; the message says where.
    """
    try:
        return shape.model_validate(fields)
    except ValidationError as error:
        raise rejected(error) from error


def rejected(error: ValidationError) -> Rejected:
    """Word the first fault, without the value: it may be a text."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = str(first["loc"][0]) if first["loc"] else None
    if first["type"] == "extra_forbidden":
        return Rejected(f"Unrecognized request argument supplied: {where}", param=where)
    if first["type"] == "missing":
        return Rejected(f"'{where}' is a required property", param=where)
    return Rejected(f"Invalid '{where}': {first['msg']}.", param=where, code="invalid_value")
