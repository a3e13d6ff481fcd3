"""The runs. Commits and new chunks of a run are conditional on the run's own row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbed.ledger import RunRow
from flowbed.ledger.items.rollbacks import see
from flowbed.ledger.items.rows import chunk_key, item_of, member_key, row_of
from flowbed.ledger.items.table import (
    ABSENT,
    TRANSACTION_ITEMS,
    Check,
    ConditionFailed,
    Put,
    Unanswered,
    all_of,
    groups,
    read_all,
    until_answered,
    update,
)
from flowbed.ledger.text import escaped
from flowbed.records import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from flowbed.ledger import DeadLetters
    from flowbed.ledger.items.table import Item, Key, Operation, Table

# A chunk that enters a run is two items, its row and its name in the run; the run's own row is one more.
_TAKEN_AT_ONCE = (TRANSACTION_ITEMS - 1) // 2
_STATES = ("pending", "committed", "refused", "reverted")


class MemoryRuns:
    """`Runs` in a table.

    `takes` of a run counts the transactions that put chunks into it. A commit or refusal marks the run only if there
    was none in between, so that no chunk is left behind in a finished run.
    """

    def __init__(self, table: Table, letters: DeadLetters) -> None:
        """Take the table, and the dead letters that a run settles."""
        self._table, self._letters = table, letters

    async def record(self, run: RunRow, chunks: Sequence[tuple[str, int]], *, worker: str) -> None:
        """Record a delta in the store, and put the chunks (id, version) that `worker` has claimed into its run."""
        place = _run_key(run.id)
        while await self._table.get(place) is None:
            try:
                await self._table.write(Put(place, item_of(run, takes=0), expected=ABSENT))
            except (ConditionFailed, Unanswered):
                continue
        index = {"record": "run", "id": run.id}
        await until_answered(self._table, Put((f"runs#{run.collection}", run.id), index, expected=None))
        for some in groups(chunks, _TAKEN_AT_ONCE):
            while not await self._take(run, dict(some), worker):
                pass
        if chunks:
            subjects = [chunk for chunk, _ in chunks]
            await self._letters.remove("chunk", owner=run.collection, subjects=subjects)

    async def pending(self, collection: str, *, limit: int) -> list[RunRow]:
        """Return the oldest pending runs of a collection."""
        listed = await all_of(self._table.look_up, "runs_by_state", "pending")
        found: list[RunRow] = []
        for item in listed:
            if item["collection"] == collection and len(found) < limit:
                # A listed run may be finished by now; returning it would keep a committer in an endless loop.
                run = await self.get(item["id"])
                found += [run] if run and run.state == "pending" else []
        return found

    async def collections(self) -> list[str]:
        """Return the collections that have a pending run."""
        listed = await all_of(self._table.look_up, "runs_by_state", "pending")
        return sorted({item["collection"] for item in listed})

    async def commit(self, runs: Collection[str], *, version: int, onto: int = 0) -> None:
        """Mark runs committed in `version` of the index, and their PENDING or REVERTED chunks SUCCESS."""
        for run in sorted(set(runs)):
            while not await self._commit(run, version):
                pass
        if onto:
            rows = [await self.get(run) for run in runs]
            for collection in {row.collection for row in rows if row is not None}:
                await see(self._table, collection, version, known=onto)

    async def reverted(self, collection: str) -> list[str]:
        """Return the ids of the reverted runs of a collection."""
        return [item["id"] for item in await self.all_of(collection) if item["state"] == "reverted"]

    async def release(self, collection: str) -> int:
        """Make the reverted runs of a collection pending, and their REVERTED chunks PENDING."""
        back = await self.reverted(collection)
        for run in back:
            await self.change_chunks(run, {Status.REVERTED}, {"status": Status.PENDING, "until": 0})
            await update(
                self._table,
                _run_key(run),
                lambda item: {"state": "pending"} if item["state"] == "reverted" else None,
            )
        return len(back)

    async def refuse(self, run: str, *, reason: str) -> None:
        """Mark a pending run refused, and its PENDING chunks FAILED (rejected), for a reason."""
        while item := await self._table.get(_run_key(run)):
            for row in await self._chunks(run):
                if row["status"] == Status.PENDING:
                    await update(self._table, row["place"], _refused(run, escaped(reason)))
            if item["state"] != "pending":
                return
            refused = {**item, "state": "refused", "error": escaped(reason)}
            try:
                await self._table.write(Put(_run_key(run), refused, expected=item["stamp"]))
            except (ConditionFailed, Unanswered):
                continue
            return

    async def get(self, run: str) -> RunRow | None:
        """Return one run, or None."""
        item = await self._table.get(_run_key(run))
        return row_of(RunRow, item) if item else None

    async def recent(self, *, limit: int) -> list[RunRow]:
        """Return the newest runs, newest first."""
        listed = [
            item for state in _STATES for item in await all_of(self._table.look_up, "runs_by_state", state)
        ]
        listed.sort(key=lambda item: (item["created"], item["id"]), reverse=True)
        return [row_of(RunRow, item) for item in listed[:limit]]

    async def change_chunks(self, run: str, statuses: Collection[Status], changes: Mapping[str, Any]) -> int:
        """Change the chunks of a run that have one of the statuses; return how many."""

        def change(item: Item) -> Mapping[str, Any] | None:
            return changes if item["run"] == run and item["status"] in statuses else None

        done = [await update(self._table, row["place"], change) for row in await self._chunks(run)]
        return sum(item is not None for item in done)

    async def revert(self, run: str) -> int:
        """Revert a run and its SUCCESS chunks; return how many chunks."""
        chunks = await self.change_chunks(run, {Status.SUCCESS}, {"status": Status.REVERTED})
        await update(self._table, _run_key(run), lambda _: {"state": "reverted"})
        return chunks

    async def _take(self, run: RunRow, wanted: Mapping[str, int], worker: str) -> bool:
        keys = [chunk_key(run.collection, chunk) for chunk in wanted]
        existing = await self._table.get_many(keys)
        claimed = [
            item
            for item in existing
            if (item["version"], item["worker"]) == (wanted[item["id"]], worker)
            and item["status"] == Status.PENDING
            and not item["run"]
        ]
        row = await self._table.get(_run_key(run.id))
        if not claimed or row is None:
            return True
        taking = {**row, "takes": row["takes"] + 1}
        if row["state"] != "pending":
            taking |= {"state": "pending", "error": "", "key": run.key, "sha256": run.sha256}
        operations: list[Operation] = [Put(_run_key(run.id), taking, expected=row["stamp"])]
        for item in claimed:
            member = {"record": "member", "collection": run.collection, "id": item["id"]}
            place = member_key(f"run#{run.id}", "-", run.collection, item["id"])
            operations += [
                Put(item["place"], {**item, "run": run.id, "until": 0}, expected=item["stamp"]),
                Put(place, member, expected=None),
            ]
        try:
            await self._table.transact(operations)
        except (ConditionFailed, Unanswered):
            return False
        return True

    async def _commit(self, run: str, version: int) -> bool:
        item = await self._table.get(_run_key(run))
        if item is None:
            return True
        history = (f"history#{item['collection']}", "-")
        known = await self._table.get(history)
        rollbacks = await all_of(self._table.query, f"rollbacks#{item['collection']}")
        if any(each["target"] < version < each["version"] for each in rollbacks):
            return True
        done = {"status": Status.SUCCESS, "worker": ""}
        await self.change_chunks(run, {Status.PENDING, Status.REVERTED}, done)
        committed = {**item, "state": "committed", "version": version, "error": ""}
        if item["state"] == "committed":
            committed = item
        try:
            await self._table.transact(
                [
                    Put(_run_key(run), committed, expected=item["stamp"]),
                    Check(history, expected=known["stamp"] if known else ABSENT),
                ]
            )
        except (ConditionFailed, Unanswered):
            return False
        return True

    async def _chunks(self, run: str) -> list[Item]:
        members = await all_of(self._table.query, f"run#{run}")
        keys = [chunk_key(each["collection"], each["id"]) for each in members]
        return [item for item in await read_all(self._table, keys) if item["run"] == run]

    async def all_of(self, collection: str) -> list[Item]:
        """Return every run of a collection."""
        names = [item["id"] for item in await all_of(self._table.query, f"runs#{collection}")]
        return await read_all(self._table, map(_run_key, names))


def _run_key(run: str) -> Key:
    return f"run-row#{run}", "-"


def _refused(run: str, reason: str) -> Callable[[Item], Mapping[str, Any] | None]:
    def change(item: Item) -> Mapping[str, Any] | None:
        if item["run"] != run or item["status"] != Status.PENDING:
            return None
        return {
            "status": Status.FAILED,
            "failure": "rejected",
            "error": reason,
            "attempts": item["attempts"] + 1,
            "worker": "",
        }

    return change
