"""Explains what became of a message, an issue or a note, by its link."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flowbed.errors import NotFound
from flowbed.index.forgotten import read_blocked
from flowbed.lanes.batch_files import read_chunk_texts
from flowbed.maintenance.inspect import reasons, withheld_deletions
from flowbed.pipeline.changes import RELEASING
from flowbed.sources import Linking

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowbed.lanes.contexts import Context
    from flowbed.ledger import ChunkRow
    from flowbed.maintenance.inspect import Reason
    from flowbed.pipeline import ConfiguredSource
    from flowbed.records import Linked

# The fields of a chunk's metadata with the ids of its messages or notes, separated by spaces.
ITEMS = ("messages", "notes", "note")


async def why_link(context: Context, link: str, feeds: Mapping[str, ConfiguredSource]) -> list[Reason]:
    """Explain the state of the chunks that hold what a link points to.

    Raises:
        NotFound: no source has it; the message says why, for each source that the link may be of.
    """
    progress = await context.ledger.documents.progress(tuple(feeds))
    found: list[Reason] = []
    absent: list[str] = []
    for name, feed in feeds.items():
        if not isinstance(feed.source, Linking):
            continue
        # A source of files may read all of them.
        position = _position(progress[name].cursor.value)
        target = await asyncio.to_thread(feed.source.linked, link, position)
        if target is None:
            continue
        rows = await context.ledger.chunks.of(name, target.documents) if target.documents else []
        holding = await _holding(context, rows, target)
        if holding:
            found += await _explained(context, name, holding)
        else:
            absent.append(f"source {name}: {await _missing(context, name, target, rows)}")
    if not found:
        kinds = "; ".join(absent) or "no source of this project has links of that kind"
        raise NotFound(f"{link} is not in the index: {kinds}")
    return found


def _position(cursor: str) -> str:
    """Return how far a source was read, as the source writes it."""
    return "" if cursor.startswith(RELEASING) else cursor.partition(":")[2]


async def _holding(context: Context, rows: list[ChunkRow], target: Linked) -> list[ChunkRow]:
    """Return the rows that hold what was linked; all of those that may, where a batch file is gone."""
    alive = [row for row in rows if not row.deleted]
    if not target.item or not alive:
        # What was deleted has no text any more: its document says what became of it.
        return alive or (rows if not target.item else [])
    texts, lost = await read_chunk_texts(alive, store=context.store, ledger=context.ledger)
    return [each.row for each in texts if target.item in _items(each.metadata)] or [each.row for each in lost]


def _items(metadata: Mapping[str, Any]) -> list[str]:
    return " ".join(str(metadata.get(name, "")) for name in ITEMS).split()


async def _explained(context: Context, source: str, rows: list[ChunkRow]) -> list[Reason]:
    found = await reasons(context, rows)
    withheld = (await withheld_deletions(context)).get(source)
    if not withheld:
        return found
    doubt = f"; it may be gone from the source, whose deletions are withheld: {withheld}"
    return [replace(each, verdict=each.verdict + doubt) for each in found]


async def _missing(context: Context, source: str, target: Linked, rows: list[ChunkRow]) -> str:
    """Say why no chunk of a source holds what was linked."""
    blocked = await read_blocked(context.store)
    if blocked and any(blocked.document(source, each) for each in target.documents):
        return "its document was forgotten (`flowbed forget`) and does not return"
    async for letters in context.ledger.dead_letters.pages():
        for letter in letters:
            if letter.owner == source and letter.subject in target.documents:
                return f"{letter.subject} is a dead letter: {letter.reason}"
    if rows and all(row.deleted for row in rows):
        names = ", ".join(sorted({row.document for row in rows}))
        return f"{names} was deleted from the index, since the source no longer has it"
    known = await context.ledger.documents.get(source, target.documents) if target.documents else {}
    if known and not rows and not target.item:
        return f"{', '.join(known)} contains no text"
    return target.absent or f"none of {', '.join(target.documents)} has it"
