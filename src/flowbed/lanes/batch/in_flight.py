"""Carrying: a chunk whose text a submission carries already waits for that, whichever lane it would have gone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flowbed.lanes.batch.carried_texts import CarriedTexts
from flowbed.records import Status

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from flowbed.lanes.contexts import Context, ModelContext
    from flowbed.ledger import ChunkRow


class Carrying:
    """The texts that are on their way to a provider, looked up for one run."""

    def __init__(self, context: ModelContext) -> None:
        """Read nothing yet."""
        self._context = context
        self._texts: CarriedTexts | None = None

    async def rest(self, rows: Sequence[ChunkRow], *, mine: Collection[str] = ("",)) -> list[ChunkRow]:
        """Leave the claimed chunks to the live submissions that carry their texts, and return the others.

        A text that another finder has gathered waits: its submission is not recorded yet, and may never be. `mine` are
        the submissions that the caller is gathering.
        """
        context = self._context
        hashes = {row.text_hash for row in rows if not row.deleted}
        # One snapshot: a submission is either gathered in it or live, even if it is being recorded right now.
        flight = await context.ledger.chunks.in_flight(hashes, besides=mine)
        gathered = [row for row in rows if not row.deleted and row.text_hash in flight.gathered]
        if gathered:
            # A run has claimed their batch to its end, and meets them at most once more.
            await context.ledger.chunks.give_back(gathered, worker=context.worker)
            rows = [row for row in rows if row.deleted or row.text_hash not in flight.gathered]
        if not flight.live:
            return list(rows)
        space = (await asyncio.to_thread(context.embedder)).space
        if self._texts is None:
            self._texts = CarriedTexts(context.store, context.ledger, space)
        await self._texts.keep([name for name, its in flight.live if its == space.to_json()])
        found = self._texts.find({row.text_hash for row in rows if not row.deleted})
        if found:
            await leave(rows, found, context)
        held = await self._held_back([row for row in rows if row.deleted])
        return [
            row
            for row in rows
            if ((row.source, row.document) not in held if row.deleted else row.text_hash not in found)
        ]

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
