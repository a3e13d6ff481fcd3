"""Lane: which way the texts of a run go, decided from what is known beforehand. No I/O."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from flowbed.lanes.budget import dollars

if TYPE_CHECKING:
    from flowbed.embedding.batch_api import JobTerms

Asked = Literal["auto", "realtime", "batch"]
Name = Literal["realtime", "batch"]

# US dollars: nobody waits for hours to save less.
WORTH = 0.01
# Tokens that the realtime lane embeds in one small request, whatever they cost.
FEW = 1_000
# Of a window that a provider promises, most jobs take far less; no more than that is known before the first one.
GUESS = 0.25
# Seconds by which it may look too late: fetching has taken some of the day that a provider promises to need at most,
# and what is not answered by the deadline is embedded then.
GRACE = 600.0

MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The lane that is taken, and in words why."""

    lane: Name
    why: str


# What a run goes by that was not asked for a lane, and not told by when it has to be done.
UNBOUND = Choice(lane="realtime", why="there is no deadline that leaves time for a Batch API")


def choose(
    *,
    asked: Asked,
    tokens: int,
    texts: int,
    terms: JobTerms | None,
    price: float,
    deadline_seconds: float | None,
    queued: int,
    typical_seconds: float | None,
) -> Choice:
    """Choose the lane for so many `tokens` in so many `texts`, at a `price` (US dollars a million tokens) if sent now.

    Without a deadline nothing is known to be worth waiting for: whoever runs this expects to find what is new.
    `queued` tokens stand in the account's queue, and `typical_seconds` is what earlier submissions took.
    """
    if asked != "auto":
        return Choice(lane=asked, why=f"the {asked} lane was asked for")
    if not (texts and tokens):
        return Choice(lane="realtime", why="nothing has to be sent to a provider")
    if terms is None:
        return Choice(lane="realtime", why="the model has no Batch API")
    saved = tokens * (price - terms.price) / 1e6
    needed = needs(tokens, terms, queued=queued, each=typical_seconds or terms.seconds)
    if against := _against(tokens, saved, needed, deadline_seconds):
        return Choice(lane="realtime", why=against)
    return Choice(
        lane="batch",
        why=f"it saves {dollars(saved)}, and is expected to be done within {spelt(needed)}, before the deadline in"
        f" {spelt(deadline_seconds or 0)}",
    )


def _against(tokens: int, saved: float, needed: float, deadline: float | None) -> str:
    """Say what speaks against the batch lane; nothing where nothing does."""
    if tokens < FEW or saved < WORTH:
        return (
            f"{tokens:,} tokens are too few to wait for: the batch lane would save {dollars(max(saved, 0))}"
        )
    if deadline is None:
        return f"there is no deadline; the batch lane would save {dollars(saved)} of what can wait (--deadline, --lane)"
    if needed > deadline + GRACE:
        return f"the batch lane may take {spelt(needed)}, and the deadline is in {spelt(deadline)}"
    return ""


def needs(tokens: int, terms: JobTerms, *, queued: int, each: float) -> float:
    """Tell how many seconds go by until `tokens` are answered, where one submission takes `each`.

    What does not fit into the account's queue beside what stands there waits until that is answered.
    """
    rounds = 1 if terms.tokens is None else max(1, math.ceil((queued + tokens) / terms.tokens))
    return rounds * each


def guessed(terms: JobTerms) -> float:
    """Guess how many seconds a submission takes, before there was one."""
    return terms.seconds * GUESS


def spelt(seconds: float) -> str:
    """Write a stretch of time for people, in the largest unit that fits."""
    for size, unit in ((DAY, "days"), (HOUR, "h"), (MINUTE, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f}".removesuffix(".0") + f" {unit}"
    return f"{seconds:,.1f}".removesuffix(".0") + " s"
