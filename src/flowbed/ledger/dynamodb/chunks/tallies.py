"""What is counted: the chunks of each batch by state, and how many each worker holds.

A batch with unfinished chunks is in the index `open`, so batches are listed instead of chunks. Its marker counts its
chunks. Whoever changes chunks adds the difference afterwards; a process that dies in between leaves numbers that are
wrong until the batch is counted again, which happens after each commit, and wherever the numbers say that an open batch
is finished. A batch is closed only by counting its chunks, in a transaction that adds them to the finished ones.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from flowbed.ledger.dynamodb.chunks.items import WORKERS, run_key
from flowbed.ledger.dynamodb.chunks.rows import Stored, Tally, tally_of
from flowbed.ledger.dynamodb.statements import FLIGHT
from flowbed.ledger.dynamodb.table import INDEX, INDEX_PARTITION, INDEX_SORT, PARTITION, SORT, key_of
from flowbed.ledger.items.table import BATCH_ITEMS, ConditionFailed, groups, read_all
from flowbed.records import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from flowbed.ledger.dynamodb.chunks.items import Changed, ChunkItems
    from flowbed.ledger.dynamodb.table import DynamoTable

SHARDS = 4  # a partition of an index takes 1,000 writes a second
FINISHED = "FINISHED"  # the partition with the number of finished chunks of closed batches, by collection
_TOGETHER = 50  # of a transaction's 100 items; each batch may need two
_COUNTED, _FOLDED = "n", "c"  # prefixes of attributes: chunks by tally, and those of them in FINISHED


class Marker(NamedTuple):
    """What is known of a batch without reading its chunks."""

    home: str
    at: int
    sources: frozenset[str]
    counts: Mapping[Tally, int]
    folded: Mapping[str, int]
    is_open: bool
    mark: str

    @property
    def unfinished(self) -> int:
        """How many chunks are not finished, as far as was counted."""
        return sum(number for tally, number in self.counts.items() if tally.state != "S" and number > 0)

    def agrees_with(self, stored: Iterable[Stored]) -> bool:
        """Return whether it counts as many chunks as there are."""
        found = Counter(tally for each in stored if (tally := tally_of(each.row)) is not None)
        return found == Counter({tally: number for tally, number in self.counts.items() if number})


def names_partition(home: str) -> str:
    """Return the partition with the names of a batch's chunks."""
    return f"B#{home}"


def _marker_key(home: str) -> tuple[str, str]:
    return f"W#{home}", "-"


class Tallies:
    """The markers of batches, and the numbers of what workers hold."""

    def __init__(self, table: DynamoTable, items: ChunkItems) -> None:
        """Use a table, and the items of chunks."""
        self._table, self._items = table, items
        self._client = table.client

    async def open(self, homes: Mapping[str, tuple[int, set[str]]]) -> None:
        """List batches as unfinished, each given its age (µs) and sources, before chunks are written; repeatable."""
        room = asyncio.Semaphore(FLIGHT)

        async def one(home: str, at: int, sources: set[str]) -> None:
            async with room:
                await self._table.repeated(
                    "update_item",
                    Key=key_of(_marker_key(home)),
                    **_expression(
                        {"mark": {"S": self._table.mark()}},
                        default={**_opened(home, at), "at": {"N": str(at)}},
                        add={"sources": {"SS": sorted(sources)}},
                    ),
                )

        await asyncio.gather(*(one(home, *known) for home, known in homes.items()))

    async def add(
        self,
        changed: Iterable[Changed],
        *,
        gone: Iterable[Stored] = (),
        holding: Mapping[str, int] | None = None,
    ) -> None:
        """Count changes of chunks, and those that are gone.

        `holding` are additions to what workers hold, beyond what the changes say.
        """
        batches: dict[str, Counter[Tally]] = {}
        held: Counter[str] = Counter(holding or {})
        done = list(changed)
        before = [each.before for each in done if each.before is not None]
        for number, some in ((-1, [*before, *gone]), (1, [each.after for each in done])):
            for each in some:
                tally = tally_of(each.row)
                if tally is not None:
                    batches.setdefault(each.home, Counter())[tally] += number
                held[_holder(each)] += number
        del held[""]
        for homes in groups(batches, _TOGETHER):
            await self._add({home: batches[home] for home in homes})
        for worker, number in held.items():
            if number:
                await self.hold(worker, number)

    async def hold(self, worker: str, number: int) -> None:
        """Add to how many chunks a worker holds. It is repeated where an answer is lost, so it is never too low."""
        if number < 0:
            await self._transact([self._held(worker, number)])
        else:
            await self._table.repeated("update_item", **self._held(worker, number)["Update"])

    async def markers(self) -> list[Marker]:
        """Return the markers of open batches, oldest first; the list lags, the markers do not."""
        keys: list[tuple[str, str]] = []
        for shard in range(SHARDS):
            start: dict[str, Any] = {}
            while True:
                answer = await self._client.read(
                    "query",
                    IndexName=INDEX,
                    KeyConditionExpression="G = :g",
                    ExpressionAttributeValues={":g": {"S": f"open#{shard}"}},
                    **start,
                )
                keys += [(raw[PARTITION]["S"], raw[SORT]["S"]) for raw in answer["Items"]]
                if "LastEvaluatedKey" not in answer:
                    break
                start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}
        found = [
            _marker_from(raw)
            for some in groups(keys, BATCH_ITEMS)
            for raw in await self._table.raw_many(some)
            if INDEX_PARTITION in raw
        ]
        return sorted(found, key=lambda each: (each.at, each.home))

    async def current(self) -> list[Marker]:
        """Return the markers of open batches, oldest first, those counted again whose process died before it did so."""
        markers = await self.markers()
        decides = {tally.decides for each in markers for tally in each.counts if tally.state == "p"}
        items = await read_all(self._table, map(run_key, sorted(decides)))
        pending = {item["id"] for item in items if item["state"] == "pending"}
        found: list[Marker] = []
        for each in markers:
            runs = {
                tally.decides for tally, number in each.counts.items() if tally.state == "p" and number > 0
            }
            known = each if each.unfinished and runs <= pending else await self.recount(each.home)
            if known is not None and known.is_open:
                found.append(known)
        return found

    async def all(self) -> list[Marker]:
        """Return the markers of all batches, oldest first: the whole table is read."""
        found: list[Marker] = []
        start: dict[str, Any] = {}
        while True:
            answer = await self._client.read(
                "scan",
                FilterExpression="begins_with(PK, :w)",
                ExpressionAttributeValues={":w": {"S": _marker_key("")[0]}},
                ConsistentRead=True,
                **start,
            )
            found += map(_marker_from, answer["Items"])
            if "LastEvaluatedKey" not in answer:
                return sorted(found, key=lambda each: (each.at, each.home))
            start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}

    async def counts(self) -> dict[tuple[str, Status], int]:
        """Count chunks by collection and status."""
        found: Counter[tuple[str, Status]] = Counter()
        for marker in await self.current():
            for tally, number in marker.counts.items():
                folded = marker.folded.get(tally.collection, 0) if tally.state == "S" else 0
                found[tally.collection, tally.status] += (
                    number - folded if tally.state == "S" else max(number, 0)
                )
        async for raw in self._table.raw_pages(FINISHED):
            found[raw[SORT]["S"], Status.SUCCESS] += int(raw[_COUNTED]["N"])
        return {key: number for key, number in found.items() if number > 0}

    async def recount(self, home: str) -> Marker | None:
        """Count the chunks of a batch again, and close it if all have finished; return its marker.

        Nothing is changed if another process counts a change meanwhile.
        """
        raw = await self._table.raw(_marker_key(home))
        if raw is None:
            return None
        marker = _marker_from(raw)
        stored = await self.chunks(home)  # after its marker: what changes meanwhile changes the marker too
        counts = Counter(tally for each in stored if (tally := tally_of(each.row)) is not None)
        wanted = marker._replace(counts=counts, is_open=any(tally.state != "S" for tally in counts))
        operations: list[dict[str, Any]] = []
        if not wanted.is_open:
            finished = {tally.collection: number for tally, number in counts.items()}
            moved = {
                name: finished.get(name, 0) - marker.folded.get(name, 0)
                for name in {*finished, *marker.folded}
            }
            wanted = wanted._replace(folded=finished)
            operations = [self._finished(name, number) for name, number in sorted(moved.items()) if number]
        if (wanted.counts, wanted.folded, wanted.is_open) == (
            marker.counts, marker.folded, marker.is_open,
        ):  # fmt: skip
            return marker
        put = {
            "Put": {
                "TableName": self._client.place.table,
                "Item": _item_of(wanted._replace(mark=self._table.mark())),
                "ConditionExpression": "#q = :q",
                "ExpressionAttributeNames": {"#q": "mark"},
                "ExpressionAttributeValues": {":q": {"S": marker.mark}},
            }
        }
        try:
            await self._transact([put, *operations])
        except ConditionFailed:
            return await self._read(home)  # it is being worked on, by a process that counts what it does
        return wanted

    async def chunks(self, home: str) -> list[Stored]:
        """Return the chunks that a batch lists."""
        names = await self._items.named(names_partition(home))
        return [each for each in await self._items.read(names) if each.home == home]

    async def _read(self, home: str) -> Marker | None:
        raw = await self._table.raw(_marker_key(home))
        return _marker_from(raw) if raw else None

    async def _add(self, batches: Mapping[str, Counter[Tally]]) -> None:
        """Add to the counts of a few batches; one that is closed opens again where it gets unfinished chunks."""
        operations: list[dict[str, Any]] = []
        closed: list[tuple[str, Counter[Tally]]] = []
        for home, counts in batches.items():
            changes = Counter({tally: number for tally, number in counts.items() if number})
            if any(number > 0 and tally.state != "S" for tally, number in changes.items()):
                operations.append(self._counted(home, changes, opening=True))
            elif changes:
                closed.append((home, changes))
        if operations:
            await self._transact(operations)
        for home, changes in closed:
            try:
                await self._transact([self._counted(home, changes, opening=False)])
            except ConditionFailed:  # it is closed: its finished chunks are counted with all others
                await self._transact(
                    [
                        self._counted(home, changes, opening=None),
                        *(self._finished(tally.collection, number) for tally, number in changes.items()),
                    ]
                )

    def _counted(self, home: str, changes: Counter[Tally], *, opening: bool | None) -> dict[str, Any]:
        """Return the write that adds to a batch's counts: it opens it, needs it to be open, or to be closed (None)."""
        add = {_name_of(tally): {"N": str(number)} for tally, number in changes.items()}
        values: dict[str, Any] = {"mark": {"S": self._table.mark()}}
        if opening is None:
            add |= {
                json.dumps([_FOLDED, tally.collection]): {"N": str(number)}
                for tally, number in changes.items()
            }
        expression = _expression(values, add=add, default=_opened(home, 0) if opening else {})
        if not opening:
            there = "attribute_exists(G)" if opening is False else "attribute_not_exists(G)"
            expression["ConditionExpression"] = there
        return {
            "Update": {"TableName": self._client.place.table, "Key": key_of(_marker_key(home)), **expression}
        }

    def _finished(self, collection: str, number: int) -> dict[str, Any]:
        return {
            "Update": {
                "TableName": self._client.place.table,
                "Key": key_of((FINISHED, collection)),
                **_expression({}, add={_COUNTED: {"N": str(number)}}),
            }
        }

    def _held(self, worker: str, number: int) -> dict[str, Any]:
        return {
            "Update": {
                "TableName": self._client.place.table,
                "Key": key_of((WORKERS, worker)),
                **_expression({}, add={"held": {"N": str(number)}}),
            }
        }

    async def _transact(self, operations: list[dict[str, Any]]) -> None:
        await self._client.write(
            "transact_write_items", TransactItems=operations, ClientRequestToken=self._table.mark()
        )


def _holder(stored: Stored) -> str:
    tally = tally_of(stored.row)
    return stored.row.worker if tally is not None and tally.state == "P" else ""


def _opened(home: str, at: int) -> dict[str, Any]:
    shard = zlib.crc32(home.encode()) % SHARDS
    return {INDEX_PARTITION: {"S": f"open#{shard}"}, INDEX_SORT: {"S": f"{at:020}"}}


def _name_of(tally: Tally) -> str:
    return json.dumps([_COUNTED, *tally])


def _item_of(marker: Marker) -> dict[str, Any]:
    item: dict[str, Any] = {
        **key_of(_marker_key(marker.home)),
        "at": {"N": str(marker.at)},
        "mark": {"S": marker.mark},
        **({"sources": {"SS": sorted(marker.sources)}} if marker.sources else {}),
        **(_opened(marker.home, marker.at) if marker.is_open else {}),
    }
    item |= {_name_of(tally): {"N": str(number)} for tally, number in marker.counts.items()}
    return item | {json.dumps([_FOLDED, name]): {"N": str(number)} for name, number in marker.folded.items()}


def _marker_from(raw: Mapping[str, Any]) -> Marker:
    counts: dict[Tally, int] = {}
    folded: dict[str, int] = {}
    for name, value in raw.items():
        if not name.startswith("["):
            continue
        kind, *rest = json.loads(name)
        if kind == _COUNTED:
            counts[Tally(*rest)] = int(value["N"])
        else:
            folded[rest[0]] = int(value["N"])
    return Marker(
        home=raw[PARTITION]["S"][2:],
        at=int(raw.get("at", {"N": "0"})["N"]),
        sources=frozenset(raw.get("sources", {"SS": []})["SS"]),
        counts=counts,
        folded=folded,
        is_open=INDEX_PARTITION in raw,
        mark=raw["mark"]["S"],
    )


def _expression(
    values: Mapping[str, Any], *, add: Mapping[str, Any], default: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return an update that sets values, adds numbers or elements, and sets defaults where nothing is."""
    default = default or {}
    said = {**values, **default, **add}
    places = {name: str(number) for number, name in enumerate(said)}
    sets = [f"#{places[name]} = :{places[name]}" for name in values]
    sets += [f"#{places[name]} = if_not_exists(#{places[name]}, :{places[name]})" for name in default]
    adds = [f"#{places[name]} :{places[name]}" for name in add]
    clauses = [("SET", sets), ("ADD", adds)]
    return {
        "UpdateExpression": " ".join(f"{word} {', '.join(some)}" for word, some in clauses if some),
        "ExpressionAttributeNames": {f"#{place}": name for name, place in places.items()},
        "ExpressionAttributeValues": {f":{places[name]}": value for name, value in said.items()},
    }
