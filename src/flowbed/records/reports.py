"""What a plan expects, and what a run did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowbed.records.documents import Problem


@dataclass(frozen=True, kw_only=True)
class Lane:
    """What a plan expects of one lane: US dollars, and seconds until the index has the chunks."""

    cost_usd: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would do. All counts are chunks; `problems` and `withheld` name what it would leave undone.

    `new` and `changed` chunks would be written, and with them the `waiting` chunks of unfinished runs. `reused` of
    these need no embedding; `tokens` are those of the others. `reuse` says why: the text is `repeated` in the plan, a
    live submission contains it (`submitted`), or its vector is `cached` or `indexed`. `documents` is how many have
    changed. `plan_id` is None if there is nothing to do. `timed_runs` is how many earlier runs the estimate for the
    realtime lane is based on, and `timed_submissions` how many submissions that for the batch lane; with 0 it is a
    guess. `lane` is what a run would use, and `lane_why` says why. `tokens_exact` means that tokens are counted as the
    provider bills them; `error_seen` is the share by which earlier runs were billed more (or less), None without any.
    `empty` says, by source, why it lists no documents. `lost` is the share of characters to be written that the model
    does not know, and `lost_advice` says what to do if that is much.
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
    empty: Mapping[str, str] = field(default_factory=dict)
    lost: float = 0.0
    lost_advice: str = ""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What a run's plan expected, to compare with what the run did.

    `seconds` are those of embedding. `already` means that nothing of the plan was left to do.
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
    """What a run did. `fetched` counts new or changed documents; all other counts are chunks.

    `embedded` counts the distinct texts sent to a provider, `reused` the chunks that needed none. `cost_usd` was
    billed, and `perhaps_billed_usd` may have been billed in addition, for requests without a result. `seconds` are
    those of the whole run, `embedding_seconds` those of finding or computing vectors. `waiting` chunks of its
    collections are left for another run. `lane` is what the run used, and `lane_why` says why. `submitted` texts were
    put into submissions, and `submissions` lists all live ones. `failures` says what failed (source, chunk or delta)
    and why; `skipped` what is not text. `planned` is what the plan expected, and `drift` what of it was left undone, by
    source. `published` says where each publication lies that was due, by its name and collection.
    `empty` says, by source, why it lists no documents.
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
    empty: Mapping[str, str] = field(default_factory=dict)
    published: Mapping[str, str] = field(default_factory=dict)
