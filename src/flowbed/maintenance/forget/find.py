"""Finds what a request to forget is about: its chunks and documents, and every text they ever had."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from typing import TYPE_CHECKING

from flowbed.errors import NotFound, Rejected
from flowbed.index.erasure import IndexRow, rows_among, rows_where
from flowbed.index.search.filters import to_sql
from flowbed.maintenance.forget import Forgettable
from flowbed.maintenance.forget.request import ChunkToForget, Request
from flowbed.maintenance.forget.stored_texts import batch_files, bodies, deltas, passages_of
from flowbed.records import Space, canonical, vector_key
from flowbed.records.precomputed import is_precomputed

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from typing import Any

    from flowbed.lanes.contexts import IndexContext
    from flowbed.ledger import ChunkRow

# Where the server keeps what its clients have uploaded, and the results.
SERVED = ("files", "index-jobs", "jobs")
RUNS = 1_000  # recent runs, whose spaces caches may hold vectors of


class Found:
    """What is to be forgotten, as it is found."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.chunks: dict[tuple[str, str], ChunkToForget] = {}
        self.documents: dict[tuple[str, str], None] = {}
        self.hashes: set[str] = set()

    def add(self, row: ChunkRow) -> None:
        """Add a chunk of the ledger; a precomputed row is its own document."""
        self.chunks[row.collection, row.id] = ChunkToForget(
            collection=row.collection, id=row.id, source=row.source, document=row.document
        )
        if row.text_hash:
            self.hashes.add(row.text_hash)
        if is_precomputed(row.source):
            self.documents[row.source, row.document] = None

    def add_indexed(self, row: IndexRow) -> None:
        """Add a row of the index, which the ledger may not know."""
        self.chunks.setdefault((row.collection, row.id), ChunkToForget(collection=row.collection, id=row.id))
        if row.text_hash:
            self.hashes.add(row.text_hash)


async def find(
    context: IndexContext,
    *,
    ids: Sequence[str],
    documents: Sequence[str],
    where: Mapping[str, Any] | None,
    collection: str | None,
) -> tuple[Found, Forgettable]:
    """Find the chunks and documents that are meant, and other rows with the same texts.

    Raises:
        NotFound: a chunk, a document or the collection is not known.
        Rejected: nothing was named, or the filter is invalid.
    """
    if not ids and not documents and where is None:
        raise Rejected("name what to forget: ids of chunks, documents, or a filter on metadata")
    found = Found()
    for each in ids:
        await _add_chunk(context, each, collection, found)
    for each in documents:
        await _add_document(context, each, found)
    if where is not None:
        await _add_where(context, to_sql(where), collection, found)
    others = await _others(context, found)
    shared = tuple(sorted({row.id for row in others}))
    return found, Forgettable(
        chunks=tuple(sorted(found.chunks)), documents=tuple(sorted(found.documents)), shared=shared
    )


async def _add_chunk(context: IndexContext, subject: str, collection: str | None, found: Found) -> None:
    before = len(found.chunks)
    for row in await context.ledger.chunks.find(subject):
        if row.id == subject and collection in {None, row.collection}:
            found.add(row)
    for live in await context.collections.all():
        if collection in {None, live.collection}:
            for indexed in await rows_among(live, "id", [subject], datasets=context.datasets):
                found.add_indexed(indexed)
    if len(found.chunks) == before:
        raise NotFound(
            f"no chunk has the id {subject!r}; ids look like SOURCE#DOCUMENT#00000, and `flowbed search` shows them"
        )


async def _add_document(context: IndexContext, subject: str, found: Found) -> None:
    rows = [row for row in await context.ledger.chunks.find(subject) if row.document == subject]
    source, mark, document = subject.partition("#")
    if not rows and mark:
        rows = [row for row in await context.ledger.chunks.find(document) if row.source == source]
    named = {(row.source, row.document) for row in rows}
    for each in context.sources:
        if await context.ledger.documents.get(each, [subject]):
            named.add((each, subject))
    if mark and await context.ledger.documents.get(source, [document]):
        named.add((source, document))
    if not named:
        raise NotFound(
            f"no source has a document {subject!r}; write it as DOCUMENT or SOURCE#DOCUMENT, and look with"
            " `flowbed why DOCUMENT`"
        )
    for place in sorted(named):
        found.documents[place] = None
        for row in await context.ledger.chunks.of(place[0], [place[1]]):
            found.add(row)


async def _add_where(context: IndexContext, condition: str, collection: str | None, found: Found) -> None:
    lives = [live for live in await context.collections.all() if collection in {None, live.collection}]
    if collection is not None and not lives:
        raise NotFound(f"there is no collection {collection!r}")
    for live in lives:
        for row in await rows_where(live, condition, datasets=context.datasets):
            found.add_indexed(row)
            for known in await context.ledger.chunks.find(row.id):
                if (known.collection, known.id) == (live.collection, row.id):
                    found.add(known)


async def _others(context: IndexContext, found: Found) -> list[IndexRow]:
    """Return the rows of all collections that have one of the texts and are not to be forgotten."""
    return [
        row
        for live in await context.collections.all()
        for row in await rows_among(live, "text_hash", found.hashes, datasets=context.datasets)
        if (row.collection, row.id) not in found.chunks
    ]


async def make_request(
    context: IndexContext, found: Found, *, spaces: Collection[Space], id_: str
) -> Request:
    """Read everything that the chunks ever said, so that it can be found after their rows are gone."""
    sent: dict[str, str] = {}
    names = defaultdict[str, set[str]](set)
    for collection, chunk in found.chunks:
        names[chunk].add(collection)
    collections = sorted({collection for collection, _ in found.chunks})
    for keys in (batch_files(context.store), deltas(context.store, collections)):
        async for key, body in bodies(context.store, keys):
            try:
                passages = passages_of(key, body)
            except Rejected:
                continue  # reported when it cannot be rewritten
            for each in passages:
                if each.collection in names.get(each.id, ()) and each.text_hash:
                    sent[each.text_hash] = each.sent
                    if each.text != each.sent:
                        sent[hashlib.sha256(each.text.encode()).hexdigest()] = each.text
    found.hashes |= sent.keys()
    others = await _others(context, found)
    texts = found.hashes - {row.text_hash for row in others}
    keys_ = {
        vector_key(space, purpose, sent[each]).hex()
        for each in texts & sent.keys()
        for space in {*spaces, *await _spaces(context)}
        for purpose in ("document", "query")
    }
    return Request(
        id=id_,
        chunks=[found.chunks[each] for each in sorted(found.chunks)],
        documents=sorted(found.documents),
        texts=sorted(texts),
        keys=sorted(keys_),
        mentions=await _mentions(context, [sent[each] for each in sorted(texts & sent.keys())]),
        kept=len(others),
    )


async def _spaces(context: IndexContext) -> set[Space]:
    runs = await context.ledger.runs.recent(limit=RUNS)
    return {live.space for live in await context.collections.all()} | {
        Space.from_json(run.space) for run in runs
    }


async def _mentions(context: IndexContext, texts: Sequence[str]) -> list[str]:
    """Return the objects of the server that contain one of the texts, as JSON writes them."""
    needles = {
        needle
        for text in texts
        for needle in (canonical(text)[1:-1], json.dumps(text)[1:-1].encode(), text.encode())
        if needle
    }
    found = []
    for folder in SERVED if needles else ():
        async for listed in context.store.list(folder):
            try:
                body = (await context.store.get(listed.key)).body
            except NotFound:
                continue
            if any(needle in body for needle in needles):
                found.append(listed.key)
    return sorted(found)
