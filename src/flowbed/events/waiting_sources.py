"""Which sources may have chunks that wait, without loading what embeds them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.lanes.claims import WAITING
from flowbed.records.external import external_source, is_external
from flowbed.records.precomputed import is_precomputed
from flowbed.records.written import is_documents

if TYPE_CHECKING:
    from flowbed.lanes.contexts import Context


async def sources_to_embed(context: Context) -> set[str]:
    """Return the sources that may have waiting chunks: those configured, removed ones, and what others wrote.

    Precomputed rows are not among them: they need no model. Documents that were written one by one are embedded by
    their writer, which counts them against its quota.
    """
    names = {*context.sources, *map(external_source, context.sources)}
    async for page in context.ledger.chunks.batches(WAITING, now=context.clock(), sources=()):
        rows = await context.ledger.batches.get([batch for batch in page if batch])
        own = {row.source for row in rows.values()}
        names |= {name for name in own if not (is_precomputed(name) or is_documents(name))}
    # A deletion is in no batch file.
    return names.union(filter(is_external, await context.store.folders("")))
