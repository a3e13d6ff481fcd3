"""The contexts that the steps of a project work with."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING

from flowbed.index.active_space import Collections
from flowbed.index.lease import LeaseTimes
from flowbed.index.versions.retention import Retention
from flowbed.lanes.contexts import RunContext
from flowbed.records import Embedded
from flowbed.settings import commit_rules
from flowbed.wiring import process
from flowbed.wiring.scratch import scratch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from flowbed.embedding.cache.cached import Cached
    from flowbed.index.datasets import Datasets
    from flowbed.lanes.budget import Budget
    from flowbed.ledger import Ledger
    from flowbed.settings import Settings
    from flowbed.storage import Store
    from flowbed.wiring.models import Embedders


def keeping(model: Cached) -> Callable[[Sequence[str], NDArray[np.float32]], Awaitable[None]]:
    """Return what keeps vectors of documents' texts in a model's cache."""

    async def keep(texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        await model.keep(texts, Embedded(vectors=vectors), purpose="document")

    return keep


def chroma_deltas(
    config: Settings, store: Store, folder: Path
) -> Callable[[str, str, pa.Table], Awaitable[None]] | None:
    """Return what writes deltas in Chroma's form too, where the settings ask for it."""
    if config.delta_format == "arrow":
        return None

    async def write(collection: str, run: str, rows: pa.Table) -> None:
        from flowbed.publish.chroma.delta_files import ChromaDeltas  # loads numpy and pyarrow

        packed = config.delta_format == "chroma"
        with scratch(folder) as place:
            await ChromaDeltas(store=store, scratch=place, packed=packed).write(collection, run, rows)

    return write


def run_context(
    config: Settings,
    *,
    folder: Path,
    store: Store,
    ledger: Ledger,
    datasets: Datasets,
    embedders: Embedders,
    budget: Budget | None = None,
) -> RunContext:
    """Join opened parts into the context of one piece of work, under a new worker's name; opens no model or index.

    `folder` is the project's.

    Raises:
        Misconfigured: a variable about commits is not of its form.
    """
    rules = commit_rules(config)
    return RunContext(
        store=store,
        ledger=ledger,
        datasets=datasets,
        embedder=embedders.cached,
        batch_api=embedders.jobs,
        new_id=lambda: secrets.token_hex(12),
        clock=process.now,
        monotonic=time.monotonic,
        dead=process.dead,
        worker=process.worker(),
        concurrency=config.concurrency,
        sources=frozenset(config.sources),
        collections=Collections(store),
        compress_batches=config.batch_compression == "zstd",
        retention=Retention(versions=config.keep_versions, days=config.keep_days),
        full_text=config.full_text,
        commit_deltas=rules.deltas,
        lease=LeaseTimes(seconds=rules.lease_seconds, heartbeat=rules.heartbeat_seconds),
        also_write=chroma_deltas(config, store, folder),
        budget=budget,
    )
