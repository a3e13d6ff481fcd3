"""What a plan expects, and what a run did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowbed.records.documents import Problem


@dataclass(frozen=True, kw_only=True)
class Lane:
    """What a plan expects of one way to embed: US dollars, and seconds until the index has it."""

    cost_usd: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would do. All counts are chunks; `problems` and `withheld` name what it would not do.

    `new` and `changed` chunks would be written, and with them the `waiting` ones of runs that did not finish; `reused`
    of these need no embedding, and `tokens` are those of the others. `reuse` says why: their text is `repeated` in the
    plan, a live submission carries it (`submitted`), or its vector is `cached` or `indexed`. `documents` is how many
    differ. `plan_id` is None where there is nothing to do. `timed_runs` is how many earlier runs the realtime lane's
    time was taken from, and `timed_submissions` how many submissions the batch lane's; with 0 it is a guess. `lane` is
    the one that a run would take, and `lane_why` says why. `tokens_exact` says that tokens are counted as the provider
    bills them; `error_seen` is by which part earlier runs were billed more (or less), None where there were none.
    """

    plan_id: str | None
    new: int
    changed: int
    reused: int
    deleted: int
    tokens: int
    lanes: Mapping[str, Lane | None]
    documents: int = 0
    waiting: int = 0
    reuse: Mapping[str, int] = field(default_factory=dict)
    timed_runs: int = 0
    timed_submissions: int = 0
    lane: str = "realtime"
    lane_why: str = ""
    tokens_exact: bool = False
    error_seen: float | None = None
    problems: tuple[Problem, ...] = ()
    withheld: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What a plan said of the run that carries it out, to be held against what the run did.

    `seconds` are those of embedding. `already` says that nothing of the plan was left to do.
    """

    plan_id: str
    chunks: int
    deleted: int
    tokens: int
    cost_usd: float
    seconds: float
    already: bool = False


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a run did. `fetched` counts documents that were new or changed; the other counts are chunks.

    `embedded` counts the distinct texts that a provider was sent; `reused` the chunks that needed none. `cost_usd` is
    what it has billed, and `perhaps_billed_usd` what it may have billed beside for requests that brought nothing.
    `seconds` are those of the whole run, `embedding_seconds` those in which vectors were found or made. `waiting`
    chunks of its collections are left for another run. `lane` is the way that texts went, and `lane_why` says why;
    `submitted` texts were gathered for the provider's Batch API, and `submissions` names all that are live there.
    `failures` names what failed (source, chunk or delta) and why; `skipped` what is not text. `planned` is what the
    plan said, and `drift` what of it was left undone, by source.
    """

    fetched: int
    chunks: int
    embedded: int
    reused: int
    deleted: int
    failed: int
    tokens: int
    cost_usd: float
    seconds: float
    versions: Mapping[str, int]
    perhaps_billed_usd: float = 0.0
    truncated: int = 0
    embedding_seconds: float = 0.0
    waiting: int = 0
    lane: str = "realtime"
    lane_why: str = ""
    submitted: int = 0
    submissions: tuple[str, ...] = ()
    planned: Planned | None = None
    drift: Mapping[str, str] = field(default_factory=dict)
    failures: tuple[Problem, ...] = ()
    skipped: tuple[Problem, ...] = ()
    withheld: Mapping[str, str] = field(default_factory=dict)
