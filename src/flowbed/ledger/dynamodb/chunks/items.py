"""Reads and changes of many chunks at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from flowbed.ledger.dynamodb.chunks.rows import Fates, Stored, chunk_key, item_of, stored_from
from flowbed.ledger.dynamodb.packing import names_in, packed_names
from flowbed.ledger.dynamodb.statements import FLIGHT, execute, insert, update
from flowbed.ledger.dynamodb.table import PARTITION, SORT, is_possible, key_of
from flowbed.ledger.items.table import BATCH_ITEMS, all_of, groups, read_all
from flowbed.records import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from flowbed.ledger import ChunkRow
    from flowbed.ledger.dynamodb.packing import Name
    from flowbed.ledger.dynamodb.table import DynamoTable
    from flowbed.ledger.items.table import Item, Key

WORKERS = "WORKERS"
NAMES = "IDS#"  # how the sort keys of packed names begin
_MARK = "q"


class Changed(NamedTuple):
    """One change: the chunk before, as it counted then, and after; `before` is None for a new one."""

    before: Stored | None
    after: Stored


def handed_key(submission: str, worker: str) -> Key:
    """Return the key of the item that says: what this worker claimed is left to the submission."""
    return f"S#{submission}", f"HANDED#{worker}"


def run_key(run: str) -> Key:
    """Return the key of a run."""
    return f"run-row#{run}", "-"


def run_partition(run: str) -> str:
    """Return the partition with the names of a run's chunks, by batch."""
    return f"R#{run}"


class ChunkItems:
    """The items of chunks. All reads are strong."""

    def __init__(self, table: DynamoTable) -> None:
        """Use a table."""
        self._table = table
        self._client = table.client

    async def read(self, names: Iterable[Name]) -> list[Stored]:
        """Return chunks by (collection, id), as they count now; unknown ones are missing."""
        keys = list(dict.fromkeys(chunk_key(*name) for name in names))
        room = asyncio.Semaphore(FLIGHT)

        async def some(part: list[Key]) -> Mapping[Key, Stored]:
            async with room:
                return await self._get(part)

        found: dict[Key, Stored] = {}
        for each in await asyncio.gather(*(some(part) for part in groups(keys, BATCH_ITEMS))):
            found |= each
        return await self.now([found[key] for key in keys if key in found])

    async def of_id(self, chunk: str) -> list[Stored]:
        """Return the chunks of an id, in every collection."""
        partition, _ = chunk_key("", chunk)
        if not is_possible((partition, "-")):
            return []
        answer = await self._client.read(
            "query",
            KeyConditionExpression="PK = :p",
            ExpressionAttributeValues={":p": {"S": partition}},
            ConsistentRead=True,
        )
        return await self.now([stored_from(raw) for raw in answer["Items"]])

    async def of_run(self, run: str) -> list[Stored]:
        """Return the chunks that are in a run."""
        item = await self._table.get(run_key(run))
        if item is None:
            return []
        names = [(item["collection"], chunk) for _, chunk in await self.named(run_partition(run))]
        return [each for each in await self.read(names) if each.row.run == run]

    async def now(self, stored: Sequence[Stored]) -> list[Stored]:
        """Replace each row by what counts now."""
        fates = await self._fates(stored)
        return [each._replace(row=fates.of(each)) for each in stored]

    async def change(
        self,
        stored: Iterable[Stored],
        change: Callable[[Stored], Stored | None],
        *,
        new: Iterable[Stored] = (),
    ) -> list[Changed]:
        """Change chunks and insert `new` ones, each conditionally; return what was written.

        `change` returns the chunk to write, or None. It is called again with the chunk as it is then where another
        process changed it first, and is asked about a new one that exists by now.
        """
        done: list[Changed] = []
        wanted = [Changed(each, after) for each in stored if (after := change(each)) is not None]
        wanted += [Changed(None, each) for each in new]
        while wanted:
            marked = [each._replace(after=each.after._replace(mark=self._table.mark())) for each in wanted]
            outcomes = await execute(self._client, [self._statement(each) for each in marked])
            done += [each for each, happened in zip(marked, outcomes, strict=True) if happened]
            unsure = {
                each.after.key: each for each, happened in zip(marked, outcomes, strict=True) if not happened
            }
            wanted = []
            for found in await self.read([(key[1], key[0][2:]) for key in unsure]):
                mine = unsure.pop(found.key)
                if found.mark == mine.after.mark:  # it was this very write, whose answer was lost
                    done.append(mine)
                elif (after := change(found)) is not None:
                    wanted.append(Changed(found, after))
            # A new chunk that is still missing: its answer was lost before it was written.
            wanted += [each for each in unsure.values() if each.before is None]
        return done

    async def name(self, partition: str, names: Iterable[Name], *, as_: str = "") -> None:
        """Add names to those of a batch, a run or a submission; repeating it as the same changes nothing."""
        as_ = as_ or self._table.mark()
        await self._table.put_all(
            [
                {**key_of((partition, f"{NAMES}{as_}#{number:04}")), "ids": {"B": packed}}
                for number, packed in enumerate(packed_names(names))
            ]
        )

    async def named(self, partition: str, *, prefix: str = NAMES) -> list[Name]:
        """Return the names of a batch, a run or a submission, each once."""
        found: dict[Name, None] = {}
        for item in await all_of(self._table.query, partition, prefix=prefix):
            found |= dict.fromkeys(names_in(item["ids"]))
        return list(found)

    async def _get(self, keys: Sequence[Key]) -> Mapping[Key, Stored]:
        table = self._client.place.table
        left = [key_of(key) for key in keys if is_possible(key)]
        found: dict[Key, Stored] = {}
        while left:
            answer = await self._client.read(
                "batch_get_item", RequestItems={table: {"Keys": left, "ConsistentRead": True}}
            )
            for raw in answer["Responses"].get(table, []):
                found[raw[PARTITION]["S"], raw[SORT]["S"]] = stored_from(raw)
            left = answer.get("UnprocessedKeys", {}).get(table, {}).get("Keys", [])
        return found

    async def _fates(self, stored: Sequence[Stored]) -> Fates:
        pending = [each.row for each in stored if each.row.status is Status.PENDING]
        held = [row for row in pending if row.worker and not row.run]
        # Read after the rows: a chunk that was put into a run is never older than the run.
        keys = {run_key(row.run) for row in pending if row.run}
        keys |= {(WORKERS, row.worker) for row in held}
        keys |= {handed_key(row.submission, row.worker) for row in held if row.submission}
        items = await read_all(self._table, sorted(keys))
        return _fates_in(items)

    def _statement(self, one: Changed) -> dict[str, object]:
        table, item = self._client.place.table, item_of(one.after)
        if one.before is None:
            return insert(table, item)
        return update(table, one.after.key, before=one.before.there, after=item, mark=_MARK)


def _fates_in(items: Iterable[Item]) -> Fates:
    runs: dict[str, Item] = {}
    untils: dict[str, int] = {}
    handed: set[tuple[str, str]] = set()
    for item in items:
        partition, sort = item["place"]
        if partition == WORKERS:
            untils[sort] = item.get("until", 0)
        elif partition.startswith("S#"):
            handed.add((partition[2:], sort.removeprefix("HANDED#")))
        else:
            runs[item["id"]] = item
    return Fates(runs, untils, frozenset(handed))


def rows_of(stored: Iterable[Stored]) -> list[ChunkRow]:
    """Return the rows of chunks."""
    return [each.row for each in stored]
