"""How far the chunks of a job are, as the ledger knows it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flowbed.ledger import ChunkRow
from flowbed.records import Status
from flowbed.records.precomputed import is_precomputed, precomputed_source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.ledger import ChunkMark, Ledger

# Documents whose chunks are read at once.
DOCUMENTS = 500
REJECTED = "rejected"


@dataclass
class ChunkStates:
    """The chunks of some documents: how many there are, are in the index, were refused, or are still to be done.

    `held` are `claimed` by a worker, or in a delta that no commit holds. `waiting_tokens` are those of the chunks to
    be done, and `batches` the sources of their batch files, by id. `refused` chunks failed for good. `unfinished` are
    the documents with a chunk that is still to be done.
    """

    total: int = 0
    stored: int = 0
    held: int = 0
    claimed: int = 0
    waiting: int = 0
    waiting_tokens: int = 0
    refused: list[ChunkRow] = field(default_factory=list)
    batches: dict[str, str] = field(default_factory=dict)
    unfinished: set[str] = field(default_factory=set)

    def add(self, row: ChunkRow) -> None:
        """Count one chunk; one that the document no longer has does not count."""
        if row.deleted:
            return
        self.total += 1
        if row.status is Status.SUCCESS:
            self.stored += 1
            return
        if row.status is Status.FAILED and row.failure == REJECTED:
            self.refused.append(row)
            return
        self.unfinished.add(row.document)
        self.batches[row.batch] = row.source
        if row.status is Status.PENDING:
            self.held += 1
            self.claimed += not row.run
        else:
            self.waiting += 1
            self.waiting_tokens += row.tokens


async def read_states(ledger: Ledger, source: str, documents: Sequence[str]) -> ChunkStates:
    """Read how far the chunks of documents are."""
    found = ChunkStates()
    for start in range(0, len(documents), DOCUMENTS):
        for row in await ledger.chunks.of(source, documents[start : start + DOCUMENTS]):
            found.add(row)
    return found


async def read_collection_states(ledger: Ledger, collection: str) -> ChunkStates:
    """Read how far the chunks of a collection are that a model embeds: those of precomputed rows are left out."""
    found = ChunkStates()
    async for marks in ledger.chunks.marks(collection):
        sources = {
            row.id: row.source for row in (await ledger.batches.get({each.batch for each in marks})).values()
        }
        for each in marks:
            source = sources.get(each.batch, "")
            if source and not is_precomputed(source):
                found.add(row_of_mark(collection, source, each))
    return found


async def requeue_collection(ledger: Ledger, collection: str, *, now: int) -> ChunkStates:
    """Let every chunk of a collection that a model embeds wait again, and return how far they are then."""
    async for marks in ledger.chunks.marks(collection):
        sources = {
            row.id: row.source for row in (await ledger.batches.get({each.batch for each in marks})).values()
        }
        ids = [
            each.id
            for each in marks
            if not each.deleted
            and not is_precomputed(sources.get(each.batch, precomputed_source(collection)))
        ]
        if ids:
            await ledger.chunks.requeue(collection, ids, now=now)
    return await read_collection_states(ledger, collection)


def row_of_mark(collection: str, source: str, mark: ChunkMark) -> ChunkRow:
    """Return what a mark tells of a chunk as a row."""
    return ChunkRow(
        collection=collection,
        id=mark.id,
        source=source,
        document="",
        ordinal=0,
        tokens=0,
        text_hash=mark.text_hash,
        row_hash=mark.row_hash,
        version=mark.version,
        batch=mark.batch,
        deleted=mark.deleted,
        status=mark.status,
    )
