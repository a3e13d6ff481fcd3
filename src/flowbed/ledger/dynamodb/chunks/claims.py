"""Claims: lists batches with waiting chunks, and gives each chunk to one worker at a time."""

from __future__ import annotations

import asyncio
import zlib
from typing import TYPE_CHECKING, Any

from flowbed.ledger.dynamodb.chunks.carrying import enter
from flowbed.ledger.dynamodb.chunks.items import rows_of
from flowbed.ledger.dynamodb.chunks.rows import DELETIONS, Stored
from flowbed.ledger.items.rows import is_claimable, next_version
from flowbed.ledger.items.table import groups
from flowbed.ledger.text import escaped, is_unstorable
from flowbed.records import Status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence

    from flowbed.ledger import ChunkRow, Failure
    from flowbed.ledger.dynamodb.chunks.items import Changed
    from flowbed.ledger.dynamodb.chunks.parts import Parts
    from flowbed.ledger.dynamodb.chunks.tallies import Marker

# Batches whose chunks are read at once: some 32,000 chunks.
_TOGETHER = 16
# Chunks claimed in one step, and so the most that are tried in vain where several workers claim the same batch.
_CLAIMED_AT_ONCE = 1_000
_WAITING_AGAIN: dict[str, Any] = {
    "status": Status.NONE, "run": "", "submission": "", "failure": "", "error": ""
}  # fmt: skip
_LEFT: dict[str, Any] = {"worker": "", "until": 0}
GIVEN_BACK: dict[str, Any] = {**_LEFT, "status": Status.NONE, "submission": ""}


class Claims:
    """Which worker may embed which chunk."""

    def __init__(self, parts: Parts) -> None:
        """Use the parts of a ledger."""
        self._parts = parts

    async def ready(
        self, batch: str, statuses: Collection[Status], *, now: int, sources: Collection[str]
    ) -> list[ChunkRow]:
        """Return the chunks of a batch that `claim` would return, without claiming them."""
        await self._parts.documents.apply()
        found: list[ChunkRow] = []
        for homes in groups(await self._homes([batch]), _TOGETHER):
            found += rows_of(await self._ready(homes, statuses, now=now, sources=sources))
        return found

    async def batches(
        self, statuses: Collection[Status], *, now: int, sources: Collection[str]
    ) -> AsyncIterator[list[str]]:
        """Iterate over the ids of batches with a claimable chunk, oldest first."""
        await self._parts.documents.apply()
        finished = Status.SUCCESS in statuses
        tallies = self._parts.tallies
        markers = await (tallies.all() if finished else tallies.current())
        if sources:
            markers = [each for each in markers if each.sources.intersection(sources)]
        named = [each for each in markers if not each.home.startswith(DELETIONS)]
        for some in groups(named, _TOGETHER):
            page = [each.home for each in await self._claimable(some, statuses, now=now, sources=sources)]
            if page:
                yield page
        for some in groups([each for each in markers if each.home.startswith(DELETIONS)], _TOGETHER):
            if await self._claimable(some, statuses, now=now, sources=sources):
                yield [""]
                return

    async def claim(
        self,
        batches: Collection[str],
        statuses: Collection[Status],
        *,
        worker: str,
        now: int,
        until: int,
        sources: Collection[str],
        limit: int,
        submission: str = "",
    ) -> list[ChunkRow]:
        """Claim up to `limit` claimable chunks (see `batches`) for `worker` until `until`, each conditionally."""
        await self._parts.documents.apply()

        def claimed(one: Stored) -> Stored:
            failed = one.row.status is Status.FAILED
            return one._replace(
                taken=False,
                row=one.row._replace(
                    status=Status.PENDING,
                    version=next_version(one.row.version, now) if failed else one.row.version,
                    worker=worker,
                    until=until,
                    run="",
                    submission=submission,
                    failure="",
                    error="",
                ),
            )

        won: list[ChunkRow] = []
        for homes in groups(await self._homes(batches), _TOGETHER):
            ready = _begun_at(worker, await self._ready(homes, statuses, now=now, sources=sources))
            while ready and len(won) < limit:
                some = ready[: min(limit - len(won), _CLAIMED_AT_ONCE)]
                done = await self._take(some, claimed, worker, submission)
                won += rows_of(each.after for each in done)
                ready = ready[len(some) :]
                if len(done) < len(some):  # other workers claim the same: leave out what they have by now
                    ready = await self._unchanged(ready)
            if len(won) >= limit:
                break
        return sorted(won, key=lambda row: (row.collection, row.document, row.ordinal, row.id))

    async def give_back(self, chunks: Sequence[ChunkRow], *, worker: str) -> None:
        """Reset chunks that `worker` has claimed, at the same version, to NONE, in no submission."""
        versions = {(row.collection, row.id): row.version for row in chunks}

        def back(one: Stored) -> Stored | None:
            held = is_held(one, worker, versions[one.row.collection, one.row.id])
            return changed(one, **GIVEN_BACK) if held else None

        await self._change(versions, back)

    async def renew(self, worker: str, *, until: int) -> None:
        """Extend every claim of `worker` to `until`."""
        await self._parts.holders.renew(worker, until=until)

    async def workers(self) -> set[str]:
        """Return the workers that have claimed a chunk in no run."""
        await self._parts.documents.apply()
        return await self._parts.holders.all()

    async def release(self, worker: str) -> int:
        """Reset the chunks in no run that `worker` has claimed to NONE."""
        await self._parts.documents.apply()
        holders = self._parts.holders
        held = await holders.held(worker)
        homes = await holders.homes(worker)
        released = 0
        for some in groups(homes, _TOGETHER):
            released += await self._release(worker, some)
        await holders.end(worker, homes, held=held - released)
        return released

    async def fail(self, failures: Sequence[Failure], *, worker: str) -> None:
        """Mark claimed chunks FAILED with their reason, and count one more attempt."""
        reasons = {(failure.collection, failure.id): failure for failure in failures}

        def failed(one: Stored) -> Stored | None:
            failure = reasons[one.row.collection, one.row.id]
            if not is_held(one, worker, failure.version):
                return None
            return changed(
                one,
                status=Status.FAILED,
                attempts=one.row.attempts + 1,
                failure=failure.kind,
                error=escaped(failure.reason),
                worker="",
                until=0,
                submission="",
            )

        await self._change(reasons, failed)

    async def retry(self, subjects: Collection[str], *, now: int) -> int:
        """Reset FAILED chunks to NONE, each at version max(version + 1, now)."""
        await self._parts.documents.apply()
        found: list[Stored] = []
        if subjects:
            for subject in set(subjects):
                if not is_unstorable(subject):
                    found += await self._parts.items.of_id(subject)
                    found += await self._parts.items.of_run(subject)
        else:
            for some in groups(await self._parts.tallies.markers(), _TOGETHER):
                found += await self._chunks([each.home for each in some])

        def again(one: Stored) -> Stored | None:
            failed = one.row.status is Status.FAILED
            return _waiting_again(one, now) if failed else None

        done = await self._parts.items.change({each.key: each for each in found}.values(), again)
        await self._parts.tallies.add(done)
        return len(done)

    async def requeue(self, collection: str, chunk_ids: Collection[str], *, now: int) -> int:
        """Reset SUCCESS chunks to NONE, in no run, each at version max(version + 1, now)."""
        await self._parts.documents.apply()
        stored = await self._parts.items.read((collection, each) for each in chunk_ids)
        # Before as well as after: a batch that is not listed would be lost with this process.
        await self._parts.tallies.open({each.home: (0, {each.row.source}) for each in stored})

        def again(one: Stored) -> Stored | None:
            done = one.row.status is Status.SUCCESS
            return _waiting_again(one, now) if done else None

        done = await self._parts.items.change(stored, again)
        await self._parts.tallies.add(done)
        return len(done)

    async def _homes(self, batches: Iterable[str]) -> list[str]:
        homes: list[str] = []
        for batch in batches:
            if batch:
                homes.append(batch)
            else:
                markers = await self._parts.tallies.markers()
                homes += [each.home for each in markers if each.home.startswith(DELETIONS)]
        return homes

    async def _chunks(self, homes: Collection[str]) -> list[Stored]:
        found = await asyncio.gather(*(self._parts.tallies.chunks(home) for home in homes))
        return [each for some in found for each in some]

    async def _ready(
        self, homes: Collection[str], statuses: Collection[Status], *, now: int, sources: Collection[str]
    ) -> list[Stored]:
        stored = await self._chunks(homes)
        live = await self._parts.submissions.live({each.row.submission for each in stored})
        return [
            each for each in stored if is_claimable(each.row, statuses, now=now, sources=sources, live=live)
        ]

    async def _unchanged(self, stored: Sequence[Stored]) -> list[Stored]:
        marks = {each.key: each.mark for each in stored}
        found = await self._parts.items.read((each.row.collection, each.row.id) for each in stored)
        return [each for each in found if each.mark == marks[each.key]]

    async def _claimable(
        self, markers: Sequence[Marker], statuses: Collection[Status], *, now: int, sources: Collection[str]
    ) -> list[Marker]:
        """Return those of the batches that have a claimable chunk."""
        carried = {tally.decides for each in markers for tally in each.counts if tally.state == "P"}
        live = await self._parts.submissions.live(carried)
        known = {each.home: _is_known(each, statuses, sources, live) for each in markers}
        looked_at = [each for each in markers if known[each.home] is None]
        stored = await self._chunks([each.home for each in looked_at])
        live |= await self._parts.submissions.live({each.row.submission for each in stored})
        for one in stored:
            known[one.home] = known[one.home] or is_claimable(
                one.row, statuses, now=now, sources=sources, live=live
            )
        for each in looked_at:
            if not each.agrees_with(one for one in stored if one.home == each.home):
                await self._parts.tallies.recount(each.home)
        return [each for each in markers if known[each.home]]

    async def _take(
        self,
        stored: Sequence[Stored],
        change: Callable[[Stored], Stored],
        worker: str,
        submission: str,
    ) -> list[Changed]:
        marks = {each.key: each.mark for each in stored}
        homes = {each.home for each in stored}
        await self._parts.holders.begin(worker, homes, len(stored))
        enters = await enter(self._parts, submission, worker, rows_of(stored))

        # Only unchanged rows: since the check, the chunk may have been left to a live submission.
        def unchanged(one: Stored) -> Stored | None:
            return enters(change(one)) if one.mark == marks[one.key] else None

        done = await self._parts.items.change(stored, unchanged)
        await self._parts.tallies.add(done, holding={worker: -len(stored)})
        return done

    async def _release(self, worker: str, homes: Sequence[str]) -> int:
        stored = [each for each in await self._chunks(homes) if each.row.worker == worker]
        live = await self._parts.submissions.live({each.row.submission for each in stored})
        judged = {each.key: each.row.submission for each in stored}

        def back(one: Stored) -> Stored | None:
            if one.row.worker != worker or not is_in_no_run(one) or one.row.submission != judged[one.key]:
                return None  # its worker goes on with it: leave it alone
            return changed(one, **(_LEFT if one.row.submission in live else GIVEN_BACK))

        done = await self._parts.items.change(stored, back)
        await self._parts.tallies.add(done)
        return len(done)

    async def _change(
        self, names: Iterable[tuple[str, str]], change: Callable[[Stored], Stored | None]
    ) -> None:
        await self._parts.tallies.add(
            await self._parts.items.change(await self._parts.items.read(names), change)
        )


def _is_known(
    marker: Marker, statuses: Collection[Status], sources: Collection[str], live: Collection[str]
) -> bool | None:
    """Return whether a batch has a claimable chunk, where its marker says it; None where its chunks have to be read."""
    states = {tally.state for tally, number in marker.counts.items() if number > 0}
    if Status.SUCCESS not in statuses:
        states.discard("S")
    if sources and not marker.sources.issubset(sources):
        return None
    if Status.NONE in statuses and "N" in states:
        return True
    claimed = {tally for tally, number in marker.counts.items() if number > 0 and tally.state == "P"}
    waits = all(tally.decides in live for tally in claimed)
    return False if waits and states <= {"P", "p"} else None


def _begun_at(worker: str, stored: list[Stored]) -> list[Stored]:
    """Return chunks from another place on for each worker, so that several do not try the same ones at once."""
    place = zlib.crc32(worker.encode()) % (len(stored) or 1)
    return [*stored[place:], *stored[:place]]


def changed(one: Stored, **fields: Any) -> Stored:
    """Return a chunk with other fields."""
    return one._replace(row=one.row._replace(**fields))


def is_in_no_run(one: Stored) -> bool:
    """Return whether a chunk is PENDING and in no run: claimed, or left to its submission."""
    return one.row.status is Status.PENDING and not one.row.run


def is_held(one: Stored, worker: str, version: int) -> bool:
    """Return whether a worker has claimed a chunk at this version."""
    return one.row.worker == worker and one.row.version == version and is_in_no_run(one)


def _waiting_again(one: Stored, now: int) -> Stored:
    return changed(one, **_WAITING_AGAIN, version=next_version(one.row.version, now))
