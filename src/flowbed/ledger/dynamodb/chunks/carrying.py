"""Submissions and the chunks that they carry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbed.ledger import InFlight
from flowbed.ledger.dynamodb.chunks.items import handed_key, rows_of
from flowbed.ledger.dynamodb.chunks.texts import Texts
from flowbed.ledger.dynamodb.table import key_of
from flowbed.ledger.items.table import groups
from flowbed.records import Status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Sequence

    from flowbed.ledger import ChunkRow
    from flowbed.ledger.dynamodb.chunks.parts import Parts
    from flowbed.ledger.dynamodb.chunks.rows import Stored

_PAGE = 1_000
_LEFT: dict[str, Any] = {"worker": "", "until": 0}


def names_partition(submission: str) -> str:
    """Return the partition with the names of a submission's chunks."""
    return f"S#{submission}"


async def enter(
    parts: Parts, submission: str, worker: str, rows: Sequence[ChunkRow]
) -> Callable[[Stored], Stored]:
    """Prepare chunks to enter a submission, and return what to do to each; without a submission nothing.

    Their names and texts are recorded first, so that no chunk is in a submission that does not know it.
    """
    if not submission:
        return lambda one: one
    await parts.items.name(names_partition(submission), [(row.collection, row.id) for row in rows])
    await Texts(parts).gather(rows)
    # What a worker claims after it has left others to the submission is not left to it yet.
    handed = await parts.table.get(handed_key(submission, worker)) is not None
    return lambda one: one._replace(taken=handed)


class Carrying:
    """Which submission carries which chunk, and who writes their results."""

    def __init__(self, parts: Parts) -> None:
        """Use the parts of a ledger."""
        self._parts = parts
        self._texts = Texts(parts)

    async def bind(self, chunks: Sequence[ChunkRow], *, worker: str, submission: str) -> None:
        """Move chunks that `worker` has claimed, at the same version, to another submission."""
        versions = {(row.collection, row.id): row.version for row in chunks}
        stored = [
            each
            for each in await self._parts.items.read(versions)
            if _is_held(each, worker, versions[each.row.collection, each.row.id])
        ]
        enters = await enter(self._parts, submission, worker, rows_of(stored))

        def bound(one: Stored) -> Stored | None:
            held = _is_held(one, worker, versions[one.row.collection, one.row.id])
            return enters(one._replace(row=one.row._replace(submission=submission))) if held else None

        await self._parts.tallies.add(await self._parts.items.change(stored, bound))

    async def hand_over(self, submission: str, *, worker: str) -> int:
        """Leave the chunks that `worker` has claimed to their live submission, without a holder.

        One item says so for all of them, except for those that were taken back from it meanwhile.
        """
        if not await self._parts.submissions.live([submission]):
            return 0
        held = [each for each in await self._carried(submission) if each.row.worker == worker]
        claimed = [each for each in held if not each.taken]
        if claimed:
            await self._parts.table.put_all([key_of(handed_key(submission, worker))])
            await self._parts.tallies.hold(worker, -len(claimed))

        def leave(one: Stored) -> Stored | None:
            still = one.taken and one.row.worker == worker and _is_carried(one, submission)
            return one._replace(taken=False, row=one.row._replace(**_LEFT)) if still else None

        done = await self._parts.items.change([each for each in held if each.taken], leave)
        await self._parts.tallies.add(done)
        return len(claimed) + len(done)

    async def in_flight(self, hashes: Collection[str], *, besides: Collection[str]) -> InFlight:
        """Return in one snapshot the texts that are gathered, and the live submissions."""
        await self._parts.documents.apply()
        gathered = await self._texts.gathered(hashes, besides=besides)
        # Read afterwards: one recorded between the two reads is met by both, and none by neither.
        live = [row async for page in self._parts.submissions.pages(live=True) for row in page]
        return InFlight(gathered, tuple((row.id, row.space) for row in live))

    async def take(self, submission: str, *, worker: str, now: int, until: int, limit: int) -> list[ChunkRow]:
        """Hold up to `limit` free chunks of a live submission for `worker`, so that it can write their results."""
        if not await self._parts.submissions.live([submission]):
            return []

        def free(one: Stored) -> Stored | None:
            nobodys = not one.row.worker or one.row.until < now
            if not nobodys or not _is_carried(one, submission):
                return None
            return one._replace(taken=True, row=one.row._replace(worker=worker, until=until))

        chosen = sorted(
            (each for each in await self._carried(submission) if free(each)),
            key=lambda each: (
                each.row.batch, each.row.collection, each.row.document, each.row.ordinal, each.row.id
            ),
        )[:limit]  # fmt: skip
        await self._parts.holders.begin(worker, {each.home for each in chosen}, len(chosen))
        done = await self._parts.items.change(chosen, free)
        await self._parts.tallies.add(done, holding={worker: -len(chosen)})
        order = {each.key: place for place, each in enumerate(chosen)}
        return rows_of(sorted((each.after for each in done), key=lambda each: order[each.key]))

    async def submitted(self, submission: str) -> AsyncIterator[list[ChunkRow]]:
        """Iterate over the chunks of a submission that are PENDING and in no run, held or not."""
        rows = rows_of(await self._carried(submission))
        for page in groups(sorted(rows, key=lambda row: (row.batch, row.id, row.collection)), _PAGE):
            yield page

    async def let_go(self, submission: str) -> int:
        """Reset the PENDING chunks of a submission that are in no run to NONE."""

        def back(one: Stored) -> Stored | None:
            if not _is_carried(one, submission):
                return None
            return one._replace(row=one.row._replace(**_LEFT, status=Status.NONE, submission=""))

        done = await self._parts.items.change(await self._carried(submission), back)
        await self._parts.tallies.add(done)
        return len(done)

    async def _carried(self, submission: str) -> list[Stored]:
        """Return the chunks of a submission that are PENDING and in no run."""
        await self._parts.documents.apply()
        names = await self._parts.items.named(names_partition(submission))
        return [each for each in await self._parts.items.read(names) if _is_carried(each, submission)]


def _is_carried(one: Stored, submission: str) -> bool:
    row = one.row
    return row.submission == submission and row.status is Status.PENDING and not row.run


def _is_held(one: Stored, worker: str, version: int) -> bool:
    row = one.row
    return row.worker == worker and row.version == version and row.status is Status.PENDING and not row.run
