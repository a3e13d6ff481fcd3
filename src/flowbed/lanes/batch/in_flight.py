"""Texts in flight: a chunk whose text a live submission already carries waits for it, on either lane."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flowbed.errors import NotFound
from flowbed.lanes.batch.input import texts_key
from flowbed.records import Status

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from flowbed.lanes.contexts import Context, ModelContext
    from flowbed.ledger import ChunkRow, Ledger, SubmissionRow
    from flowbed.records import Space
    from flowbed.storage import Store

HASH = 32  # bytes of a text_hash
KNOWN = 16  # bytes of it that are kept in memory: enough that no two texts of one ledger share them


async def live_submissions(ledger: Ledger) -> list[SubmissionRow]:
    """Read the live submissions of every model, oldest first."""
    return [row async for page in ledger.submissions.pages(live=True) for row in page]


class InFlightTexts:
    """The texts of all live submissions of one space: about 110 bytes each, so 110 MB for a million texts."""

    def __init__(self, store: Store, ledger: Ledger, space: Space) -> None:
        """Start empty; `refresh` or `keep` reads the submissions."""
        self._store, self._ledger = store, ledger
        self._space = space.to_json()
        self._owners: dict[bytes, str] = {}
        self._names: set[str] = set()

    @property
    def names(self) -> Collection[str]:
        """The ids of the live submissions, as of the last `refresh`."""
        return self._names

    async def refresh(self) -> None:
        """Read the submissions recorded since, and forget those that have ended."""
        await self.keep([row.id for row in await live_submissions(self._ledger) if row.space == self._space])

    async def keep(self, live: Sequence[str]) -> None:
        """Make `live` the submissions that are known."""
        if self._names - set(live):  # a text of one that ended may also be carried by another
            self._names, self._owners = set(), {}
        for name in live:
            if name not in self._names:
                for key in await self._read(name):
                    self._owners.setdefault(key, name)
                self._names.add(name)

    def find(self, hashes: Collection[str]) -> Mapping[str, str]:
        """Return the submission that carries each of the texts; those that none carries are absent."""
        if not self._owners:
            return {}
        found = ((name, self._owners.get(bytes.fromhex(name[: 2 * KNOWN]))) for name in hashes)
        return {name: owner for name, owner in found if owner is not None}

    async def _read(self, submission: str) -> list[bytes]:
        try:
            body = (await self._store.get(texts_key(submission))).body
        except NotFound:
            # Another version may have written it without its texts. The ledger still says which chunks it carries.
            return []
        return [body[start : start + KNOWN] for start in range(0, len(body), HASH)]


class InFlight:
    """The texts that are on their way to a provider, looked up for one run."""

    def __init__(self, context: ModelContext) -> None:
        """Read nothing yet."""
        self._context = context
        self._texts: InFlightTexts | None = None

    async def bind_known(self, rows: Sequence[ChunkRow], *, mine: Collection[str] = ("",)) -> list[ChunkRow]:
        """Bind claimed chunks to the live submissions that carry their texts, and return the other chunks.

        A text that another finder has gathered waits: its submission is not recorded yet, and may never be. `mine` are
        the submissions that the caller is gathering.
        """
        context = self._context
        hashes = {row.text_hash for row in rows if not row.deleted}
        # One snapshot: a submission is either gathered in it or live, even if it is being recorded right now.
        flight = await context.ledger.chunks.in_flight(hashes, besides=mine)
        gathered = [row for row in rows if not row.deleted and row.text_hash in flight.gathered]
        if gathered:
            # The run has claimed their batch to its end, so it meets them at most once more.
            await context.ledger.chunks.give_back(gathered, worker=context.worker)
            rows = [row for row in rows if row.deleted or row.text_hash not in flight.gathered]
        if not flight.live:
            return list(rows)
        space = (await asyncio.to_thread(context.embedder)).space
        if self._texts is None:
            self._texts = InFlightTexts(context.store, context.ledger, space)
        await self._texts.keep([name for name, its in flight.live if its == space.to_json()])
        found = self._texts.find({row.text_hash for row in rows if not row.deleted})
        if found:
            await _bind(rows, found, context)
        waiting = await self._waiting_documents([row for row in rows if row.deleted])
        return [
            row
            for row in rows
            if ((row.source, row.document) not in waiting if row.deleted else row.text_hash not in found)
        ]

    async def _waiting_documents(self, deletions: Sequence[ChunkRow]) -> set[tuple[str, str]]:
        """Return the documents whose new chunks are at a provider: their old chunks stay until the new ones arrive.

        Their deletions stay claimed until the run ends, so that the run does not meet them again.
        """
        if self._texts is None or not self._texts.names:
            return set()
        documents: dict[str, set[str]] = {}
        for row in deletions:
            documents.setdefault(row.source, set()).add(row.document)
        waiting: set[tuple[str, str]] = set()
        for source, names in documents.items():
            for row in await self._context.ledger.chunks.of(source, names):
                if row.submission in self._texts.names and row.status is Status.PENDING and not row.run:
                    waiting.add((source, row.document))
        return waiting


async def _bind(rows: Sequence[ChunkRow], submissions: Mapping[str, str], context: Context) -> None:
    """Bind claimed chunks to the live submissions that carry their texts, given by text_hash."""
    by_submission: dict[str, list[ChunkRow]] = {}
    for row in rows:
        if not row.deleted and row.text_hash in submissions:
            by_submission.setdefault(submissions[row.text_hash], []).append(row)
    for submission, some in sorted(by_submission.items()):
        await context.ledger.chunks.bind(some, worker=context.worker, submission=submission)
        # A submission that has just ended takes nothing: the chunks wait again when this worker releases them.
        await context.ledger.chunks.hand_over(submission, worker=context.worker)
