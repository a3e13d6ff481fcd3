"""Schemas of /v1/collections/.../documents and .../records."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from flowbed.server.api.schemas.jobs import Chunking, Id, Scalars  # noqa: TC001 - pydantic reads them
from flowbed.server.api.schemas.shapes import Closed, Text

# Documents, and records, of one request.
MOST = 1_000
Where = Annotated[dict[str, Any], Field(description='A filter, such as {"topic": "tea"}.')]


class DocumentFields(Closed):
    """A document: either a text, or a file of /v1/files, which a job reads."""

    text: Annotated[Text | None, Field(examples=["Tea is served at four."])] = None
    file_id: Annotated[str | None, Field(max_length=80)] = None
    title: str = ""
    kind: Annotated[Literal["text", "markdown"], Field(description="How a text is chunked.")] = "text"
    metadata: Scalars = Field(default_factory=dict, description="Fields to filter by, of each of its chunks.")


class DocumentRequest(DocumentFields):
    """A document to write under the id in the path."""

    chunking: Chunking | None = None


class NamedDocument(DocumentFields):
    """A document with its id."""

    id: Id


class DocumentsRequest(Closed):
    """Documents to write; each replaces the one with its id."""

    documents: Annotated[list[NamedDocument], Field(min_length=1, max_length=MOST)]
    chunking: Chunking | None = None


class DocumentObject(BaseModel):
    """A document of a collection; `metadata` is that of its first chunk, with what Flowbed added."""

    id: str
    object: Literal["document"]
    collection: str
    status: Literal["completed", "in_progress", "failed"]
    chunks: int
    tokens: int
    metadata: dict[str, str | bool | int | float]
    error: dict[str, str] | None


class DocumentList(BaseModel):
    """Documents in the order of their ids."""

    object: Literal["list"]
    data: list[DocumentObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DocumentsQuery(BaseModel):
    """Which documents to list."""

    model_config = ConfigDict(extra="forbid")

    where: Annotated[str | None, Field(description="A filter, as JSON.", examples=['{"topic": "tea"}'])] = (
        None
    )
    after: Annotated[str, Field(description="The id after which the page begins.")] = ""
    limit: Annotated[int, Field(ge=1, le=MOST)] = 20


class DeleteRequest(Closed):
    """Documents to delete: those with these ids, or those with a chunk that matches a filter."""

    ids: Annotated[list[Id] | None, Field(min_length=1, max_length=MOST)] = None
    where: Where | None = None


class ReembedRequest(Closed):
    """Another model to embed a collection with, and the new collection for its vectors."""

    model: Annotated[str | None, Field(min_length=1, max_length=200, description="A served model.")] = None
    into: Annotated[str | None, Field(pattern="^[a-z0-9][a-z0-9_-]{0,62}$")] = None


class DocumentsDeleted(BaseModel):
    """The ids of the documents that were deleted."""

    object: Literal["documents.deleted"]
    deleted: list[str]


class DocumentDeleted(BaseModel):
    """A document that was deleted."""

    id: str
    object: Literal["document.deleted"]
    deleted: bool


class NearRequest(Closed):
    """How many documents to find, and which."""

    limit: Annotated[int, Field(ge=1, le=1_000)] = 10
    where: Where | None = None


class FindRequest(NearRequest):
    """What to find in the collection."""

    query: Annotated[
        Text | Annotated[list[float], Field(min_length=1, fail_fast=True)],
        Field(description="A text, or a vector of the collection's space."),
    ]
    unit: Literal["chunk", "document"] = "chunk"


class RecordItem(Closed):
    """A row that comes with its vector."""

    id: Id
    vector: Annotated[list[float], Field(min_length=1, fail_fast=True)]
    text: str | None = None
    metadata: Scalars = Field(default_factory=dict)


class RecordsRequest(Closed):
    """Rows to write; each replaces the one with its id."""

    records: Annotated[list[RecordItem], Field(min_length=1, max_length=MOST)]


class RecordsWritten(BaseModel):
    """How many rows were written, and how many were there already as they are."""

    written: int
    unchanged: int
    version: int | None


class RecordObject(BaseModel):
    """A row with its vector."""

    id: str
    object: Literal["record"]
    text: str | None
    metadata: dict[str, str | bool | int | float]
    vector: list[float]


class RecordDeleted(BaseModel):
    """A row that was deleted."""

    id: str
    object: Literal["record.deleted"]
    deleted: bool
