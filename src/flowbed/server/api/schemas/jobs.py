"""Schemas of /v1/jobs: what a client may ask for, and what it sees of a job."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from flowbed.chunking import LEAST_CAPACITY, MOST_CAPACITY
from flowbed.server.api.schemas.shapes import Closed, Text
from flowbed.services.jobs.requests import DOCUMENTS_MOST, ID_MOST, KEY_MOST, PRIORITY, PRIORITY_MOST

# Keys of a job's metadata, and their lengths, as OpenAI limits them.
KEYS_MOST, NAME_MOST, VALUE_MOST = 16, 64, 512
LIST_MOST = 100

Id = Annotated[str, Field(min_length=1, max_length=ID_MOST)]
Scalars = dict[str, str | bool | int | float]
JobMetadata = Annotated[
    dict[
        Annotated[str, Field(max_length=NAME_MOST)],
        Annotated[str, Field(max_length=VALUE_MOST)],
    ],
    Field(max_length=KEYS_MOST),
]
Status = Literal["queued", "running", "cancelling", "completed", "failed", "cancelled"]


class TextItem(Closed):
    """A text with an id of its own; one with the same id in the collection is replaced."""

    text: Text
    id: Id | None = None
    title: str = ""
    kind: Annotated[Literal["text", "markdown"], Field(description="How it is chunked.")] = "text"
    metadata: Scalars = Field(default_factory=dict, description="Fields to filter by, of each of its chunks.")


class DocumentItem(TextItem):
    """A document; its id is the job's if it has none."""


class Chunking(Closed):
    """How documents are chunked."""

    capacity: Annotated[
        int | None,
        Field(ge=LEAST_CAPACITY, le=MOST_CAPACITY, description="The most tokens of a chunk; 254 by default."),
    ] = None


class JobRequest(Closed):
    """What to write into a collection: one of texts, document, file_id, url and reembed."""

    collection: Annotated[str, Field(pattern="^[a-z0-9][a-z0-9_-]{0,62}$", examples=["notes"])]
    texts: Annotated[
        list[Text | TextItem] | None,
        Field(min_length=1, max_length=DOCUMENTS_MOST, examples=[["The kettle is in the cupboard."]]),
    ] = None
    document: DocumentItem | None = None
    file_id: Annotated[str | None, Field(max_length=80, description="A file of /v1/files.")] = None
    url: Annotated[
        str | None,
        Field(max_length=2_048, description="The address of a file of this server: /v1/files/{id}."),
    ] = None
    reembed: Annotated[bool, Field(description="Embed the whole collection again.")] = False
    model: Annotated[
        str | None,
        Field(min_length=1, max_length=200, description="With reembed: embed it with this served model."),
    ] = None
    into: Annotated[
        str | None,
        Field(
            pattern="^[a-z0-9][a-z0-9_-]{0,62}$",
            description="With a model: the new collection for its vectors, which has a space of its own.",
        ),
    ] = None
    chunking: Chunking | None = None
    priority: Annotated[
        int, Field(ge=0, le=PRIORITY_MOST, description="Higher is sooner, and nothing waits for ever.")
    ] = PRIORITY
    metadata: Annotated[JobMetadata | None, Field(description="The job's own, which comes back with it.")] = (
        None
    )
    idempotency_key: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=KEY_MOST,
            description="A repeated request with the same key makes no other job for a day; the header"
            " Idempotency-Key says the same.",
        ),
    ] = None


class JobChange(Closed):
    """What to change of a job that has not ended."""

    priority: Annotated[int | None, Field(ge=0, le=PRIORITY_MOST)] = None
    metadata: JobMetadata | None = None


class JobCancel(Closed):
    """How to end a job."""

    rollback: Annotated[
        bool, Field(description="Also take back what is finished; otherwise whole documents stay.")
    ] = False


class JobsQuery(Closed):
    """Which jobs to list."""

    status: Annotated[str | None, Field(description="One or more states, separated by commas.")] = None
    collection: Annotated[str | None, Field(max_length=63)] = None
    after: Annotated[str | None, Field(max_length=80, description="The id of the last job of a page.")] = None
    limit: Annotated[int, Field(ge=1, le=LIST_MOST)] = 20
    order: Literal["asc", "desc"] = "desc"


class JobCounts(BaseModel):
    """Documents and chunks: `chunks` is null until they are counted, `skipped` were there already."""

    documents: int
    chunks: int | None
    embedded: int
    cached: int
    stored: int
    failed: int
    skipped: int


class JobCost(BaseModel):
    """US dollars: estimated once the chunks are counted, and billed as the model answers."""

    estimated_usd: float
    billed_usd: float


class JobQueue(BaseModel):
    """Where a job waits: `ahead` jobs of the same key come first; `reason` says what else it waits for."""

    ahead: int
    reason: str | None
    due_at: int | None


class JobError(BaseModel):
    """Why a job failed."""

    message: str


class JobFault(BaseModel):
    """Why a document was not stored, or not whole."""

    document: str
    message: str


class JobObject(BaseModel):
    """A job. Times are Unix seconds."""

    id: Annotated[str, Field(examples=["job_Q2hhcmxlcyBCYWJiYWdlMTI"])]
    object: Literal["job"]
    kind: Literal["texts", "document", "files", "reembed"]
    status: Status
    stage: Literal["chunking", "embedding", "storing"] | None
    collection: str
    model: Annotated[str | None, Field(description="The other model, as vendor:model.")]
    into: Annotated[str | None, Field(description="The collection for the vectors of that model.")]
    priority: int
    metadata: dict[str, str]
    chunking: dict[str, Any]
    created_at: int
    started_at: int | None
    ended_at: int | None
    counts: JobCounts
    progress: Annotated[float, Field(ge=0, le=1)]
    seconds_left: Annotated[float | None, Field(description="About; null before chunks are embedded.")]
    tokens: int
    cost: JobCost
    queue: JobQueue | None
    error: JobError | None
    errors: list[JobFault]


class JobList(BaseModel):
    """A page of jobs."""

    object: Literal["list"]
    data: list[JobObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class EventsQuery(Closed):
    """Which events of a job."""

    after: Annotated[
        int, Field(ge=0, description="The id of the last event read; the header Last-Event-ID counts first.")
    ] = 0
    limit: Annotated[int, Field(ge=1, le=LIST_MOST, description="Of a page; a stream has no limit.")] = (
        LIST_MOST
    )


class JobEvent(BaseModel):
    """An event of a job; ids count from 1 without gaps."""

    id: int
    object: Literal["job.event"]
    job: str
    type: Annotated[str, Field(examples=["job.progress"])]
    created_at: int
    data: dict[str, Any]


class JobEventList(BaseModel):
    """A page of a job's events, oldest first."""

    object: Literal["list"]
    data: list[JobEvent]
    has_more: bool
