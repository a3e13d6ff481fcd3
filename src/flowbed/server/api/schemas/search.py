"""Schemas of searches, and of the fields of a collection."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from flowbed.server.api.schemas.shapes import Closed, Text


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
