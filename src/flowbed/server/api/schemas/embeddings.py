"""Schemas of embeddings and models."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from flowbed.server.api.schemas.shapes import Closed, Text, Tokens
from flowbed.services.embedding.inputs import ITEMS_MOST


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
