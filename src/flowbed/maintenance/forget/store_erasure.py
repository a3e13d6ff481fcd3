"""Erases what a request names from the store: batch files, deltas, plans and submissions."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import orjson

from flowbed.errors import NotFound, Rejected
from flowbed.lanes.batch.input import FOLDER as SUBMISSIONS
from flowbed.lanes.batch.input import read_texts
from flowbed.lanes.batch.lifecycle import end_and_release
from flowbed.lanes.claims import CLAIM
from flowbed.maintenance.forget.stored_texts import (
    batch_files,
    bodies,
    deltas,
    hashes_of,
    passages_of,
    without,
)
from flowbed.pipeline.staging import PLANS, drop_plans
from flowbed.telemetry import FORGET_FILE_REWRITTEN, FORGET_STORE_ERASED, reached

if TYPE_CHECKING:
    from flowbed.lanes.contexts import IndexContext
    from flowbed.ledger import SubmissionRow
    from flowbed.maintenance.forget import Receipt
    from flowbed.maintenance.forget.request import Request
    from flowbed.maintenance.forget.stored_texts import Passage


class StoreErasure:
    """One request being carried out in the store; safe to repeat."""

    def __init__(self, request: Request, context: IndexContext, receipt: Receipt) -> None:
        """Erase what `request` names, and write into `receipt` what was erased and what could not be reached."""
        self._request, self._context, self._receipt = request, context, receipt
        self._chunks = {(each.collection, each.id) for each in request.chunks}
        self._collections = sorted({each.collection for each in request.chunks})
        self._texts = set(request.texts)
        self._current: dict[tuple[str, str], str] = {}

    async def erase(self) -> None:
        """Rewrite batch files, and delete deltas, plans and submissions that hold the rows."""
        await self._rewrite_batches()
        await self._delete_deltas()
        await self._drop_plans()
        await self._delete_submissions()
        for key in self._request.mentions:
            self._receipt.miss(
                key,
                "a client of the server uploaded or was sent one of the texts: delete it with the Files API",
            )
        reached(FORGET_STORE_ERASED, request=self._request.id)

    async def _rewrite_batches(self) -> None:
        store, gone = self._context.store, 0
        async for key, body in bodies(store, batch_files(store)):
            try:
                await self._look_up(key, body)
                kept, left_out = await asyncio.to_thread(without, key, body, self._is_wanted)
            except Rejected as error:
                self._receipt.miss(key, f"it cannot be read: {error}")
                continue
            if left_out:
                await (store.put(key, kept) if kept is not None else store.delete([key]))
                reached(FORGET_FILE_REWRITTEN, key=key)
            gone += left_out
        self._receipt.add("batch files", "texts", gone)

    async def _look_up(self, key: str, body: bytes) -> None:
        """Read from the ledger which other chunks have one of the texts now, and need it still."""
        for each in await asyncio.to_thread(passages_of, key, body):
            place = (each.collection, each.id)
            if place in self._chunks or place in self._current or each.text_hash not in self._texts:
                continue
            self._current[place] = ""
            for row in await self._context.ledger.chunks.find(each.id):
                if (row.collection, row.id) == place and not row.deleted:
                    self._current[place] = row.text_hash

    def _is_wanted(self, passage: Passage) -> bool:
        place = (passage.collection, passage.id)
        if place in self._chunks:
            return False
        return passage.text_hash not in self._texts or self._current.get(place) == passage.text_hash

    async def _delete_deltas(self) -> None:
        store, ledger = self._context.store, self._context.ledger
        folders: list[str] = []
        async for key, body in bodies(store, deltas(store, self._collections)):
            collection = key.partition("/")[0]
            try:
                rows = await asyncio.to_thread(hashes_of, body)
            except (ValueError, OSError, KeyError) as error:  # as pyarrow reports files that are none
                self._receipt.miss(key, f"it cannot be read: {error}")
                continue
            if not any((collection, each) in self._chunks or text in self._texts for each, text in rows):
                continue
            run = await ledger.runs.get(key.split("/")[-2])
            if run is not None and run.state == "pending":
                self._receipt.miss(
                    key, "its run could not be committed: `flowbed forget --resume` later", left=True
                )
                continue
            folders.append(key.rpartition("/")[0])
        for folder in folders:
            await store.delete([listed.key async for listed in store.list(folder)])
        self._receipt.add("deltas", "objects", len(folders))
        await self._name_foreign()

    async def _name_foreign(self) -> None:
        """Name deltas of other producers: what is in them is not known."""
        for collection in self._collections:
            foreign = {
                listed.key.rpartition("/")[0]
                async for listed in self._context.store.list(f"{collection}/delta")
                if not listed.key.endswith("/delta.arrow")
            }
            for folder in sorted(foreign):
                own = [listed.key async for listed in self._context.store.list(folder)]
                if f"{folder}/delta.arrow" not in own:
                    self._receipt.miss(folder, "another producer made it: delete it if it holds the rows")

    async def _drop_plans(self) -> None:
        names = [
            each
            for pair in (*self._chunks, *self._request.documents)
            for each in (orjson.dumps(pair[1])[1:-1],)
        ]
        gone = []
        for plan in await self._context.store.folders(PLANS):
            async for listed in self._context.store.list(f"{PLANS}/{plan}"):
                try:
                    body = (await self._context.store.get(listed.key)).body
                except NotFound:
                    continue
                if any(each in body for each in (*names, *(text.encode() for text in self._texts))):
                    gone.append(plan)
                    break
        await drop_plans(self._context.store, gone)
        self._receipt.add(PLANS, "plans", len(gone))

    async def _delete_submissions(self) -> None:
        store, gone = self._context.store, 0
        for name in await store.folders(SUBMISSIONS):
            try:
                carried = await read_texts(name, store)
            except NotFound:
                carried = []
            if not self._texts & set(carried):
                continue
            row = await self._context.ledger.submissions.get(name)
            if row is not None and not row.ended and not await self._withdraw(row):
                self._receipt.miss(
                    f"{SUBMISSIONS}/{name}",
                    "it is at its provider, and was asked to be cancelled: `flowbed submissions poll`, then `flowbed"
                    " forget --resume`",
                    left=True,
                )
                continue
            await store.delete([listed.key async for listed in store.list(f"{SUBMISSIONS}/{name}")])
            gone += 1
        self._receipt.add(SUBMISSIONS, "submissions", gone)

    async def _withdraw(self, row: SubmissionRow) -> bool:
        """End a submission that was not sent, and ask for one that was to be cancelled; return whether it has ended."""
        ledger, now = self._context.ledger, self._context.clock()
        await ledger.submissions.cancel(row.id)
        if row.state != "ready":
            return False
        held = await ledger.submissions.hold(row.id, worker=self._context.worker, now=now, until=now + CLAIM)
        if held is None or held.state != "ready":
            return False
        await end_and_release(held, "cancelled", "it carried a text that was forgotten", self._context)
        return True
