"""What an operator looks at and does: failures, submissions, spending, keys and rollbacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured, Rejected
from flowbed.ledger.rows import day_of
from flowbed.services.keys import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from flowbed.events.replay import Letter, Replayed
    from flowbed.ledger import JobRow, KeyRow, Rollback, Spent, SubmissionRow
    from flowbed.maintenance.checklist import Checklist
    from flowbed.records.serving import Serving, TierLimits
    from flowbed.services.events import EventService
    from flowbed.services.keys import KeyService
    from flowbed.services.project import Project

DAY_US = 86_400_000_000
DAYS = 30  # of spending that are shown one by one
ROWS = 50  # of a listing: the most expensive sources, the newest submissions


@dataclass(frozen=True, kw_only=True)
class Spending:
    """What was planned and billed: for each of the last days, and ever by lane, source and collection."""

    days: Sequence[Spent]
    lanes: Sequence[Spent]
    sources: Sequence[Spent]
    collections: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class KeyUse:
    """A key, the limits of its tier (None if the settings lack it), and the tokens that it used today."""

    key: KeyRow
    limits: TierLimits | None
    used: int


class OperatingService:
    """The operator's view of one project; callers need the admin scope."""

    def __init__(self, bed: Project, serving: Serving, events: EventService, keys: KeyService) -> None:
        """Look at `bed`; `events` embeds what is tried again."""
        self._bed, self._serving, self._events, self._keys = bed, serving, events, keys

    async def checklist(self) -> Checklist:
        """Walk the chain from sources to snapshots."""
        return await self._bed.views.checklist()

    async def letters(self) -> list[Letter]:
        """List the dead letters, oldest first."""
        return await self._bed.views.dead_letters()

    async def retry(self, subjects: Collection[str]) -> Replayed:
        """Queue again what failed, and embed it in the background.

        Raises:
            NotFound: there is no such dead letter.
        """
        return await self._events.retry(subjects)

    async def submissions(self) -> tuple[list[SubmissionRow], list[SubmissionRow]]:
        """Return the live submissions, and the last that ended, newest first."""
        live = await self._bed.views.submissions(live=True)
        ended = await self._bed.views.submissions(live=False)
        newest = sorted(ended, key=lambda each: each.ended, reverse=True)
        return live, newest[:ROWS]

    async def cancel(self, submission: str) -> None:
        """Ask for a submission to be cancelled.

        Raises:
            NotFound: no live submission has that id.
        """
        await self._bed.views.cancel_submission(submission)

    async def jobs(self) -> list[JobRow]:
        """List the batches of all keys that have not ended, oldest first."""
        return [row async for page in self._bed.ledger.jobs.pages() for row in page]

    async def spending(self) -> Spending:
        """Sum what was planned and billed."""
        views = self._bed.views
        return Spending(
            days=sorted(await views.spending("day", limit=DAYS + 1, days=DAYS), key=lambda each: each.name),
            lanes=await views.spending("lane", limit=ROWS),
            sources=await views.spending("source", limit=ROWS),
            collections=await views.spending_by_collection(),
        )

    async def keys(self) -> list[KeyUse]:
        """List the keys with what they used today."""
        rows = await self._keys.all()
        used = await self._bed.ledger.quotas.used(day_of(self._bed.clock()), [row.id for row in rows])
        return [
            KeyUse(key=row, limits=self._serving.tiers.get(row.tier), used=used.get(row.id, 0))
            for row in rows
        ]

    @property
    def tiers(self) -> list[str]:
        """The tiers that a key can have."""
        return sorted({DEFAULT, *self._serving.tiers})

    async def create(
        self, name: str, *, tier: str, models: Collection[str], admin: bool
    ) -> tuple[KeyRow, str]:
        """Create a key, and return it with its secret, which is not stored.

        Raises:
            Rejected: the name is blank, or the settings lack the tier or a model.
        """
        try:
            return await self._keys.create(
                name, secret=self._bed.secret, tier=tier, models=models, admin=admin
            )
        except Misconfigured as error:
            raise Rejected(str(error)) from error

    async def revoke(self, key: str) -> KeyRow:
        """Revoke a key for good.

        Raises:
            NotFound: no key has that id.
        """
        return await self._keys.revoke(key)

    async def rollback(self, collection: str, version: int) -> Rollback:
        """Restore an older version of a collection.

        Raises:
            NotFound: there is no such collection or version.
        """
        return await self._bed.views.rollback(collection, version)
