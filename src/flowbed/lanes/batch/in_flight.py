"""Carrying: a chunk whose text a submission carries already waits for that, whichever lane it would have gone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flowbed.lanes.batch.carried_texts import CarriedTexts
from flowbed.records import Status

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.lanes.contexts import Context, ModelContext
    from flowbed.ledger import ChunkRow


class Carrying:
    """What live submissions carry, looked up for one run."""

    def __init__(self, context: ModelContext) -> None:
        """Know of nothing yet."""
        self._context = context
        self._texts: CarriedTexts | None = None

    async def rest(self, rows: Sequence[ChunkRow]) -> list[ChunkRow]:
        """Leave the claimed chunks that a live submission carries the texts of to it, and return the others.

        What a finder has taken in is left for later: its submission is not recorded yet, and may never be.
        """
        context = self._context
        # In this order: a submission that is recorded between the two is met by both, and else by neither.
        rows = await self._not_gathered(rows)
        if self._texts is None:
            space = (await asyncio.to_thread(context.embedder)).space
            self._texts = CarriedTexts(context.store, context.ledger, space)
        await self._texts.refresh()
        found = self._texts.find({row.text_hash for row in rows if not row.deleted})
        if found:
            await leave(rows, found, context)
        held = await self._held_back([row for row in rows if row.deleted])
        return [
            row
            for row in rows
            if ((row.source, row.document) not in held if row.deleted else row.text_hash not in found)
        ]

    async def _not_gathered(self, rows: Sequence[ChunkRow]) -> Sequence[ChunkRow]:
        """Give back what is in a submission in the making; chunks claimed for one were asked about by its finder.

        The run that gives them back has claimed their batch to its end, and meets them no more, or where the batch was
        a fresh one, once more.
        """
        chunks, worker = self._context.ledger.chunks, self._context.worker
        hashes = {row.text_hash for row in rows if not row.deleted and not row.submission}
        gathered = await chunks.gathered(hashes, besides={""}) if hashes else set()
        left = [row for row in rows if not row.deleted and row.text_hash in gathered]
        if not left:
            return rows
        await chunks.give_back(left, worker=worker)
        return [row for row in rows if row.deleted or row.text_hash not in gathered]

    async def _held_back(self, deletions: Sequence[ChunkRow]) -> set[tuple[str, str]]:
        """Name the documents whose new chunks are at a provider: what they no longer have stays until these are here.

        Their deletions stay claimed until the run ends, so that it does not meet them again and again.
        """
        if self._texts is None or not self._texts.names:
            return set()
        documents: dict[str, set[str]] = {}
        for row in deletions:
            documents.setdefault(row.source, set()).add(row.document)
        held: set[tuple[str, str]] = set()
        for source, names in documents.items():
            for row in await self._context.ledger.chunks.of(source, names):
                if row.submission in self._texts.names and row.status is Status.PENDING and not row.run:
                    held.add((source, row.document))
        return held


async def leave(rows: Sequence[ChunkRow], carried: Mapping[str, str], context: Context) -> None:
    """Leave claimed chunks to the live submissions that carry their texts: `carried` is by text_hash."""
    waiting: dict[str, list[ChunkRow]] = {}
    for row in rows:
        if not row.deleted and row.text_hash in carried:
            waiting.setdefault(carried[row.text_hash], []).append(row)
    for submission, some in sorted(waiting.items()):
        await context.ledger.chunks.bind(some, worker=context.worker, submission=submission)
        # One that has ended meanwhile takes nothing: then they wait again when this worker lets go of them.
        await context.ledger.chunks.hand_over(submission, worker=context.worker)
