"""Choose the lane of a run from what is known before it. No I/O."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from flowbed.lanes.budget import dollars

if TYPE_CHECKING:
    from flowbed.embedding.batch_api import JobTerms

LaneOption = Literal["auto", "realtime", "batch"]
Name = Literal["realtime", "batch"]

# US dollars: a smaller saving is not worth hours of waiting.
MIN_SAVING = 0.01
# Tokens that the realtime lane embeds in one small request, whatever they cost.
MIN_TOKENS = 1_000
# The part of a provider's promised window that most jobs take less than; used until the first job has been timed.
FIRST_GUESS = 0.25
# Seconds by which the estimate may miss the deadline: fetching has used some of the day that a provider promises to
# need at most, and what has no result by the deadline is embedded then.
GRACE = 600.0

MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The lane taken, and the reason in words."""

    lane: Name
    why: str


# The choice for a run without a lane and without a deadline.
UNBOUND = Choice(lane="realtime", why="there is no deadline that leaves time for a Batch API")


def choose(
    *,
    asked: LaneOption,
    tokens: int,
    texts: int,
    terms: JobTerms | None,
    price: float,
    deadline_seconds: float | None,
    queued: int,
    typical_seconds: float | None,
) -> Choice:
    """Choose the lane for `tokens` in `texts`, at a realtime `price` in US dollars per million tokens.

    Without a deadline the lane is realtime: a run is expected to make new data searchable. `queued` tokens are waiting
    in the account's queue, and `typical_seconds` is what earlier submissions took.
    """
    if asked != "auto":
        return Choice(lane=asked, why=f"the {asked} lane was requested")
    if not (texts and tokens):
        return Choice(lane="realtime", why="nothing has to be sent to a provider")
    if terms is None:
        return Choice(lane="realtime", why="the model has no Batch API")
    saved = tokens * (price - terms.price) / 1e6
    needed = estimate_seconds(tokens, terms, queued=queued, each=typical_seconds or terms.seconds)
    if reason := _reason_against(tokens, saved, needed, deadline_seconds):
        return Choice(lane="realtime", why=reason)
    return Choice(
        lane="batch",
        why=f"it saves {dollars(saved)}, and should be done within {format_duration(needed)}; the deadline is in"
        f" {format_duration(deadline_seconds or 0)}",
    )


def _reason_against(tokens: int, saved: float, needed: float, deadline: float | None) -> str:
    """Return the reason against the batch lane, empty where there is none."""
    if tokens < MIN_TOKENS or saved < MIN_SAVING:
        return (
            f"{tokens:,} tokens are too few to wait for: the batch lane would save {dollars(max(saved, 0))}"
        )
    if deadline is None:
        return f"there is no deadline; the batch lane would save {dollars(saved)} if it can wait (--deadline, --lane)"
    if needed > deadline + GRACE:
        return f"the batch lane may take {format_duration(needed)}, and the deadline is in {format_duration(deadline)}"
    return ""


def estimate_seconds(tokens: int, terms: JobTerms, *, queued: int, each: float) -> float:
    """Estimate the seconds until `tokens` have results, where one submission takes `each`.

    Tokens that do not fit into the account's queue, beside those queued, wait for another round.
    """
    rounds = 1 if terms.tokens is None else max(1, math.ceil((queued + tokens) / terms.tokens))
    return rounds * each


def guess_seconds(terms: JobTerms) -> float:
    """Guess the seconds that a submission takes, before the first one was timed."""
    return terms.seconds * FIRST_GUESS


def format_duration(seconds: float) -> str:
    """Format a duration for people, in the largest unit that fits."""
    for size, unit in ((DAY, "days"), (HOUR, "h"), (MINUTE, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f}".removesuffix(".0") + f" {unit}"
    return f"{seconds:,.1f}".removesuffix(".0") + " s"
