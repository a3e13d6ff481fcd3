"""Schemas of events that the server takes in."""

from __future__ import annotations

from pydantic import BaseModel


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
