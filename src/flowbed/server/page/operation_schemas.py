"""Schemas of what the page shows operators. Records are those of the command line's `--json`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from flowbed.server.api.schemas.events import EventFailure  # noqa: TC001 - pydantic evaluates it
from flowbed.server.api.schemas.shapes import Closed
from flowbed.server.page.schemas import CollectionShown  # noqa: TC001 - pydantic evaluates it


class StuckShown(BaseModel):
    """What does not go on by itself, why, and the command that helps."""

    what: str
    why: str
    fix: str
    state: Literal["waiting", "failed"]


class SourceShown(BaseModel):
    """A source; `last` and `next` are when a watch fetched it and will (microseconds since 1970), 0 if unknown."""

    name: str
    documents: int
    fetched: bool
    configured: bool
    last: int
    next: int
    followed: bool


class FlowShown(BaseModel):
    """What is where between the sources and the publications."""

    at: int
    sources: list[SourceShown]
    waiting: int
    failed: int
    reverted: int
    embedding: int
    workers: int
    submitted: int
    answered: int
    deltas: list[str]
    rows: int
    collections: list[CollectionShown]
    runs: list[dict[str, Any]]
    publications: list[dict[str, Any]]
    letters: int
    stuck: list[StuckShown]


class ItemShown(BaseModel):
    """An item of the checklist."""

    stage: str
    subject: str
    state: Literal["ok", "waiting", "failed", "not used"]
    found: str
    figures: dict[str, int]
    how: str
    fix: str


class ChecklistShown(BaseModel):
    """The items of all stages, in the order of the data flow."""

    items: list[ItemShown]


class LetterShown(BaseModel):
    """A failure that needs attention; `at` is microseconds since 1970."""

    kind: str
    owner: str
    subject: str
    reason: str
    at: int
    attempts: int
    source: str
    batches: list[str]


class LetterList(BaseModel):
    """Every dead letter, oldest first."""

    letters: list[LetterShown]


class RetryRequest(Closed):
    """The dead letters to try again; none means all."""

    subjects: Annotated[list[str], Field(default_factory=list, max_length=1_000)]


class Retried(BaseModel):
    """How many chunks wait again, how many files of other programs were read again, and what failed again."""

    waiting: int
    read: int
    failures: list[EventFailure]


class Submissions(BaseModel):
    """The live submissions, and the last that ended."""

    live: list[dict[str, Any]]
    ended: list[dict[str, Any]]


class SubmissionName(Closed):
    """A submission."""

    submission: Annotated[str, Field(min_length=1, max_length=256)]


class BatchShown(BaseModel):
    """A batch of a key; `created` and `expires` are microseconds since 1970."""

    id: str
    owner: str
    state: str
    model: str
    total: int
    completed: int
    failed: int
    created: int
    expires: int
    cancel: bool


class Batches(BaseModel):
    """The batches that have not ended."""

    batches: list[BatchShown]


class SpentShown(BaseModel):
    """Tokens planned and billed under a name, and US dollars."""

    source: str
    name: str
    texts: int
    planned: int
    billed: int
    cost_usd: float


class SpendingShown(BaseModel):
    """What was planned and billed, by day, lane and source; and US dollars by collection."""

    days: list[SpentShown]
    lanes: list[SpentShown]
    sources: list[SpentShown]
    collections: dict[str, float]


class LimitsShown(BaseModel):
    """The limits of a tier; null is unlimited."""

    requests: int | None
    tokens: int | None
    queued: int | None
    stored: int | None
    write: bool


class KeyShown(BaseModel):
    """A key without its secret; times are microseconds since 1970, 0 if that never happened."""

    id: str
    name: str
    prefix: str
    tier: str
    created: int
    models: list[str]
    admin: bool
    revoked: int
    used: int


class KeyUseShown(KeyShown):
    """A key with the limits of its tier and what it used today."""

    limits: LimitsShown | None
    used_today: int


class KeyList(BaseModel):
    """Every key, oldest first, and the tiers that a new one can have."""

    keys: list[KeyUseShown]
    tiers: list[str]


class KeyRequest(Closed):
    """A key to create."""

    name: Annotated[str, Field(min_length=1, max_length=100, examples=["search page"])]
    tier: Annotated[str, Field(min_length=1, max_length=64)] = "default"
    models: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=256)]],
        Field(
            default_factory=list, max_length=100, description="The models that it may use; none means all."
        ),
    ]
    admin: Annotated[bool, Field(description="Grant the admin scope.")] = False


class KeyCreated(KeyShown):
    """A new key with its secret, which is in this answer alone."""

    secret: str


class RollbackRequest(Closed):
    """The collection and the version whose contents it gets."""

    collection: Annotated[str, Field(min_length=1)]
    version: Annotated[int, Field(ge=1, le=2**53)]


class RolledBack(BaseModel):
    """What a rollback did."""

    collection: str
    target: int
    version: int
    at: int
    runs: int
    chunks: int
