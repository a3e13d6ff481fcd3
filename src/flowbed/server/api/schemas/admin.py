"""Schemas of the administration: caches, breakers, providers and reprocessing."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from flowbed.server.api.schemas.events import EventFailure  # noqa: TC001 - pydantic evaluates it
from flowbed.server.api.schemas.shapes import Closed, Text


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
