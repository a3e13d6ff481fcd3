"""Checks of the index: does it agree with the ledger, and is its vector index up to date?"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flowbed.embedding.reading import MULTILINGUAL_EXTRA, advice
from flowbed.errors import Misconfigured
from flowbed.index.compaction import INDEX_ROWS, UNINDEXED, outgrown
from flowbed.index.search.sample import sample_texts
from flowbed.index.versions import state
from flowbed.maintenance.compare import known_collections
from flowbed.maintenance.doctor.findings import Finding, check
from flowbed.maintenance.inconsistencies import UNREADABLE
from flowbed.maintenance.lost_characters import lost_share
from flowbed.maintenance.verify import find_faults
from flowbed.records import Status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flowbed.lanes.contexts import IndexContext, RunContext
    from flowbed.maintenance.inconsistencies import Fault

# Collections of up to this many chunks are compared row by row, in about a second; of larger ones only ids are read
# and rows are counted.
COMPARED = 50_000
# Texts that are read as the model reads them, in a fifth of a second.
SAMPLED = 1_000


@check("index")
async def _index(context: IndexContext) -> AsyncIterator[Finding]:
    counts = await context.ledger.chunks.counts()
    for name in await known_collections(context):
        chunks = sum(number for (collection, _), number in counts.items() if collection == name)
        for fault in await find_faults(context, name, rows=chunks <= COMPARED):
            yield Finding(
                severity="error",
                subject=name,
                what=f"{fault.what}: {fault.examples[0]}",
                fix=repair_command(name, fault),
            )


def repair_command(collection: str, fault: Fault) -> str:
    """Return the command that repairs a fault of a collection."""
    # A repair drops an unreadable index, which only --allow-deletes permits.
    options = "--repair --allow-deletes" if fault.kind == UNREADABLE else "--repair"
    return f"flowbed verify {collection} {options}; flowbed run"


@check("counts")
async def _counts(context: IndexContext) -> AsyncIterator[Finding]:
    """Count the rows of large collections: an index has a row for every indexed chunk, and at most one for each."""
    counts = await context.ledger.chunks.counts()
    for live in await context.collections.all():
        chunks = {status: n for (collection, status), n in counts.items() if collection == live.collection}
        if sum(chunks.values()) <= COMPARED:
            continue
        rows = (await state(live, datasets=context.datasets)).rows
        indexed = chunks.get(Status.SUCCESS, 0)
        if not indexed <= rows <= sum(chunks.values()):
            yield Finding(
                severity="error",
                subject=live.collection,
                what=f"the index has {rows:,} live rows, but the ledger has {indexed:,} indexed chunks",
                fix=f"flowbed verify {live.collection} --repair; flowbed run",
            )


@check("characters")
async def _characters(context: RunContext) -> AsyncIterator[Finding]:
    """Read a sample of each collection as the model does: what it does not know cannot be found."""
    lives = await context.collections.all()
    if not lives:
        return
    try:
        embedder = await asyncio.to_thread(context.embedder)
    except Misconfigured:
        return  # another check says so, or the next run
    for live in lives:
        if live.space.fingerprint != embedder.space.fingerprint:
            continue
        texts = await sample_texts(live, datasets=context.datasets, most=SAMPLED)
        share = await asyncio.to_thread(lost_share, texts, embedder)
        if todo := advice(share, live.space.model):
            yield Finding(
                severity="warning",
                subject=live.collection,
                what=f"{share:.0%} of the characters are unknown to {live.space.model}, and texts are found by the"
                f" others only: {todo}",
                fix=f'pip install "{MULTILINGUAL_EXTRA}"',
            )


@check("vector-index")
async def _vector_index(context: IndexContext) -> AsyncIterator[Finding]:
    for live in await context.collections.all():
        now = await state(live, datasets=context.datasets)
        if now.rows >= INDEX_ROWS and now.unindexed_rows > 2 * UNINDEXED:
            yield Finding(
                severity="warning",
                subject=live.collection,
                what=f"{now.unindexed_rows:,} of {now.rows:,} rows are not in the vector index: every search scans"
                " them",
                fix=f"flowbed compact {live.collection}",
            )
        if (index := await outgrown(live, datasets=context.datasets)) is not None:
            yield Finding(
                severity="warning",
                subject=live.collection,
                what=f"the vector index was built for {index.settled:,} of the {index.rows:,} rows, and one of its"
                f" {index.partitions:,} partitions holds {index.largest:.0%} of them: searches may miss some",
                fix=f"flowbed compact {live.collection}",
            )
