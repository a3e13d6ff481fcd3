"""Carries out a request to forget: each step is safe to repeat, and a killed one continues from the beginning."""

from __future__ import annotations

import asyncio
import shutil
from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from flowbed.errors import Error
from flowbed.index.erasure import erase_rows, holds_ids, unnamed_files
from flowbed.index.forgotten import change_blocked
from flowbed.lanes.failures import RunStats
from flowbed.lanes.write_deltas import commit_pending
from flowbed.ledger.rows import Erasure
from flowbed.ledger.text import escaped
from flowbed.maintenance.forget import Receipt
from flowbed.maintenance.forget.request import open_requests, write_receipt, write_request
from flowbed.maintenance.forget.store_erasure import StoreErasure
from flowbed.publish.forgetting import republish
from flowbed.telemetry import (
    FORGET_BLOCKED,
    FORGET_CACHE_ERASED,
    FORGET_INDEX_ERASED,
    FORGET_LEDGER_ERASED,
    FORGET_MARKED,
    FORGET_RECEIPT_WRITTEN,
    FORGET_SCRUBBED,
    STAGE,
    reached,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from flowbed.embedding.cache.tiers import Forgetful
    from flowbed.lanes.contexts import IndexContext
    from flowbed.maintenance.forget.request import Request
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
    await StoreErasure(request, context, work.receipt).erase()
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
