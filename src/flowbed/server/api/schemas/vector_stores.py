"""Schemas of /v1/vector_stores."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from flowbed.server.api.schemas.shapes import Closed, Text
from flowbed.services.vector_stores.attached import BATCH_FILES

# https://platform.openai.com/docs/api-reference/vector-stores
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]
Number = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | Annotated[float, Field(allow_inf_nan=False)]
Attributes = Annotated[
    dict[
        Annotated[str, Field(min_length=1, max_length=64)],
        Annotated[str, Field(max_length=512)] | bool | Number,
    ],
    Field(max_length=16),
]
Status = Literal["in_progress", "completed", "failed", "cancelled"]
Query = Annotated[str, Field(min_length=1, max_length=32_768)]


class ExpiresAfterUse(Closed):
    """How long a store is kept without use."""

    anchor: Literal["last_active_at"]
    days: Annotated[int, Field(ge=1, le=365)]


class AutoChunking(Closed):
    """Chunks as this server makes them."""

    type: Literal["auto"]


class StaticSizes(Closed):
    """The most tokens of a chunk, and those that it shares with the next one: at most half."""

    max_chunk_size_tokens: Annotated[int, Field(ge=100, le=4_096)]
    chunk_overlap_tokens: Annotated[int, Field(ge=0, le=2_048)]


class StaticChunking(Closed):
    """Chunks of a given size."""

    type: Literal["static"]
    static: StaticSizes


Chunking = Annotated[AutoChunking | StaticChunking, Field(discriminator="type")]


class StoreRequest(Closed):
    """A new vector store."""

    name: Annotated[str | None, Field(max_length=256, examples=["handbook"])] = None
    description: Annotated[str, Field(max_length=4_096)] | None = None
    file_ids: Annotated[list[Text], Field(max_length=BATCH_FILES)] | None = None
    expires_after: ExpiresAfterUse | None = None
    chunking_strategy: Annotated[Chunking | None, Field(description="Of the files named here.")] = None
    metadata: Metadata | None = None
    embedding_model: Annotated[
        Text | None, Field(description="The server's own model; other fields of a request say nothing of it.")
    ] = None


class StoreUpdate(Closed):
    """What to change of a vector store; null empties a field."""

    name: Annotated[str, Field(max_length=256)] | None = None
    expires_after: ExpiresAfterUse | None = None
    metadata: Metadata | None = None


class FileCounts(BaseModel):
    """Files by state."""

    in_progress: int
    completed: int
    failed: int
    cancelled: int
    total: int


class StoreObject(BaseModel):
    """A vector store."""

    id: str
    object: Literal["vector_store"]
    created_at: int
    name: str
    description: str | None
    status: Literal["in_progress", "completed", "expired"]
    usage_bytes: int
    file_counts: FileCounts
    last_active_at: int
    expires_after: ExpiresAfterUse | None
    expires_at: int | None
    metadata: dict[str, str]


class StoresQuery(BaseModel):
    """Which stores to list."""

    model_config = ConfigDict(extra="forbid")

    after: Text | None = None
    before: Text | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"


class StoreList(BaseModel):
    """A page of vector stores."""

    object: Literal["list"]
    data: list[StoreObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class StoreDeleted(BaseModel):
    """A deleted vector store."""

    id: str
    object: Literal["vector_store.deleted"]
    deleted: bool


class AttachRequest(Closed):
    """A file to attach."""

    file_id: Annotated[Text, Field(examples=["file-5Qk2Yw"])]
    attributes: Annotated[Attributes | None, Field(examples=[{"author": "Ada", "year": 1843}])] = None
    chunking_strategy: Chunking | None = None


class AttributesRequest(Closed):
    """New attributes of a file; null removes all."""

    attributes: Attributes | None


class BatchAttachRequest(Closed):
    """Files to attach: either `file_ids`, all with the same attributes, or `files`."""

    file_ids: Annotated[list[Text], Field(min_length=1, max_length=BATCH_FILES)] | None = None
    files: Annotated[list[AttachRequest], Field(min_length=1, max_length=BATCH_FILES)] | None = None
    attributes: Attributes | None = None
    chunking_strategy: Chunking | None = None


class LastError(BaseModel):
    """Why a file was not indexed."""

    code: Literal["server_error", "unsupported_file", "invalid_file"]
    message: str


class StaticChunkingObject(BaseModel):
    """How a file was cut; `auto` is shown as OpenAI shows it."""

    type: Literal["static"]
    static: StaticSizes


class StoreFileObject(BaseModel):
    """A file of a vector store; `id` is that of the file."""

    id: str
    object: Literal["vector_store.file"]
    created_at: int
    vector_store_id: str
    status: Status
    usage_bytes: int
    last_error: LastError | None
    attributes: dict[str, str | bool | int | float]
    chunking_strategy: StaticChunkingObject


class StoreFilesQuery(StoresQuery):
    """Which files of a store to list."""

    filter: Status | None = None


class StoreFileList(BaseModel):
    """A page of files."""

    object: Literal["list"]
    data: list[StoreFileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class StoreFileDeleted(BaseModel):
    """A file that was taken out of a store."""

    id: str
    object: Literal["vector_store.file.deleted"]
    deleted: bool


class TextPart(BaseModel):
    """A text."""

    type: Literal["text"]
    text: str


class StoreFileContent(BaseModel):
    """The texts of a file's chunks, in order."""

    object: Literal["vector_store.file_content.page"]
    data: list[TextPart]
    has_more: Literal[False]
    next_page: None


class FileBatchObject(BaseModel):
    """A file batch."""

    id: str
    object: Literal["vector_store.files_batch"]
    created_at: int
    vector_store_id: str
    status: Status
    file_counts: FileCounts


class RankingOptions(Closed):
    """How results are ranked: each ranker of OpenAI's means cosine similarity here."""

    ranker: Literal["none", "auto", "default-2024-11-15", "default_2024_08_21"] | None = None
    score_threshold: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None


class StoreSearchRequest(Closed):
    """What to find in a vector store."""

    query: Annotated[
        Query | Annotated[list[Query], Field(min_length=1, max_length=16)],
        Field(
            description="A text, or several: a chunk has the score of the nearest.",
            examples=["When are keys rotated?"],
        ),
    ]
    filters: Annotated[
        dict[str, Any] | None,
        Field(
            description="On attributes; nested by `and` and `or`.",
            examples=[{"type": "eq", "key": "author", "value": "Ada"}],
        ),
    ] = None
    max_num_results: Annotated[int | None, Field(ge=1, le=50)] = None
    ranking_options: RankingOptions | None = None
    rewrite_query: Annotated[
        bool | None, Field(description="Taken for compatibility: queries are searched as they are.")
    ] = None


class StoreHitObject(BaseModel):
    """A chunk; `score` is the cosine similarity, and 0 where that is negative."""

    file_id: str
    filename: str
    score: Annotated[float, Field(ge=0, le=1)]
    attributes: dict[str, str | bool | int | float]
    content: list[TextPart]


class StoreSearchResponse(BaseModel):
    """Results, best first, all on one page."""

    object: Literal["vector_store.search_results.page"]
    search_query: list[str]
    data: list[StoreHitObject]
    has_more: Literal[False]
    next_page: None
