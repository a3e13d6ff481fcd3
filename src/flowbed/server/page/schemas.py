"""Schemas of what the page reads, for the OpenAPI document and for validation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from flowbed.server.api.schemas.shapes import Closed

Version = Annotated[int, Field(ge=1, le=2**53)]
Around = Annotated[int, Field(ge=0, le=50)]


class Query(BaseModel):
    """Query parameters, which arrive as text; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid")


class Session(BaseModel):
    """Who asks, and what is served."""

    name: str
    key: str | None
    admin: bool
    keys_required: bool
    model: str
    version: str
    watching: Annotated[bool, Field(description="Whether this server follows the sources too.")]


class CollectionShown(BaseModel):
    """A collection; `updated` is microseconds since 1970, 0 if unknown, `problem` why it cannot be read."""

    name: str
    rows: int
    unindexed_rows: int
    version: int
    updated: int
    space: str
    model: str
    dimensions: int
    problem: str


class CollectionList(BaseModel):
    """Every collection, by name."""

    collections: list[CollectionShown]


class VersionShown(BaseModel):
    """A kept version; `created` is microseconds since 1970."""

    version: int
    created: int
    rows: int
    bytes: int
    tags: list[str]


class VersionList(BaseModel):
    """The kept versions, newest first."""

    versions: list[VersionShown]


class RowShown(BaseModel):
    """A row of the index, without its vector."""

    id: str
    document: str
    metadata: dict[str, Any]
    collection: str


class RowList(BaseModel):
    """Rows, and how many there are in all."""

    rows: list[RowShown]
    total: int


class RowsRequest(Closed):
    """Which rows to read, in the order of their ids."""

    where: Annotated[dict[str, Any] | None, Field(description="A filter, as for searches.")] = None
    offset: Annotated[int, Field(ge=0, le=2**40)] = 0
    limit: Annotated[int, Field(ge=1, le=200)] = 50


class PointsRequest(Closed):
    """Some points of the map of a version, as it was returned."""

    version: Annotated[int, Field(ge=1, le=2**53)]
    points: Annotated[list[Annotated[int, Field(ge=0, le=2**31)]], Field(min_length=1, max_length=200)]


Corner = Annotated[list[Annotated[float, Field(ge=-1, le=2)]], Field(min_length=2, max_length=2)]


class AreaRequest(Closed):
    """A path on the map of a version, as corners [x, y] in its plane of [0, 1], without points of some groups."""

    version: Annotated[int, Field(ge=1, le=2**53)]
    path: Annotated[
        list[Corner],
        Field(min_length=3, max_length=256, examples=[[[0.2, 0.2], [0.8, 0.2], [0.5, 0.9]]]),
    ]
    by: Annotated[Literal["topic", "source"], Field(description="What `without` are places of.")] = "topic"
    without: Annotated[
        list[Annotated[int, Field(ge=0, le=255)]],
        Field(default_factory=list, max_length=256, description="Groups whose points do not count."),
    ]


class IdList(BaseModel):
    """Ids of rows, for a filter with `$id`."""

    ids: list[str]


class AroundQuery(Query):
    """A row, and how many before and after it in its document."""

    id: Annotated[str, Field(min_length=1)]
    collection: Annotated[str | None, Field(min_length=1)] = None
    before: Around = 1
    after: Around = 1


class WhyQuery(Query):
    """The id of a chunk, a document, or a link."""

    id: Annotated[str, Field(min_length=1)]


class ChangesQuery(Query):
    """Two versions of a collection."""

    start: Version
    end: Version


class DifferenceShown(BaseModel):
    """How two versions differ, with examples."""

    start: int
    end: int
    rows: int
    upserts: int
    deletes: int
    written: list[RowShown]
    deleted: list[str]


class ReasonShown(BaseModel):
    """What is recorded about a chunk, and a sentence about it; the records are those of `flowbed why --json`."""

    verdict: str
    chunk: dict[str, Any]
    batch: dict[str, Any] | None
    run: dict[str, Any] | None
    submission: dict[str, Any] | None
    lost: float | None
    lost_advice: str


class ReasonList(BaseModel):
    """One reason for each chunk."""

    chunks: list[ReasonShown]
