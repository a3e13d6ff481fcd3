"""The runs: a commit, a refusal and a rollback are each one write to the run, which its chunks look at."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from flowbed.ledger import RunRow
from flowbed.ledger.dynamodb.chunks.claims import changed, is_held
from flowbed.ledger.dynamodb.chunks.items import run_key, run_partition
from flowbed.ledger.dynamodb.chunks.rows import COMMITTED, REFUSED, REVERTED
from flowbed.ledger.items.rollbacks import see
from flowbed.ledger.items.rows import item_of, row_of
from flowbed.ledger.items.table import (
    ABSENT,
    Check,
    ConditionFailed,
    Put,
    Unanswered,
    all_of,
    read_all,
    until_answered,
    update,
)
from flowbed.ledger.text import escaped
from flowbed.records import Status

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from flowbed.ledger import DeadLetters
    from flowbed.ledger.dynamodb.chunks.parts import Parts
    from flowbed.ledger.dynamodb.chunks.rows import Stored
    from flowbed.ledger.items.table import Item

PENDING = "pending"
_STATES = (PENDING, COMMITTED, REFUSED, REVERTED)
# Batches that are counted again at once: some 16,000 chunks.
_TOGETHER = 8


class DynamoRuns:
    """`Runs` in a table of DynamoDB.

    Chunks name the run they are in. Before chunks are put into a run that has ended, it is made pending, so that none
    is in a run that ended without it.
    """

    def __init__(self, parts: Parts, letters: DeadLetters) -> None:
        """Take the parts of a ledger, and the dead letters that a run settles."""
        self._parts, self._letters = parts, letters
        self._table = parts.table

    async def record(self, run: RunRow, chunks: Sequence[tuple[str, int]], *, worker: str) -> None:
        """Record a delta in the store, and put the chunks (id, version) that `worker` has claimed into its run."""
        await self._parts.documents.apply()
        place = run_key(run.id)
        while await self._table.get(place) is None:
            try:
                await self._table.write(Put(place, item_of(run), expected=ABSENT))
            except (ConditionFailed, Unanswered):
                continue
        index = {"record": "run", "id": run.id}
        await until_answered(self._table, Put((f"runs#{run.collection}", run.id), index, expected=None))
        versions = dict(chunks)
        stored = await self._parts.items.read((run.collection, chunk) for chunk in versions)
        held = [each for each in stored if is_held(each, worker, versions[each.row.id])]
        if held:
            await self._take(run, held, worker)
        if chunks:
            await self._letters.remove("chunk", owner=run.collection, subjects=list(versions))

    async def pending(self, collection: str, *, limit: int) -> list[RunRow]:
        """Return the oldest pending runs of a collection."""
        listed = await all_of(self._table.look_up, "runs_by_state", PENDING)
        return [row_of(RunRow, item) for item in listed if item["collection"] == collection][:limit]

    async def collections(self) -> list[str]:
        """Return the collections that have a pending run."""
        listed = await all_of(self._table.look_up, "runs_by_state", PENDING)
        return sorted({item["collection"] for item in listed})

    async def commit(self, runs: Collection[str], *, version: int, onto: int = 0) -> None:
        """Mark runs committed in `version` of the index, and with them their PENDING or REVERTED chunks SUCCESS."""
        named = sorted(set(runs))
        for run in named:
            while not await self._commit(run, version):
                pass
        await self.count(named)
        if onto:
            rows = [await self.get(run) for run in named]
            for collection in {row.collection for row in rows if row is not None}:
                await see(self._table, collection, version, known=onto)

    async def reverted(self, collection: str) -> list[str]:
        """Return the ids of the reverted runs of a collection."""
        return [item["id"] for item in await self.all_of(collection) if item["state"] == REVERTED]

    async def release(self, collection: str) -> int:
        """Make the reverted runs of a collection pending, and with them their REVERTED chunks PENDING."""
        back = await self.reverted(collection)
        for run in back:
            await update(
                self._table,
                run_key(run),
                lambda item: {"state": PENDING} if item["state"] == REVERTED else None,
            )
        await self.count(back)
        return len(back)

    async def refuse(self, run: str, *, reason: str) -> None:
        """Mark a pending run refused, and with it its PENDING chunks FAILED (rejected), for a reason."""
        refused = {"state": REFUSED, "error": escaped(reason)}
        await update(self._table, run_key(run), lambda item: refused if item["state"] == PENDING else None)
        await self.count([run])

    async def get(self, run: str) -> RunRow | None:
        """Return one run, or None."""
        item = await self._table.get(run_key(run))
        return row_of(RunRow, item) if item else None

    async def recent(self, *, limit: int) -> list[RunRow]:
        """Return the newest runs, newest first."""
        listed = [
            item
            for state in _STATES
            for item in await self._table.newest("runs_by_state", state, limit=limit)
        ]
        listed.sort(key=lambda item: (item["created"], item["id"]), reverse=True)
        return [row_of(RunRow, item) for item in listed[:limit]]

    async def all_of(self, collection: str) -> list[Item]:
        """Return every run of a collection."""
        names = [item["id"] for item in await all_of(self._table.query, f"runs#{collection}")]
        return await read_all(self._table, map(run_key, names))

    async def revert(self, run: str) -> int:
        """Revert a run, and with it its SUCCESS chunks; return how many chunks."""
        chunks = [each for each in await self._parts.items.of_run(run) if each.row.status is Status.SUCCESS]
        # Before as well as after: a batch that is not listed would be lost with this process.
        await self._parts.tallies.open({each.home: (0, {each.row.source}) for each in chunks})
        await update(self._table, run_key(run), lambda _: {"state": REVERTED})
        await self.count([run])
        return len(chunks)

    async def count(self, runs: Collection[str]) -> None:
        """Count the batches of some runs again, whose chunks have another status now."""
        homes: dict[str, None] = {}
        for run in runs:
            homes |= {home: None for home, _ in await self._parts.items.named(run_partition(run))}
        room = asyncio.Semaphore(_TOGETHER)

        async def one(home: str) -> None:
            async with room:
                await self._parts.tallies.recount(home)

        await asyncio.gather(*map(one, homes))

    async def _take(self, run: RunRow, held: Sequence[Stored], worker: str) -> None:
        versions = {each.key: each.row.version for each in held}
        again: dict[str, Any] = {"state": PENDING, "error": "", "key": run.key, "sha256": run.sha256}
        await update(self._table, run_key(run.id), lambda item: again if item["state"] != PENDING else None)
        names = [(each.home, each.row.id) for each in held]
        await self._parts.items.name(run_partition(run.id), names)

        def put(one: Stored) -> Stored | None:
            if not is_held(one, worker, versions[one.key]):
                return None
            return changed(one, run=run.id, until=0)

        await self._parts.tallies.add(await self._parts.items.change(held, put))

    async def _commit(self, run: str, version: int) -> bool:
        item = await self._table.get(run_key(run))
        if item is None or item["state"] == COMMITTED:
            return True
        history = (f"history#{item['collection']}", "-")
        known = await self._table.get(history)
        rollbacks = await all_of(self._table.query, f"rollbacks#{item['collection']}")
        if any(each["target"] < version < each["version"] for each in rollbacks):
            return True
        committed = {**item, "state": COMMITTED, "version": version, "error": ""}
        try:
            await self._table.transact(
                [
                    Put(run_key(run), committed, expected=item["stamp"]),
                    Check(history, expected=known["stamp"] if known else ABSENT),
                ]
            )
        except (ConditionFailed, Unanswered):
            return False
        return True
