"""The story, a function each: sync the sources, embed what waits, commit, and say what happened."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from flowbed.chunking import Rules
    from flowbed.embedding.cache import Cached
    from flowbed.embedding.jobs import BatchApi
    from flowbed.index.compaction import Retention
    from flowbed.index.datasets import Datasets
    from flowbed.lanes.budget import Budget
    from flowbed.ledger import Ledger
    from flowbed.pipeline import (
        doctor,
        find,
        gc,
        inspect,
        plan,
        poll,
        release,
        rollback,
        run,
        staging,
        submit,
        tie,
        verify,
    )
    from flowbed.sources import Source
    from flowbed.storage import Store

# Resolved on first use: who only searches waits for none of them.
__all__ = [
    "doctor",
    "find",
    "gc",
    "inspect",
    "plan",
    "poll",
    "release",
    "rollback",
    "run",
    "staging",
    "submit",
    "tie",
    "verify",
]


def __getattr__(name: str) -> ModuleType:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name}")


@dataclass(frozen=True, kw_only=True)
class Feed:
    """One source as a run needs it: where documents come from, and how they are chunked."""

    source: Source
    rules: Rules


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The opened parts of a bed that the pipeline works with.

    `embedder` opens the model when it is first called, and `jobs` its provider's Batch API, None where there is none;
    `dead` tells whether a worker is known to have ended. `new_id` makes 24 hex digits that nothing else has.
    `sources` names all that the project has.
    `clock` is microseconds since 1970, `monotonic` seconds. `budget` is what requests may cost, where that is limited;
    `retention` which old versions compaction keeps, where that was set.
    """

    store: Store
    ledger: Ledger
    datasets: Datasets
    embedder: Callable[[], Cached]
    jobs: Callable[[], BatchApi | None]
    new_id: Callable[[], str]
    clock: Callable[[], int]
    monotonic: Callable[[], float]
    dead: Callable[[str], bool]
    worker: str
    concurrency: int
    sources: frozenset[str]
    budget: Budget | None = None
    retention: Retention | None = None
