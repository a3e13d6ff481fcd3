"""Documents that callers write into collections: at once where they are small, else by a job."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from flowbed.chunking import Rules
from flowbed.errors import NotFound
from flowbed.pipeline import ConfiguredSource
from flowbed.records.names import is_store
from flowbed.records.written import WrittenDocument, documents_source
from flowbed.services.embedding.inputs import most_tokens
from flowbed.services.jobs.documents import InputDocuments

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.index.active_space import Live
    from flowbed.ledger.index_jobs import IndexJobRow
    from flowbed.records import Problem, Scalar
    from flowbed.records.serving import Caller
    from flowbed.services.files import FileService
    from flowbed.services.jobs.jobs import IndexJobService
    from flowbed.services.jobs.requests import IndexRequest
    from flowbed.services.project import Project
    from flowbed.services.quotas import QuotaService

# Characters of all texts of a request that are written before it is answered: some 100 chunks, which a local model
# embeds in a second. Files are parsed by a job.
AT_ONCE_CHARACTERS = 100_000
# Documents whose rows are read, or that are deleted, at a time.
TOGETHER = 1_000


@dataclass(frozen=True, kw_only=True)
class DocumentView:
    """A document of a collection; `metadata` is that of its first chunk, with what Flowbed added.

    `status` is `completed`, `in_progress` or `failed`; `reason` says why it failed.
    """

    collection: str
    id: str
    status: str
    chunks: int = 0
    tokens: int = 0
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Put:
    """What became of a request to write: documents, or the job that writes them."""

    documents: Sequence[DocumentView] = ()
    job: IndexJobRow | None = None


class DocumentService:
    """Writes, reads and deletes documents of collections for callers who may."""

    def __init__(self, bed: Project, jobs: IndexJobService, files: FileService, quotas: QuotaService) -> None:
        """Write what is small at once, and leave the rest to `jobs`."""
        self._bed, self._jobs, self._files, self._quotas = bed, jobs, files, quotas
        self._locks: dict[str, asyncio.Lock] = {}

    async def put(self, caller: Caller, request: IndexRequest) -> Put:
        """Write documents; each replaces the one with its id.

        Raises:
            Forbidden: the caller may not write, or its key may not use the project's model.
            Exhausted: its quota of today is too small.
            Rejected: the request is invalid.
            NotFound: a file does not exist, or the collection is a vector store.
            Transient: the same request may succeed later; it is safe to repeat.
        """
        characters = sum(len(each.text) for each in request.documents)
        if request.files or request.reembed or characters > AT_ONCE_CHARACTERS:
            return Put(job=(await self._jobs.create(caller, request))[0])
        await self._jobs.check(caller, request)
        held = sum(most_tokens(each.text) for each in request.documents)
        taken = await self._quotas.take_embeddings(caller, request.cost())
        tokens, chunks = 0, 0
        try:
            self._quotas.hold(caller, held)
            try:
                async with self._alone(request.collection):
                    names = [each.id for each in request.documents]
                    problems, tokens, chunks = await self._write(caller, request)
                    return Put(documents=await self._views(request.collection, names, problems))
            finally:
                self._quotas.settle(caller, held=held, tokens=tokens)
        finally:
            self._quotas.settle_embeddings(caller, taken=taken, made=chunks)

    async def get(self, collection: str, document: str) -> DocumentView:
        """Return a document.

        Raises:
            NotFound: the collection has no such document that was written by a caller.
        """
        (found,) = await self._views(collection, [document], {})
        if found.reason == ABSENT:
            raise NotFound(f"Collection {collection} has no document {document[:80]!r}.", param="document")
        return found

    async def list(
        self, collection: str, *, where: Mapping[str, Any] | None, after: str, limit: int
    ) -> tuple[Sequence[DocumentView], bool]:
        """List documents with an id after that one, in the order of ids, and tell whether more follow.

        With `where`, only documents with a chunk that matches it.

        Raises:
            Rejected: the filter is invalid.
        """
        names = await self._names(collection) if where is None else await self._matching(collection, where)
        chosen = [name for name in names if name > after][: limit + 1]
        return await self._views(collection, chosen[:limit], {}), len(chosen) > limit

    async def delete(self, caller: Caller, collection: str, documents: Sequence[str]) -> Sequence[str]:
        """Delete documents, and return which of them were there; afterwards no search finds them.

        Raises:
            Forbidden: the caller may not write.
            Transient: the same request may succeed later.
        """
        self._jobs.require_writer(caller)
        source = documents_source(collection)
        known = await self._bed.ledger.documents.etags(source, documents)
        async with self._alone(collection):
            for start in range(0, len(known), TOGETHER):
                await self._remove(collection, list(known)[start : start + TOGETHER])
        return list(known)

    async def delete_where(self, caller: Caller, collection: str, where: Mapping[str, Any]) -> Sequence[str]:
        """Delete the documents with a chunk that matches a filter, and return their ids.

        Raises:
            Forbidden: the caller may not write.
            Rejected: the filter is invalid.
        """
        self._jobs.require_writer(caller)
        return await self.delete(caller, collection, await self._matching(collection, where))

    async def first_chunk(self, collection: str, document: str) -> str:
        """Return the id of the first chunk of a document that is indexed.

        Raises:
            NotFound: there is none.
        """
        found = (await self._bed.document_steps().read(documents_source(collection), [document])).get(
            document
        )
        if found is None or not found.chunks:
            raise NotFound(f"Collection {collection} has no document {document[:80]!r}.", param="document")
        return found.chunks[0]

    async def _write(self, caller: Caller, request: IndexRequest) -> tuple[dict[str, Problem], int, int]:
        """Sync, embed and commit documents; return the problems by document, and the tokens and chunks that are new."""
        source = documents_source(request.collection)
        rules = Rules(source=source, collections=(request.collection,), **request.chunking)
        parts = InputDocuments(request.documents, self._files, self._bed.store, owner=caller.key or "")
        steps = self._bed.document_steps()
        problems = await steps.sync([ConfiguredSource(source=parts, rules=rules)])
        found = await steps.read(source, [each.id for each in request.documents])
        tokens = sum(each.unsent for each in found.values())
        chunks = sum(each.unsent_chunks for each in found.values())
        await steps.embed([source])
        return problems, tokens, chunks

    async def _remove(self, collection: str, documents: Sequence[str]) -> None:
        source = documents_source(collection)
        rules = Rules(source=source, collections=(collection,))
        parts = InputDocuments(documents, self._files, self._bed.store, owner="")
        steps = self._bed.document_steps()
        await steps.sync([ConfiguredSource(source=parts, rules=rules)])
        await steps.embed([source])

    async def _views(
        self, collection: str, documents: Sequence[str], problems: Mapping[str, Problem]
    ) -> Sequence[DocumentView]:
        found = await self._bed.document_steps().read(documents_source(collection), documents)
        metadata = await self._metadata(
            collection, [each.chunks[0] for each in found.values() if each.chunks]
        )
        views = []
        for name in documents:
            document = found.get(name)
            refused = problems[name].reason if name in problems else ABSENT if document is None else ""
            document = document or WrittenDocument()
            reason = refused or document.reason
            waiting = "in_progress" if document.waiting else "completed"
            views.append(
                DocumentView(
                    collection=collection,
                    id=name,
                    status="failed" if reason else waiting,
                    chunks=len(document.chunks),
                    tokens=document.tokens,
                    metadata=metadata.get(document.chunks[0], {}) if document.chunks else {},
                    reason=reason,
                )
            )
        return views

    async def _metadata(self, collection: str, chunks: Sequence[str]) -> dict[str, dict[str, Scalar]]:
        live = await self._live(collection) if chunks else None
        reader = self._bed.reader()
        selection = None if live is None else await reader.rows.select(live, ids=chunks)
        found: dict[str, dict[str, Scalar]] = {}
        if selection is None:
            return found
        from flowbed.index.search.rows import BLOCK  # loads numpy and lance

        for first in range(0, len(selection), BLOCK):
            names = await selection.strings("id", first=first)
            said = await selection.strings("metadata", first=first)
            found |= {name: orjson.loads(each) for name, each in zip(names, said, strict=True)}
        return found

    async def _names(self, collection: str) -> Sequence[str]:
        pages = self._bed.ledger.documents.pages(documents_source(collection))
        return [row.id async for page in pages for row in page]

    async def _matching(self, collection: str, where: Mapping[str, Any]) -> Sequence[str]:
        """Return the ids of the documents with a chunk that matches a filter, in order."""
        live = await self._live(collection)
        if live is None:
            return []
        from flowbed.index.search.rows import BLOCK  # loads numpy and lance

        written = {"source": documents_source(collection)}
        selection = await self._bed.reader().rows.select(live, where={"$and": [written, where]})
        names: set[str] = set()
        for first in range(0, 0 if selection is None else len(selection), BLOCK):
            assert selection is not None  # noqa: S101 - without one there is no block
            names.update(
                str(orjson.loads(each)["document"])
                for each in await selection.strings("metadata", first=first)
            )
        return sorted(names)

    async def _live(self, collection: str) -> Live | None:
        return None if is_store(collection) else await self._bed.reader().live(collection)

    def _alone(self, collection: str) -> asyncio.Lock:
        """Write one request after the other in this process: those that overlap would repeat each other's work."""
        return self._locks.setdefault(collection, asyncio.Lock())


ABSENT = "it is not there"
