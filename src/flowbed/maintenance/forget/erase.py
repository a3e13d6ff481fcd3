"""Carries out a request to forget: each step is safe to repeat, and a killed one continues from the beginning."""

from __future__ import annotations

import asyncio
import shutil
from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import orjson

from flowbed.errors import Error, NotFound, Rejected
from flowbed.index.erasure import erase_rows, holds_ids, unnamed_files
from flowbed.index.forgotten import change_blocked
from flowbed.lanes.batch.input import FOLDER as SUBMISSIONS
from flowbed.lanes.batch.input import read_texts
from flowbed.lanes.batch.lifecycle import end_and_release
from flowbed.lanes.claims import CLAIM
from flowbed.lanes.failures import RunStats
from flowbed.lanes.write_deltas import commit_pending
from flowbed.ledger.rows import Erasure
from flowbed.ledger.text import escaped
from flowbed.maintenance.forget import Receipt
from flowbed.maintenance.forget.request import open_requests, write_receipt, write_request
from flowbed.maintenance.forget.stored_texts import batch_files, bodies, deltas, hashes_of, without
from flowbed.pipeline.staging import PLANS, drop_plans
from flowbed.publish.forgetting import republish
from flowbed.telemetry import (
    FORGET_BLOCKED,
    FORGET_CACHE_ERASED,
    FORGET_FILE_REWRITTEN,
    FORGET_INDEX_ERASED,
    FORGET_LEDGER_ERASED,
    FORGET_MARKED,
    FORGET_RECEIPT_WRITTEN,
    FORGET_SCRUBBED,
    FORGET_STORE_ERASED,
    STAGE,
    reached,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from flowbed.embedding.cache.tiers import Forgetful
    from flowbed.lanes.contexts import IndexContext
    from flowbed.ledger import SubmissionRow
    from flowbed.maintenance.forget.request import Request
    from flowbed.maintenance.forget.stored_texts import Passage
    from flowbed.publish import PublishContext
    from flowbed.publish.due import Configured

# A younger file of the index that no version names may be part of a commit in progress.
GRACE = timedelta(hours=1) // timedelta(microseconds=1)


@dataclass(frozen=True, kw_only=True)
class Places:
    """The places outside store and ledger: caches by name, local folders, publications.

    `published` holds local folders of publications, `answers` what APIs answered to sources, `scratch` the folders in
    which a process builds files, named after it.
    """

    tiers: Mapping[str, Forgetful]
    published: Path
    answers: Path
    scratch: Path
    publications: Sequence[Configured]
    publish_context: Callable[[str], PublishContext]


async def forget(request: Request, context: IndexContext, places: Places, *, salt: str) -> Receipt:
    """Erase what a request names, everywhere, and write the receipt."""
    await write_request(context.store, request)
    reached(FORGET_MARKED, request=request.id)
    work = _Forgetting(request, context, places)
    reached(STAGE, stage="forget", source="ledger")
    await work.block(salt)
    await work.erase_ledger()
    reached(STAGE, stage="forget", source="index")
    await work.erase_index()
    reached(STAGE, stage="forget", source="store")
    await work.erase_store()
    await work.erase_caches()
    await work.publish()
    await work.scrub()
    return await work.finish()


async def resume(context: IndexContext, places: Places, *, salt: str) -> list[Receipt]:
    """Carry out the requests that were interrupted, or that had something left to do."""
    return [await forget(each, context, places, salt=salt) for each in await open_requests(context.store)]


class _Forgetting:
    """One request being carried out."""

    def __init__(self, request: Request, context: IndexContext, places: Places) -> None:
        self._request, self._context, self._places = request, context, places
        self._ids = defaultdict[str, list[str]](list)
        for each in request.chunks:
            self._ids[each.collection].append(each.id)
        self._chunks = {(each.collection, each.id) for each in request.chunks}
        self._texts = set(request.texts)
        self._current: dict[tuple[str, str], str] = {}
        self.receipt = Receipt(
            id=request.id, chunks=len(request.chunks), documents=len(request.documents), kept=request.kept
        )

    async def block(self, salt: str) -> None:
        """Keep the rows from coming back."""
        request = self._request
        whole = set(request.documents)

        def change(before: Any) -> list[tuple[str, str]]:
            owners = dict(before.owners)
            for source, document in request.documents:
                owners[before.of_document(source, document)] = ""
            for each in request.chunks:
                place = (each.source, each.document)
                chunk = before.of_chunk(each.collection, each.id)
                owners[chunk] = before.of_document(*place) if place in whole else ""
                if each.source and place not in whole:
                    for text in request.texts:
                        owners.setdefault(before.of_passage(*place, text), chunk)
            return list(owners.items())

        context = self._context
        await change_blocked(context.store, change, salt=salt, request=request.id, now=context.clock())
        reached(FORGET_BLOCKED, request=request.id)

    async def erase_ledger(self) -> None:
        """Remove the rows of the ledger; a fetch that has read them can no longer write."""
        request, ledger = self._request, self._context.ledger
        sources = {each.source for each in request.chunks if each.source}
        sources |= {source for source, _ in request.documents}
        erased = await ledger.erasing.erase(
            Erasure(chunks=sorted(self._chunks), documents=list(request.documents), sources=sorted(sources))
        )
        self.receipt.add("ledger", "rows", erased)
        self.receipt.add("ledger", "dead letters", await self._remove_letters())
        reached(FORGET_LEDGER_ERASED, request=request.id)

    async def _remove_letters(self) -> int:
        ids = {each.id for each in self._request.chunks}
        names = {escaped(each) for each in (*ids, *(name for _, name in self._request.documents))}
        found = [
            letter
            async for page in self._context.ledger.dead_letters.pages()
            for letter in page
            if any(name in letter.subject or name in letter.reason for name in names)
        ]
        letters = self._context.ledger.dead_letters
        return sum(
            [await letters.remove(each.kind, owner=each.owner, subjects=[each.subject]) for each in found]
        )

    async def erase_index(self) -> None:
        """Commit what is pending, and remove the rows from every index that may hold them."""
        context, receipt = self._context, self.receipt
        for collection, ids in sorted(self._ids.items()):
            stats = RunStats()
            await commit_pending(collection, context, stats)
            live = await context.collections.get(collection)
            if live is None:
                continue
            done = await erase_rows(live, ids, datasets=context.datasets)
            receipt.add(live.key, "rows", done.rows)
            receipt.add(live.key, "older versions", done.versions)
            receipt.add(live.key, "tags", len(done.tags))
            await self._unnamed(live)
            for name in await context.store.folders(f"{collection}/index"):
                key = f"{collection}/index/{name}"
                if key != live.key and await holds_ids(context.store, key, ids):
                    old = [listed.key async for listed in context.store.list(key)]
                    await context.store.delete(old)
                    receipt.add(key, "objects of an index that is not live", len(old))
        reached(FORGET_INDEX_ERASED, request=self._request.id)

    async def _unnamed(self, live: Any) -> None:
        """Delete files that a killed commit left; leave those that a commit may be writing."""
        context = self._context
        files = await unnamed_files(live, datasets=context.datasets, store=context.store)
        old = [key for key, modified in files.items() if modified < context.clock() - GRACE]
        await context.store.delete(old)
        self.receipt.add(live.key, "files of killed commits", len(old))
        if young := len(files) - len(old):
            self.receipt.miss(
                live.key,
                f"{young} files that no version names are less than an hour old, perhaps of a commit in progress:"
                " `flowbed forget --resume` later",
                left=True,
            )

    async def erase_store(self) -> None:
        """Rewrite batch files, and delete deltas, plans and submissions that hold the rows."""
        await self._rewrite_batches()
        await self._delete_deltas()
        await self._drop_plans()
        await self._delete_submissions()
        for key in self._request.mentions:
            self.receipt.miss(
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
                self.receipt.miss(key, f"it cannot be read: {error}")
                continue
            if left_out:
                await (store.put(key, kept) if kept is not None else store.delete([key]))
                reached(FORGET_FILE_REWRITTEN, key=key)
            gone += left_out
        self.receipt.add("batch files", "texts", gone)

    async def _look_up(self, key: str, body: bytes) -> None:
        """Read from the ledger which other chunks have one of the texts now, and need it still."""
        from flowbed.maintenance.forget.stored_texts import passages_of

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
        async for key, body in bodies(store, deltas(store, sorted(self._ids))):
            collection = key.partition("/")[0]
            try:
                rows = await asyncio.to_thread(hashes_of, body)
            except (ValueError, OSError, KeyError) as error:  # as pyarrow reports files that are none
                self.receipt.miss(key, f"it cannot be read: {error}")
                continue
            if not any((collection, each) in self._chunks or text in self._texts for each, text in rows):
                continue
            run = await ledger.runs.get(key.split("/")[-2])
            if run is not None and run.state == "pending":
                self.receipt.miss(
                    key, "its run could not be committed: `flowbed forget --resume` later", left=True
                )
                continue
            folders.append(key.rpartition("/")[0])
        for folder in folders:
            await store.delete([listed.key async for listed in store.list(folder)])
        self.receipt.add("deltas", "objects", len(folders))
        await self._name_foreign()

    async def _name_foreign(self) -> None:
        """Name deltas of other producers: what is in them is not known."""
        for collection in sorted(self._ids):
            foreign = {
                listed.key.rpartition("/")[0]
                async for listed in self._context.store.list(f"{collection}/delta")
                if not listed.key.endswith("/delta.arrow")
            }
            for folder in sorted(foreign):
                own = [listed.key async for listed in self._context.store.list(folder)]
                if f"{folder}/delta.arrow" not in own:
                    self.receipt.miss(folder, "another producer made it: delete it if it holds the rows")

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
        self.receipt.add(PLANS, "plans", len(gone))

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
                self.receipt.miss(
                    f"{SUBMISSIONS}/{name}",
                    "it is at its provider, and was asked to be cancelled: `flowbed submissions poll`, then `flowbed"
                    " forget --resume`",
                    left=True,
                )
                continue
            await store.delete([listed.key async for listed in store.list(f"{SUBMISSIONS}/{name}")])
            gone += 1
        self.receipt.add(SUBMISSIONS, "submissions", gone)

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

    async def erase_caches(self) -> None:
        """Delete the vectors of the texts, the local folders of publications, and what sources kept to save calls."""
        keys = [bytes.fromhex(each) for each in self._request.keys]
        for name, tier in self._places.tiers.items():
            try:
                self.receipt.add(name, "vectors", await tier.forget(keys) if keys else 0)
            except Error as error:
                self.receipt.miss(name, f"{error}; then `flowbed forget --resume`", left=True)
        for folder in (self._places.published, self._places.answers):
            if await asyncio.to_thread(folder.exists):
                await asyncio.to_thread(shutil.rmtree, folder)
                self.receipt.add(str(folder), "folders", 1)
        for each in await asyncio.to_thread(_inside, self._places.scratch):
            if self._context.dead(each.name.replace("~", "/")):
                await asyncio.to_thread(shutil.rmtree, each)
                self.receipt.add(str(each), "folders", 1)
            else:
                self.receipt.miss(str(each), "a process uses it, and deletes it at its end")
        reached(FORGET_CACHE_ERASED, request=self._request.id)

    async def publish(self) -> None:
        """Publish without the rows, and delete what was published before."""
        places = self._places
        for collection in sorted(self._ids):
            live = await self._context.collections.get(collection)
            if live is None:
                continue
            done = await republish(
                places.publications,
                places.publish_context,
                live,
                store=self._context.store,
                now=self._context.clock(),
            )
            self.receipt.add(f"{collection}/snapshot", "snapshots", done.deleted)
            for name in done.published:
                self.receipt.add(f"publication {name} of {collection}", "new versions", 1)
            for place, why in done.not_reached:
                self.receipt.miss(place, why)
            for place, why in done.left:
                self.receipt.miss(place, f"{why}; then `flowbed forget --resume`", left=True)

    async def scrub(self) -> None:
        """Overwrite what removed rows have left in the ledger's file."""
        if why := await self._context.ledger.erasing.scrub():
            self.receipt.miss("ledger", why)
        reached(FORGET_SCRUBBED, request=self._request.id)

    async def finish(self) -> Receipt:
        """Name the places that Flowbed cannot reach, and write the receipt."""
        receipt, context = self.receipt, self._context
        receipt.at = context.clock()
        models = sorted(
            {live.space.model for live in await context.collections.all() if live.collection in self._ids}
        )
        receipt.miss(
            "providers",
            f"what {', '.join(models) or 'a model'} was sent, unless the model runs on this machine",
        )
        receipt.miss(
            "copies", "snapshots and exports that others downloaded, backups, and logs of other programs"
        )
        receipt.miss("memory", "vectors and rows in the memory of processes that run now, until they end")
        if context.store.url.startswith("s3:"):
            receipt.miss(context.store.url, "older versions of its objects, if the bucket keeps them")
        if await context.ledger.chunks.workers():
            receipt.miss(
                "workers",
                "runs in progress may have the texts in memory: a commit leaves them out, nothing stays",
            )
        await write_receipt(context.store, receipt)
        reached(FORGET_RECEIPT_WRITTEN, request=self._request.id)
        return receipt


def _inside(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []
