"""Finds how much of the texts in the index their model does not know."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from flowbed.embedding.reading import advice, characters
from flowbed.errors import Error
from flowbed.lanes.batch_files import read_chunk_texts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flowbed.embedding.cache.cached import Cached
    from flowbed.lanes.contexts import ModelContext
    from flowbed.maintenance.inspect import Reason


def lost_share(texts: Iterable[str], embedder: Cached) -> float:
    """Return the share of the characters of `texts` that the model does not know, 0 to 1."""
    lost = total = 0
    for text in texts:
        lost += embedder.read(text).lost
        total += characters(text)
    return lost / max(1, total)


async def with_lost_characters(context: ModelContext, found: Sequence[Reason]) -> list[Reason]:
    """Add the share of lost characters to the reasons whose texts can be read."""
    rows = [each.chunk for each in found if not each.chunk.deleted]
    try:
        embedder = await asyncio.to_thread(context.embedder)
    except Error:
        return list(found)  # the state of a chunk does not depend on the model; the doctor says what it lacks
    texts, _ = await read_chunk_texts(rows, store=context.store, ledger=context.ledger)
    shares = {
        (each.row.collection, each.row.id): await asyncio.to_thread(lost_share, [each.sent], embedder)
        for each in texts
    }
    explained = []
    for each in found:
        lost = shares.get((each.chunk.collection, each.chunk.id))
        about = advice(lost, embedder.space.model) if lost else ""
        explained.append(replace(each, lost=lost, lost_advice=about))
    return explained
