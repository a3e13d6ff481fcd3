"""What vector stores need to have done: indexing, new attributes, deletions, expiry. One store at a time.

All of it is on the rows of the ledger, so that `process` may be called by any worker, any time, and more than once.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING

import orjson

from flowbed.chunking import Rules
from flowbed.errors import Error, Exhausted, Misconfigured
from flowbed.ledger.vector_stores import COMPLETED, FAILED
from flowbed.pipeline import ConfiguredSource
from flowbed.records.written import WrittenDocument, documents_source
from flowbed.services.batches.job_owner import JobOwner
from flowbed.services.vector_stores.attached import FAULT, FILES_TOGETHER, read_texts
from flowbed.services.vector_stores.deaths import forget_deaths, note_death
from flowbed.services.vector_stores.filters import metadata_of
from flowbed.sources.files.formats import is_parsed
from flowbed.sources.files.stored import StoredFile, StoredFiles
from flowbed.telemetry import log

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from flowbed.ledger.vector_stores import VectorStoreFileRow, VectorStoreRow
    from flowbed.records import Problem
    from flowbed.records.serving import Caller
    from flowbed.services.project import Project
    from flowbed.services.quotas import QuotaService
    from flowbed.sources.extraction.process import Parsers

# Seconds for which a process holds a store without renewing.
LEASE_SECONDS = 30.0
# A file that could not be indexed within this time (µs), because no provider answers, has failed: its owner waits.
PATIENCE_US = 86_400_000_000
INVALID, UNSUPPORTED = "invalid_file", "unsupported_file"


class Worked(Enum):
    """How a turn of a store ended: `DONE` or held elsewhere, to be gone on with, or waiting for a provider."""

    DONE = "done"
    GOES_ON = "goes on"
    WAITS = "waits"


class StoreProcessing:
    """Does the work of stores; each is held by one process at a time."""

    def __init__(
        self,
        bed: Project,
        quotas: QuotaService,
        parsers: Parsers,
    ) -> None:
        """Work on the stores of `bed`; the tokens of files count against the `quotas` of their owners."""
        self._bed, self._quotas, self._parsers = bed, quotas, parsers
        self._stores, self._files = bed.ledger.vector_stores, bed.ledger.vector_store_files
        self._worker = bed.worker()

    async def due(self) -> Sequence[VectorStoreRow]:
        """Return the stores that have work, oldest first."""
        return await self._stores.due(now=self._bed.clock())

    def is_free(self, row: VectorStoreRow) -> bool:
        """Tell whether no other process that may live holds a store."""
        return row.worker in {"", self._worker} or row.until < self._bed.clock() or self._bed.dead(row.worker)

    async def process(self, store: str) -> Worked:
        """Do what a store has to do, for one turn.

        Raises:
            Transient: the same call may succeed later.
        """
        async with self._held(store) as row:
            if row is None:
                return Worked.DONE
            if row.deleted or 0 < row.expires() <= self._bed.clock():
                await self._files.remove(row.id)
            while rows := await self._files.working(row.id, limit=FILES_TOGETHER):
                if not await self._work(row, rows):
                    return Worked.WAITS
                await forget_deaths(self._bed.ledger, row.id)
                if len(rows) == FILES_TOGETHER:
                    return Worked.GOES_ON
            if row.deleted:
                await self._bed.document_steps().erase(row.id)
                await self._stores.release(row.id, worker=self._worker, ended=self._bed.clock())
            return Worked.DONE

    @asynccontextmanager
    async def _held(self, store: str) -> AsyncIterator[VectorStoreRow | None]:
        """Hold a store, and renew the hold until the end; yields None if another process holds it."""
        row = await self._hold(store)
        if row is None:
            yield None
            return
        beating = asyncio.create_task(self._beat(store))
        try:
            yield row
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
            await self._stores.release(store, worker=self._worker)

    async def _hold(self, store: str) -> VectorStoreRow | None:
        now = self._bed.clock()
        row = await self._stores.get(store)
        if row is not None and row.worker and self._bed.dead(row.worker):
            await note_death(self._bed.ledger, store)
            await self._stores.release(store, worker=row.worker)
        return await self._stores.hold(
            store, worker=self._worker, now=now, until=now + round(LEASE_SECONDS * 1e6)
        )

    async def _beat(self, store: str) -> None:
        while True:
            await asyncio.sleep(LEASE_SECONDS / 3)
            try:
                await self._hold(store)
            except Error as error:  # there is time for another try before the hold runs out
                log.warning("vector store %s could not be held on to, will try again: %s", store, error)

    async def _work(self, store: VectorStoreRow, rows: Sequence[VectorStoreFileRow]) -> bool:
        """Do the work of some files; return whether all of it is done."""
        caller = await JobOwner(self._bed.ledger.keys, store.owner).caller()
        if caller is None:
            await self._files.cancel(
                store.id, code=FAULT, error="The API key of the vector store was revoked."
            )
            rows = [row for row in rows if row.work != "attach"]
            if not rows:
                return True
        steps, source = self._bed.document_steps(), documents_source(store.id)
        names = [row.file for row in rows]
        try:
            problems = await steps.sync(self._feeds(store, rows))
            before = await steps.read(source, names)
            refused = await self._charged(caller, rows, before)
            if refused:
                await steps.sync([self._feed(store, [], gone=list(refused))])
            embedded = await steps.embed([source])
        except Misconfigured as error:
            log.error("vector store %s cannot be indexed: %s", store.id, error)
            await self._files.cancel(store.id, code=FAULT, error="The server's model cannot be used now.")
            return False
        found = await steps.read(source, names)
        usage = await self._usage(store, found)
        settled = [
            await self._settle(row, found.get(row.file), problems.get(row.file), refused, usage)
            for row in rows
        ]
        await steps.dismiss(
            store.id, [chunk for each in found.values() if each.reason for chunk in each.chunks]
        )
        await self._files.drop(
            [
                row
                for row in rows
                if row.work == "remove" and not found.get(row.file, WrittenDocument()).waiting
            ]
        )
        if embedded.stopped:
            log.warning("vector store %s waits: %s", store.id, embedded.stopped)
        return all(settled)

    async def _charged(
        self, caller: Caller | None, rows: Sequence[VectorStoreFileRow], found: Mapping[str, WrittenDocument]
    ) -> dict[str, str]:
        """Count the tokens and chunks of new files against the owner's quotas; return why files do not fit."""
        refused = {}
        for row in rows:
            new = found.get(row.file) if row.work == "attach" else None
            if caller is None or new is None or not new.unsent_chunks:
                continue
            try:
                self._quotas.hold(caller, new.unsent)
                try:
                    await self._quotas.take_embeddings(caller, new.unsent_chunks)
                except Exhausted:
                    self._quotas.settle(caller, held=new.unsent, tokens=0)
                    raise
                self._quotas.settle(caller, held=new.unsent, tokens=new.unsent)
            except Exhausted as error:
                refused[row.file] = str(error)
        return refused

    async def _settle(
        self,
        row: VectorStoreFileRow,
        found: WrittenDocument | None,
        problem: Problem | None,
        refused: Mapping[str, str],
        usage: Mapping[str, int],
    ) -> bool:
        """Write what became of a file; return False if it has to be tried again."""
        waiting = found is not None and found.waiting
        if row.work in {"clean", "remove"}:
            if row.work == "clean" and not waiting:
                await self._files.settle(replace(row, work="", usage=0))
            return not waiting
        failure = _failure(row, found, problem, refused)
        if failure is None and waiting:
            if self._bed.clock() - row.created < PATIENCE_US:
                return False
            failure = FAULT, "The provider did not answer for a day: attach the file again."
        if failure is None:
            row = replace(row, status=COMPLETED, work="", usage=usage.get(row.file, 0), code="", error="")
        else:
            code, reason = failure
            row = replace(row, status=FAILED, work="clean", usage=0, code=code, error=reason)
        await self._files.settle(row)
        return True

    async def _usage(self, store: VectorStoreRow, found: Mapping[str, WrittenDocument]) -> dict[str, int]:
        """Sum the bytes of the texts and vectors of files."""
        reader = self._bed.reader()
        live = await reader.live(store.id)
        chunks = [chunk for each in found.values() for chunk in each.chunks]
        texts = await read_texts(reader, store.id, chunks)
        vector = 0 if live is None else 4 * live.space.dimensions
        return {
            file: sum(len(texts.get(chunk, "").encode()) + vector for chunk in each.chunks)
            for file, each in found.items()
        }

    def _feeds(self, store: VectorStoreRow, rows: Sequence[VectorStoreFileRow]) -> list[ConfiguredSource]:
        """Return the sources to sync: one for each way to chunk."""
        gone = [row.file for row in rows if row.work in {"clean", "remove"}]
        kinds: dict[str, list[VectorStoreFileRow]] = {}
        for row in rows:
            if row.work in {"attach", "update"}:
                kinds.setdefault(row.chunking, []).append(row)
        feeds = [self._feed(store, [], gone=gone)] if gone else []
        return feeds + [self._feed(store, each) for each in kinds.values()]

    def _feed(
        self, store: VectorStoreRow, rows: Sequence[VectorStoreFileRow], *, gone: Sequence[str] = ()
    ) -> ConfiguredSource:
        rules = Rules(source=documents_source(store.id), collections=(store.id,))
        if rows and (static := orjson.loads(rows[0].chunking).get("static")):
            rules = replace(
                rules, capacity=static["max_chunk_size_tokens"], overlap=static["chunk_overlap_tokens"]
            )
        files = [
            StoredFile(
                document=row.file,
                key=row.key,
                filename=row.filename,
                # Bytes of a stored file never change.
                etag=row.attributes,
                metadata=metadata_of(orjson.loads(row.attributes)),
            )
            for row in rows
        ]
        source = StoredFiles(self._bed.store, files, gone=gone, parsers=self._parsers)
        return ConfiguredSource(source=source, rules=rules)


def _failure(
    row: VectorStoreFileRow,
    found: WrittenDocument | None,
    problem: Problem | None,
    refused: Mapping[str, str],
) -> tuple[str, str] | None:
    """Return why a file cannot be indexed, as OpenAI's code and in words; None if it can."""
    if row.file in refused:
        return FAULT, refused[row.file]
    if problem is not None:
        unreadable = INVALID if is_parsed(row.filename) else UNSUPPORTED
        return (unreadable if problem.skipped else FAULT), f"{row.filename}: {problem.reason}"
    if found is None:
        return FAULT, f"{row.filename}: it was forgotten, and may not return"
    if found.reason:
        return FAULT, f"{row.filename}: {found.reason}"
    if not found.chunks and not found.waiting:
        return INVALID, f"{row.filename}: it has no text"
    return None
