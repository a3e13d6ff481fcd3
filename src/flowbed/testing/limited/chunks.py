"""The chunks, each claimed by a conditional write of its own, and listed by indexes that lag."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbed.ledger import BatchRow, ChunkMark, ChunkRow
from flowbed.ledger.text import shown, unfit
from flowbed.records import Status
from flowbed.testing.limited.rows import NO_BATCH, chunk_key, later, row_of, workable
from flowbed.testing.limited.table import BATCH_ITEMS, all_of, groups, pages, update

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence

    from flowbed.ledger import Failure
    from flowbed.testing.limited.documents import LimitedDocuments
    from flowbed.testing.limited.table import Item, Table

PAGE = 1_000
_WAITING_AGAIN = {"status": Status.NONE, "run": "", "failure": "", "error": ""}


class LimitedChunks:
    """`Chunks` in a table."""

    def __init__(self, table: Table, documents: LimitedDocuments) -> None:
        """Take the table, and the documents whose swaps may have to be put in their places first."""
        self._table = table
        self._documents = documents

    async def of(self, source: str, documents: Collection[str]) -> list[ChunkRow]:
        """Read every chunk row of the documents named."""
        await self._documents.apply()
        found: list[ChunkRow] = []
        for document in sorted(set(documents)):
            members = await all_of(self._table.query, f"of#{document}", prefix=f"{source}#")
            rows = await self._read([chunk_key(each["collection"], each["id"]) for each in members])
            # A chunk that moved to another document has left its name behind.
            found += [row for row in rows if (row.source, row.document) == (source, document)]
        return found

    async def find(self, subject: str) -> list[ChunkRow]:
        """Read the rows whose id or document is `subject`."""
        if unfit(subject):
            return []
        await self._documents.apply()
        members = await all_of(self._table.query, f"of#{subject}")
        rows = await self._read([chunk_key(each["collection"], each["id"]) for each in members])
        found = [row for row in rows if row.document == subject]
        found += [
            row_of(ChunkRow, item)
            for item in await all_of(self._table.query, f"chunk#{subject}")
            if item["document"] != subject
        ]
        return sorted(found, key=lambda row: (row.collection, row.id))

    async def owners(self, collection: str, chunk_ids: Collection[str]) -> Mapping[str, str]:
        """Tell which source holds each of the chunks named."""
        await self._documents.apply()
        rows = await self._read([chunk_key(collection, each) for each in set(chunk_ids)])
        return {row.id: row.source for row in rows if not row.deleted}

    async def ready(
        self, batch: str, statuses: Collection[Status], *, now: int, sources: Collection[str]
    ) -> list[ChunkRow]:
        """Read the chunks of a batch that `claim` would give."""
        await self._documents.apply()
        listed = await all_of(self._table.look_up, "chunks_by_batch", batch or NO_BATCH)
        rows = await self._read([item["place"] for item in listed])
        return [
            row for row in rows if row.batch == batch and workable(row, statuses, now=now, sources=sources)
        ]

    async def batches(
        self, statuses: Collection[Status], *, now: int, sources: Collection[str]
    ) -> AsyncIterator[list[str]]:
        """List the batch ids with a chunk to work on, oldest first; "" comes after all others."""
        await self._documents.apply()
        found: set[str] = set()
        for status in {*statuses, Status.PENDING}:
            async for page in pages(self._table.look_up, "chunks_by_status", status.value):
                rows = (row_of(ChunkRow, item) for item in page)
                found.update(row.batch for row in rows if workable(row, statuses, now=now, sources=sources))
        ages: dict[str, int] = {}
        for some in groups(sorted(found - {""}), BATCH_ITEMS):
            known = await self._table.get_many([(f"batch#{batch}", "-") for batch in some])
            ages |= {row.id: row.timestamp for row in (row_of(BatchRow, item) for item in known)}
        ordered = sorted(found, key=lambda batch: (batch == "", ages.get(batch, 0), batch))
        for page_ in groups(ordered, PAGE):
            yield page_

    async def claim(
        self,
        batch: str,
        statuses: Collection[Status],
        *,
        worker: str,
        now: int,
        until: int,
        sources: Collection[str],
        limit: int,
    ) -> list[ChunkRow]:
        """Make up to `limit` chunks of a batch PENDING for `worker`, one by one."""

        def take(item: Item) -> Mapping[str, Any] | None:
            row = row_of(ChunkRow, item)
            if row.batch != batch or not workable(row, statuses, now=now, sources=sources):
                return None
            failed = row.status is Status.FAILED
            return {
                "status": Status.PENDING,
                "version": later(row.version, now) if failed else row.version,
                "worker": worker,
                "until": until,
                "run": "",
                "failure": "",
                "error": "",
            }

        won: list[ChunkRow] = []
        for row in await self.ready(batch, statuses, now=now, sources=sources):
            if len(won) == limit:
                break
            item = await update(self._table, chunk_key(row.collection, row.id), take)
            won += [row_of(ChunkRow, item)] if item else []
        return sorted(won, key=lambda row: (row.collection, row.document, row.ordinal, row.id))

    async def renew(self, worker: str, *, until: int) -> None:
        """Put off the end of every claim that `worker` holds."""
        await self._held(worker, {"until": until})

    async def workers(self) -> set[str]:
        """Name every worker that holds a claim on a chunk in no run."""
        pending = await all_of(self._table.look_up, "chunks_by_status", Status.PENDING.value)
        return {item["worker"] for item in pending if not item["run"]}

    async def release(self, worker: str) -> int:
        """Give back every claim of `worker` on chunks in no run."""
        return await self._held(worker, {"status": Status.NONE, "worker": "", "until": 0})

    async def fail(self, failures: Sequence[Failure], *, worker: str) -> None:
        """Make claimed chunks FAILED with their reason."""
        for failure in failures:
            await update(self._table, chunk_key(failure.collection, failure.id), _failed(failure, worker))

    async def retry(self, subjects: Collection[str], *, now: int) -> int:
        """Make FAILED chunks NONE again, each at a later version."""
        await self._documents.apply()
        if subjects:
            found: list[Item] = []
            for subject in set(subjects):
                found += await all_of(self._table.query, f"chunk#{subject}")
                members = await all_of(self._table.query, f"run#{subject}")
                keys = [chunk_key(each["collection"], each["id"]) for each in members]
                found += [item for item in await self._items(keys) if item["run"] == subject]
        else:
            found = await all_of(self._table.look_up, "chunks_by_status", Status.FAILED.value)

        def again(item: Item) -> Mapping[str, Any] | None:
            failed = item["status"] == Status.FAILED
            return {**_WAITING_AGAIN, "version": later(item["version"], now)} if failed else None

        return await self._change({item["place"] for item in found}, again)

    async def requeue(self, collection: str, chunk_ids: Collection[str], *, now: int) -> int:
        """Make SUCCESS chunks NONE again, each at a later version."""
        await self._documents.apply()

        def again(item: Item) -> Mapping[str, Any] | None:
            done = item["status"] == Status.SUCCESS
            return {**_WAITING_AGAIN, "version": later(item["version"], now)} if done else None

        return await self._change({chunk_key(collection, each) for each in chunk_ids}, again)

    async def marks(self, collection: str) -> AsyncIterator[list[ChunkMark]]:
        """Read the mark of every chunk of a collection, in order of id."""
        await self._documents.apply()
        async for page in pages(self._table.look_up, "chunks_by_id", collection):
            if page:
                yield [ChunkMark(*(item[name] for name in ChunkMark._fields)) for item in page]

    async def used(self, batches: Collection[str]) -> set[str]:
        """Tell which of the batch ids named a chunk row still names."""
        await self._documents.apply()
        found = set()
        for batch in set(batches):
            listed = await all_of(self._table.look_up, "chunks_by_batch", batch or NO_BATCH)
            if any(row.batch == batch for row in await self._read([item["place"] for item in listed])):
                found.add(batch)
        return found

    async def counts(self) -> Mapping[tuple[str, Status], int]:
        """Count live chunks by collection and status."""
        await self._documents.apply()
        found: dict[tuple[str, Status], int] = {}
        for status in Status:
            async for page in pages(self._table.look_up, "chunks_by_status", status.value):
                for item in page:
                    if not (item["deleted"] and status is Status.SUCCESS):
                        key = (item["collection"], status)
                        found[key] = found.get(key, 0) + 1
        return found

    async def _held(self, worker: str, changes: Mapping[str, Any]) -> int:
        def change(item: Item) -> Mapping[str, Any] | None:
            held = item["worker"] == worker and item["status"] == Status.PENDING and not item["run"]
            return changes if held else None

        listed = await all_of(self._table.look_up, "chunks_by_worker", worker)
        return await self._change({item["place"] for item in listed}, change)

    async def _change(
        self, keys: Collection[tuple[str, str]], change: Callable[[Item], Mapping[str, Any] | None]
    ) -> int:
        done = [await update(self._table, key, change) for key in sorted(keys)]
        return sum(item is not None for item in done)

    async def _items(self, keys: Sequence[tuple[str, str]]) -> list[Item]:
        return [item for some in groups(keys, BATCH_ITEMS) for item in await self._table.get_many(some)]

    async def _read(self, keys: Sequence[tuple[str, str]]) -> list[ChunkRow]:
        return [row_of(ChunkRow, item) for item in await self._items(keys)]


def _failed(failure: Failure, worker: str) -> Callable[[Item], Mapping[str, Any] | None]:
    def change(item: Item) -> Mapping[str, Any] | None:
        held = item["worker"] == worker and item["status"] == Status.PENDING and not item["run"]
        if not held or item["version"] != failure.version:
            return None
        return {
            "status": Status.FAILED,
            "attempts": item["attempts"] + 1,
            "failure": failure.kind,
            "error": shown(failure.reason),
            "worker": "",
            "until": 0,
        }

    return change
