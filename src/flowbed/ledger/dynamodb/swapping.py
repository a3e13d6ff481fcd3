"""Applies the log of a swap to documents and chunks, as often as it takes: by whoever reads next, or by several."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.errors import Damaged
from flowbed.ledger import BatchEvent, ChunkRow, DocumentRow
from flowbed.ledger.dynamodb.chunks.items import Changed
from flowbed.ledger.dynamodb.chunks.rows import DELETIONS, Stored, home_of, item_of
from flowbed.ledger.dynamodb.chunks.tallies import names_partition
from flowbed.ledger.dynamodb.document_items import Document, DocumentItems
from flowbed.ledger.dynamodb.packing import unpack
from flowbed.ledger.dynamodb.table import key_of, value_to
from flowbed.ledger.items.rows import event_key
from flowbed.ledger.items.table import ConditionFailed, Delete, Unanswered, groups, read_all
from flowbed.records import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from flowbed.ledger.dynamodb.chunks.holders import Holders
    from flowbed.ledger.dynamodb.chunks.items import ChunkItems
    from flowbed.ledger.dynamodb.chunks.tallies import Tallies
    from flowbed.ledger.dynamodb.packing import Name
    from flowbed.ledger.dynamodb.table import DynamoTable
    from flowbed.ledger.items.table import Item

LOGS = "LOG#"  # how the partitions of logs begin
SWAPS = "SWAPS"  # the partition with the swaps that count and are not applied yet, by source
# Chunks between two looks whether another process has applied the log meanwhile.
_AT_ONCE = 4_000
_MOVED_AT_ONCE = 99  # of a transaction's 100 items; one says that the log is still to be applied


class Swapping:
    """Applies logs. Every write is conditional on what it replaces, so that applying a log again changes nothing."""

    def __init__(self, table: DynamoTable, items: ChunkItems, tallies: Tallies, holders: Holders) -> None:
        """Use a table, the chunks in it, what counts them, and who holds them."""
        self._table, self._items, self._tallies, self._holders = table, items, tallies, holders
        self._documents = DocumentItems(table)

    async def apply(self, pending: Item) -> None:
        """Apply the log of a swap."""
        source, token = pending["source"], pending["token"]
        documents, chunks = await self._log(pending)
        stored = {
            (row.collection, row.id): Stored(row=row, home=home_of(row, token), writer=source, token=token)
            for row in chunks
        }
        names: dict[Document, list[Name]] = {(source, document): [] for document in documents}
        for each in stored.values():
            names.setdefault((each.row.source, each.row.document), []).append(
                (each.row.collection, each.row.id)
            )
        known = await self._documents.read(names)
        await self._announce(source, token, list(stored.values()))
        held = await self._hold(stored.values())
        done: list[Changed] = []
        for some in groups(stored.values(), _AT_ONCE):
            if not await self._is_pending(pending):
                return
            done += await self._write(pending, some, known)
        await self._documents.write(source, token, documents, names, known)
        await self._tallies.add(done, holding={worker: -number for worker, number in held.items()})
        try:
            await self._table.write(Delete((SWAPS, source), expected=pending["stamp"]))
        except (ConditionFailed, Unanswered):
            return

    async def _log(self, pending: Item) -> tuple[dict[str, DocumentRow | None], list[ChunkRow]]:
        documents: dict[str, DocumentRow | None] = {}
        chunks: list[ChunkRow] = []
        pieces = 0
        async for raw in self._table.raw_pages(f"{LOGS}{pending['log']}"):
            pieces += 1
            for kind, row in unpack(raw["rows"]["B"]):
                if kind == "removed":
                    documents[row] = None
                elif kind == "document":
                    documents[row["id"]] = DocumentRow(**row)
                else:
                    made = ChunkRow(*row)
                    chunks.append(made._replace(status=Status(made.status)))
        if pieces < pending["pieces"] and await self._is_pending(pending):
            raise Damaged(
                f"the log of a swap of source {pending['source']!r} has expired in the ledger"
                f" {self._table.client.place.url} before it was applied: restore the table to a time before that"
            )
        return documents, chunks

    async def _is_pending(self, pending: Item) -> bool:
        found = await self._table.get((SWAPS, pending["source"]))
        return found is not None and found["stamp"] == pending["stamp"]

    async def _announce(self, source: str, token: int, stored: Sequence[Stored]) -> None:
        """Record which chunks each batch lists, and list the batches as unfinished, before chunks are written."""
        homes: dict[str, list[Name]] = {}
        sources: dict[str, set[str]] = {}
        for each in stored:
            homes.setdefault(each.home, []).append((each.row.collection, each.row.id))
            sources.setdefault(each.home, set()).add(each.row.source)
        batches = sorted(home for home in homes if not home.startswith(DELETIONS))
        events = [BatchEvent(source, token, batch) for batch in batches]
        await self._table.put_all(
            [
                {
                    **key_of(event_key(event)),
                    "record": {"S": "event"},
                    **{name: value_to(value) for name, value in event._asdict().items()},
                }
                for event in events
            ]
        )
        for home, names in homes.items():
            await self._items.name(names_partition(home), names, as_=f"{source}#{token:020}")
        known = await read_all(self._table, [(f"batch#{batch}", "-") for batch in batches])
        ages = {item["id"]: item["timestamp"] for item in known}
        await self._tallies.open({home: (ages.get(home, 0), sources[home]) for home in homes})

    async def _hold(self, stored: Iterable[Stored]) -> dict[str, int]:
        """Record the workers that hold chunks which are written as claimed; return how many each holds."""
        held: dict[str, list[Stored]] = {}
        for each in stored:
            if each.row.status is Status.PENDING and each.row.worker and not each.row.run:
                held.setdefault(each.row.worker, []).append(each)
        for worker, some in held.items():
            await self._holders.begin(worker, {each.home for each in some}, len(some))
        return {worker: len(some) for worker, some in held.items()}

    async def _write(
        self, pending: Item, stored: Sequence[Stored], known: Mapping[Document, object]
    ) -> list[Changed]:
        source, token = pending["source"], pending["token"]
        left = {each.key: each for each in stored}

        def replaced(one: Stored) -> Stored | None:
            wanted = left[one.key]
            if one.writer != source or one.token >= token:
                return None
            return _grown(wanted, one)

        done: list[Changed] = []
        # A document that was never seen has no chunks yet: most of a first fetch is written without being read.
        unseen = [each for each in stored if (each.row.source, each.row.document) not in known]
        done += await self._items.change([], replaced, new=unseen)
        for written in done:
            del left[written.after.key]
        while left:
            there = await self._items.read((each.row.collection, each.row.id) for each in left.values())
            applied = [each for each in there if each.writer == source and each.token >= token]
            moved = [each for each in there if each.writer != source]
            new = {key: each for key, each in left.items() if key not in {one.key for one in there}}
            written_now = await self._items.change(
                [each for each in there if each.writer == source], replaced, new=new.values()
            )
            moved_now = await self._move(pending, [(each, left[each.key]) for each in moved])
            if moved_now is None:
                return done + written_now  # another process has applied the log
            done += written_now + moved_now
            for key in (
                *(each.key for each in applied),
                *(each.after.key for each in written_now + moved_now),
            ):
                left.pop(key, None)
        return done

    async def _move(self, pending: Item, moved: Sequence[tuple[Stored, Stored]]) -> list[Changed] | None:
        """Replace chunks of other sources while the log is still to be applied; None if it is not any more.

        Tokens of different sources say nothing about their order, so a late process must not do this.
        """
        name = self._table.client.place.table
        done: list[Changed] = []
        for some in groups(moved, _MOVED_AT_ONCE):
            changes = [
                Changed(before, _grown(wanted, before)._replace(mark=self._table.mark()))
                for before, wanted in some
            ]
            fence = {
                "ConditionCheck": {
                    "TableName": name,
                    "Key": key_of(pending["place"]),
                    "ConditionExpression": "stamp = :s",
                    "ExpressionAttributeValues": {":s": {"S": pending["stamp"]}},
                }
            }
            puts = [
                {
                    "Put": {
                        "TableName": name,
                        "Item": item_of(each.after),
                        "ConditionExpression": "q = :q",
                        "ExpressionAttributeValues": {":q": each.before.there["q"]},
                    }
                }
                for each in changes
                if each.before is not None
            ]
            try:
                await self._table.client.write(
                    "transact_write_items",
                    TransactItems=[fence, *puts],
                    ClientRequestToken=self._table.mark(),
                )
            except ConditionFailed:
                if not await self._is_pending(pending):
                    return None
                continue
            done += changes
        return done


def _grown(wanted: Stored, existing: Stored) -> Stored:
    """Return a chunk that replaces another, at a version that only grows."""
    row, old = wanted.row, existing.row
    same = (old.version, old.row_hash, old.deleted) == (row.version, row.row_hash, row.deleted)
    version = row.version if same or row.version > old.version else old.version + 1
    return wanted._replace(row=row._replace(version=version))
