"""The chunks: each is claimed by its own conditional write, and listed by indexes that lag."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbed.ledger import BatchRow, ChunkMark, ChunkRow, InFlight
from flowbed.ledger.items.rows import (
    NO_BATCH,
    chunk_key,
    is_claimable,
    is_in_no_run,
    membership_of,
    next_version,
    row_of,
)
from flowbed.ledger.items.table import all_of, groups, pages, read_all, update
from flowbed.ledger.text import escaped, is_unstorable
from flowbed.records import Status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence

    from flowbed.ledger import Failure
    from flowbed.ledger.items.submissions import ItemSubmissions
    from flowbed.ledger.items.table import Item, Key, Table
    from flowbed.ledger.memory.documents import MemoryDocuments

PAGE = 1_000
_WAITING_AGAIN = {"status": Status.NONE, "run": "", "submission": "", "failure": "", "error": ""}
_LEFT = {"worker": "", "until": 0}
_GIVEN_BACK = {**_LEFT, "status": Status.NONE, "submission": ""}


class MemoryChunks:
    """`Chunks` in a table.

    When a chunk enters a submission, the same transaction writes its name below the submission and below its text.
    Neither is ever looked up in an index: indexes lag, so two submissions might not see that both contain a text.
    """

    def __init__(self, table: Table, documents: MemoryDocuments, submissions: ItemSubmissions) -> None:
        """Use a table, the documents, whose pending swaps are applied before reads, and the submissions."""
        self._table = table
        self._documents = documents
        self._submissions = submissions

    async def of(self, source: str, documents: Collection[str]) -> list[ChunkRow]:
        """Return all chunk rows of some documents, including deleted ones."""
        await self._documents.apply()
        found: list[ChunkRow] = []
        for document in sorted(set(documents)):
            members = await all_of(self._table.query, f"of#{document}", prefix=f"{source}#")
            rows = await self._read([chunk_key(each["collection"], each["id"]) for each in members])
            # A chunk that moved to another document has left its name here.
            found += [row for row in rows if (row.source, row.document) == (source, document)]
        return found

    async def find(self, subject: str) -> list[ChunkRow]:
        """Return the rows whose id or document is `subject`, in every collection and source."""
        if is_unstorable(subject):
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
        """Return the source of each chunk by id."""
        await self._documents.apply()
        rows = await self._read([chunk_key(collection, each) for each in set(chunk_ids)])
        return {row.id: row.source for row in rows if not row.deleted}

    async def ready(
        self, batch: str, statuses: Collection[Status], *, now: int, sources: Collection[str]
    ) -> list[ChunkRow]:
        """Return the chunks of a batch that `claim` would return, without claiming them."""
        await self._documents.apply()
        listed = await all_of(self._table.look_up, "chunks_by_batch", batch or NO_BATCH)
        rows = await self._read([item["place"] for item in listed])
        live = await self._live(rows)
        return [
            row
            for row in rows
            if row.batch == batch and is_claimable(row, statuses, now=now, sources=sources, live=live)
        ]

    async def batches(
        self, statuses: Collection[Status], *, now: int, sources: Collection[str]
    ) -> AsyncIterator[list[str]]:
        """Iterate over the ids of batches with a claimable chunk, oldest first."""
        await self._documents.apply()
        found: set[str] = set()
        for status in {*statuses, Status.PENDING}:
            async for page in pages(self._table.look_up, "chunks_by_status", status.value):
                rows = [row_of(ChunkRow, item) for item in page]
                live = await self._live(rows)
                found.update(
                    row.batch
                    for row in rows
                    if is_claimable(row, statuses, now=now, sources=sources, live=live)
                )
        known = await read_all(self._table, [(f"batch#{batch}", "-") for batch in found if batch])
        ages = {row.id: row.timestamp for row in (row_of(BatchRow, item) for item in known)}
        ordered = sorted(found, key=lambda batch: (batch == "", ages.get(batch, 0), batch))
        for page_ in groups(ordered, PAGE):
            yield page_

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
        won: list[ChunkRow] = []
        ready = [
            row for batch in batches for row in await self.ready(batch, statuses, now=now, sources=sources)
        ]
        for row in ready:
            if len(won) == limit:
                break
            failed = row.status is Status.FAILED
            claimed = {
                "status": Status.PENDING,
                "version": next_version(row.version, now) if failed else row.version,
                "worker": worker,
                "until": until,
                "run": "",
                "submission": submission,
                "failure": "",
                "error": "",
            }
            # Only unchanged rows: since the check, the chunk may have been left to a live submission.
            item = await update(
                self._table,
                chunk_key(row.collection, row.id),
                lambda item, row=row, to=claimed: to if row_of(ChunkRow, item) == row else None,  # type: ignore[misc]
                beside=membership_of,
            )
            won += [row_of(ChunkRow, item)] if item else []
        return sorted(won, key=lambda row: (row.collection, row.document, row.ordinal, row.id))

    async def bind(self, chunks: Sequence[ChunkRow], *, worker: str, submission: str) -> None:
        """Move chunks that `worker` has claimed, at the same version, to another submission."""
        await self._each(chunks, worker, {"submission": submission})

    async def hand_over(self, submission: str, *, worker: str) -> int:
        """Leave the chunks that `worker` has claimed to their live submission, without a holder."""
        if not await self._submissions.live([submission]):
            return 0

        def leave(item: Item) -> Mapping[str, Any] | None:
            held = item["worker"] == worker and item["submission"] == submission and is_in_no_run(item)
            return _LEFT if held else None

        return await self._change(await self._carried_by(submission), leave)

    async def give_back(self, chunks: Sequence[ChunkRow], *, worker: str) -> None:
        """Reset chunks that `worker` has claimed, at the same version, to NONE, in no submission."""
        await self._each(chunks, worker, _GIVEN_BACK)

    async def in_flight(self, hashes: Collection[str], *, besides: Collection[str]) -> InFlight:
        """Return in one snapshot the texts that are gathered, and the live submissions."""
        await self._documents.apply()
        carrying_: list[Item] = []
        for text_hash in sorted(set(hashes)):
            members = await all_of(self._table.query, f"text#{text_hash}")
            items = await read_all(
                self._table, [chunk_key(each["collection"], each["id"]) for each in members]
            )
            carrying_ += [
                item
                for item in items
                if item["text_hash"] == text_hash
                and is_in_no_run(item)
                and item["submission"] not in {"", *besides}
            ]
        known = {row.id for row in await self._submissions.read([item["submission"] for item in carrying_])}
        gathered = frozenset(item["text_hash"] for item in carrying_ if item["submission"] not in known)
        # Read afterwards: one recorded between the two reads is met by both, and none by neither.
        live = [row async for page in self._submissions.pages(live=True) for row in page]
        return InFlight(gathered, tuple((row.id, row.space) for row in live))

    async def take(self, submission: str, *, worker: str, now: int, until: int, limit: int) -> list[ChunkRow]:
        """Hold up to `limit` free chunks of a live submission for `worker`, so that it can write their results."""

        def free(item: Item) -> Mapping[str, Any] | None:
            kept = item["submission"] == submission and is_in_no_run(item)
            nobodys = not item["worker"] or item["until"] < now
            return {"worker": worker, "until": until} if kept and nobodys else None

        if not await self._submissions.live([submission]):
            return []
        held: list[ChunkRow] = []
        items = await read_all(self._table, await self._carried_by(submission))
        rows = [row_of(ChunkRow, item) for item in items if free(item)]
        for row in sorted(rows, key=_in_order):
            if len(held) == limit:
                break
            item = await update(self._table, chunk_key(row.collection, row.id), free)
            held += [row_of(ChunkRow, item)] if item else []
        return held

    async def submitted(self, submission: str) -> AsyncIterator[list[ChunkRow]]:
        """Iterate over the chunks of a submission that are PENDING and in no run, held or not."""
        items = await read_all(self._table, await self._carried_by(submission))
        rows = [
            row_of(ChunkRow, item)
            for item in items
            if item["submission"] == submission and is_in_no_run(item)
        ]
        for page in groups(sorted(rows, key=lambda row: (row.batch, row.id, row.collection)), PAGE):
            yield page

    async def let_go(self, submission: str) -> int:
        """Reset the PENDING chunks of a submission that are in no run to NONE."""

        def back(item: Item) -> Mapping[str, Any] | None:
            return _GIVEN_BACK if item["submission"] == submission and is_in_no_run(item) else None

        return await self._change(await self._carried_by(submission), back)

    async def renew(self, worker: str, *, until: int) -> None:
        """Extend every claim of `worker` to `until`."""
        await self._held(worker, lambda _: {"until": until})

    async def workers(self) -> set[str]:
        """Return the workers that have claimed a chunk in no run."""
        pending = await all_of(self._table.look_up, "chunks_by_status", Status.PENDING.value)
        return {item["worker"] for item in pending if not item["run"]} - {""}

    async def release(self, worker: str) -> int:
        """Reset the chunks in no run that `worker` has claimed to NONE."""
        listed = await all_of(self._table.look_up, "chunks_by_worker", worker)
        items = await read_all(self._table, [item["place"] for item in listed])
        live = await self._live([row_of(ChunkRow, item) for item in items])
        judged = {item["place"]: item["submission"] for item in items}

        def back(item: Item) -> Mapping[str, Any] | None:
            if item["submission"] != judged[item["place"]]:
                return None  # its worker goes on with it: leave it alone
            return _LEFT if item["submission"] in live else _GIVEN_BACK

        return await self._held(worker, back)

    async def fail(self, failures: Sequence[Failure], *, worker: str) -> None:
        """Mark claimed chunks FAILED with their reason, and count one more attempt."""
        for failure in failures:
            await update(self._table, chunk_key(failure.collection, failure.id), _failed(failure, worker))

    async def retry(self, subjects: Collection[str], *, now: int) -> int:
        """Reset FAILED chunks to NONE, each at version max(version + 1, now)."""
        await self._documents.apply()
        if subjects:
            found: list[Item] = []
            for subject in set(subjects):
                found += await all_of(self._table.query, f"chunk#{subject}")
                members = await all_of(self._table.query, f"run#{subject}")
                keys = [chunk_key(each["collection"], each["id"]) for each in members]
                found += [item for item in await read_all(self._table, keys) if item["run"] == subject]
        else:
            found = await all_of(self._table.look_up, "chunks_by_status", Status.FAILED.value)

        def again(item: Item) -> Mapping[str, Any] | None:
            failed = item["status"] == Status.FAILED
            return {**_WAITING_AGAIN, "version": next_version(item["version"], now)} if failed else None

        return await self._change({item["place"] for item in found}, again)

    async def requeue(self, collection: str, chunk_ids: Collection[str], *, now: int) -> int:
        """Reset SUCCESS chunks to NONE, in no run, each at version max(version + 1, now)."""
        await self._documents.apply()

        def again(item: Item) -> Mapping[str, Any] | None:
            done = item["status"] == Status.SUCCESS
            return {**_WAITING_AGAIN, "version": next_version(item["version"], now)} if done else None

        return await self._change({chunk_key(collection, each) for each in chunk_ids}, again)

    async def marks(self, collection: str) -> AsyncIterator[list[ChunkMark]]:
        """Iterate over the marks of all chunks of a collection, including deleted ones, in order of id."""
        await self._documents.apply()
        async for page in pages(self._table.look_up, "chunks_by_id", collection):
            if page:
                yield [ChunkMark(*(item[name] for name in ChunkMark._fields)) for item in page]

    async def used(self, batches: Collection[str]) -> set[str]:
        """Return those of the batch ids that a chunk row still refers to, in any status."""
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

    async def _live(self, rows: Sequence[ChunkRow]) -> set[str]:
        return await self._submissions.live({row.submission for row in rows})

    async def _carried_by(self, submission: str) -> list[Key]:
        await self._documents.apply()
        members = await all_of(self._table.query, f"submission#{submission}")
        return [chunk_key(each["collection"], each["id"]) for each in members]

    async def _each(self, rows: Sequence[ChunkRow], worker: str, changes: Mapping[str, Any]) -> None:
        for row in rows:
            await update(
                self._table,
                chunk_key(row.collection, row.id),
                lambda item, row=row: changes if _holds(item, worker, row.version) else None,  # type: ignore[misc]
                beside=membership_of,
            )

    async def _held(self, worker: str, change: Callable[[Item], Mapping[str, Any] | None]) -> int:
        def changed(item: Item) -> Mapping[str, Any] | None:
            return change(item) if item["worker"] == worker and is_in_no_run(item) else None

        listed = await all_of(self._table.look_up, "chunks_by_worker", worker)
        return await self._change({item["place"] for item in listed}, changed)

    async def _change(
        self, keys: Collection[tuple[str, str]], change: Callable[[Item], Mapping[str, Any] | None]
    ) -> int:
        done = [await update(self._table, key, change) for key in sorted(keys)]
        return sum(item is not None for item in done)

    async def _read(self, keys: Sequence[tuple[str, str]]) -> list[ChunkRow]:
        return [row_of(ChunkRow, item) for item in await read_all(self._table, keys)]


def _failed(failure: Failure, worker: str) -> Callable[[Item], Mapping[str, Any] | None]:
    def change(item: Item) -> Mapping[str, Any] | None:
        if not _holds(item, worker, failure.version):
            return None
        return {
            "status": Status.FAILED,
            "attempts": item["attempts"] + 1,
            "failure": failure.kind,
            "error": escaped(failure.reason),
            "worker": "",
            "until": 0,
            "submission": "",
        }

    return change


def _holds(item: Item, worker: str, version: int) -> bool:
    return item["worker"] == worker and item["version"] == version and is_in_no_run(item)


def _in_order(row: ChunkRow) -> tuple[str, str, str, int, str]:
    return row.batch, row.collection, row.document, row.ordinal, row.id
