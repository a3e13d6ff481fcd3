"""Read the documents that a fetch lists, and compare them with the ledger, chunk by chunk."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flowbed.chunking import chunk_as_read
from flowbed.errors import Rejected, Unreadable
from flowbed.index.forgotten import Blocked
from flowbed.ledger import DocumentRow
from flowbed.ledger.text import require_storable
from flowbed.pipeline.comparing.records import Change, Write, was_text
from flowbed.records import Problem, Status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from flowbed.ledger import ChunkRow, Ledger
    from flowbed.pipeline import ConfiguredSource
    from flowbed.pipeline.comparing.records import Scan
    from flowbed.records import Chunk, Entry, Reading

# A batch file holds about this many chunks: some megabytes, a few seconds of a provider's work.
BATCH_CHUNKS = 2_000
# Documents that are read and chunked before their chunks are counted.
READ_AT_ONCE = 64
# In these states the index holds something else for a chunk than the ledger says: it failed, or was rolled back.
UNSETTLED = frozenset({Status.FAILED, Status.REVERTED})


@dataclass
class Stretch:
    """A change that is being collected."""

    documents: list[DocumentRow] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    deletes: list[ChunkRow] = field(default_factory=list)
    fetched: int = 0

    @property
    def full(self) -> bool:
        """Whether it has as many chunks as a batch file."""
        return max(len(self.writes) + len(self.deletes), len(self.documents)) >= BATCH_CHUNKS

    def change(self, value: str) -> Change:
        """Return the change, after which the cursor is `value`."""
        return Change(
            value=value,
            documents=tuple(self.documents),
            writes=tuple(self.writes),
            deletes=tuple(self.deletes),
            fetched=self.fetched,
        )


@dataclass(frozen=True)
class _Read:
    """A document that was read: its hash, and its chunks, or None where it is unchanged."""

    entry: Entry
    hash: str
    chunks: list[Chunk] | None


async def compared(
    feed: ConfiguredSource,
    entries: Sequence[Entry],
    *,
    ledger: Ledger,
    read: Callable[[str], Reading],
    clock: Callable[[], int],
    scan: Scan,
) -> AsyncIterator[Stretch]:
    """Compare the entries whose etag has changed with the ledger."""
    if not entries:
        return
    source, mark = feed.rules.source, f"{feed.rules.fingerprint}:"
    etags = await ledger.documents.etags(source, [entry.document for entry in entries])
    scan.known += len(etags)
    moved = [entry for entry in entries if etags.get(entry.document) != mark + entry.etag]
    blocked = await scan.forgotten() if moved and scan.forgotten is not None else Blocked()
    if blocked:
        moved = [entry for entry in moved if not blocked.document(source, entry.document)]
    # Most have not changed, and a row takes twice as long to read as its etag.
    known = await ledger.documents.get(source, [entry.document for entry in moved]) if moved else {}
    stretch = Stretch()
    start = 0
    while start < len(moved):
        some = moved[start : start + READ_AT_ONCE]
        documents, problems = await _read_in_thread(feed, some, known, read, blocked)
        start += len(documents) + len(problems)
        scan.problems += problems
        await _compare(feed, documents, known, stretch, ledger=ledger, now=clock(), scan=scan)
        if stretch.full:
            yield stretch
            stretch = Stretch()
    if stretch.documents:
        yield stretch


async def _read_in_thread(
    feed: ConfiguredSource,
    entries: Sequence[Entry],
    known: Mapping[str, DocumentRow],
    read: Callable[[str], Reading],
    blocked: Blocked,
) -> tuple[list[_Read], list[Problem]]:
    """Read and chunk in a thread; a cancelled fetch ends it at the next count, instead of after the last document."""
    left = threading.Event()

    def watched(text: str) -> Reading:
        if left.is_set():
            raise asyncio.CancelledError
        return read(text)

    try:
        return await asyncio.to_thread(_read, feed, entries, known, watched, blocked)
    finally:
        left.set()


def _read(
    feed: ConfiguredSource,
    entries: Sequence[Entry],
    known: Mapping[str, DocumentRow],
    read: Callable[[str], Reading],
    blocked: Blocked,
) -> tuple[list[_Read], list[Problem]]:
    """Read the entries, and chunk those whose content has changed; stop early where they make a whole batch."""
    documents: list[_Read] = []
    problems: list[Problem] = []
    made = 0
    for entry in entries:
        if made >= BATCH_CHUNKS:
            break
        try:
            document = entry.read()
            digest = hashlib.sha256(f"{feed.rules.fingerprint}:{document.hash}".encode()).hexdigest()
            row = known.get(entry.document)
            same = row is not None and row.hash == digest
            chunks = None if same else chunk_as_read(document, feed.rules, read)
            if blocked and chunks:
                chunks = [each for each in chunks if not _is_forgotten(each, feed.rules.source, blocked)]
            require_storable([entry.document, *(each.id for each in chunks or ())])
            documents.append(_Read(entry, digest, chunks))
            made += len(chunks or ())
        except Rejected as error:
            problem = Problem(
                subject=entry.document,
                reason=str(error),
                document=entry.document,
                skipped=isinstance(error, Unreadable),
            )
            # What is indexed of it is older than the file.
            problems.append(was_text(problem) if problem.skipped and entry.document in known else problem)
    return documents, problems


def _is_forgotten(chunk_: Chunk, source: str, blocked: Blocked) -> bool:
    return blocked.chunk(chunk_.collection, chunk_.id) or blocked.passage(
        source, chunk_.document, chunk_.text_hash
    )


async def _compare(
    feed: ConfiguredSource,
    read: Sequence[_Read],
    known: Mapping[str, DocumentRow],
    stretch: Stretch,
    *,
    ledger: Ledger,
    now: int,
    scan: Scan,
) -> None:
    """Add the differences between the documents read and their rows to the stretch."""
    source = feed.rules.source
    before: dict[str, list[ChunkRow]] = {}
    changed = [each.entry.document for each in read if each.chunks is not None]
    for row in await ledger.chunks.of(source, changed) if changed else []:
        before.setdefault(row.document, []).append(row)
    for each in read:
        name = each.entry.document
        size = known[name].chunks if each.chunks is None else len(each.chunks)
        if each.chunks is not None:
            new, gone = differences(each.chunks, before.get(name, []))
            if problem := await _owned_elsewhere(source, name, new, ledger=ledger, scan=scan):
                scan.problems.append(problem)
                continue
            stretch.writes += new
            stretch.deletes += gone
            stretch.fetched += 1
        stretch.documents.append(
            DocumentRow(
                source=source,
                id=name,
                etag=f"{feed.rules.fingerprint}:{each.entry.etag}",
                hash=each.hash,
                chunks=size,
                generation=max(now, known[name].generation + 1 if name in known else 0),
            )
        )


def differences(chunks: Sequence[Chunk], before: Sequence[ChunkRow]) -> tuple[list[Write], list[ChunkRow]]:
    """Return the chunks of a document to write, and the rows to delete, so that the rows match the chunks."""
    rows = {(row.collection, row.id): row for row in before}
    writes = []
    for each in chunks:
        row = rows.pop((each.collection, each.id), None)
        # A failed chunk is tried again: its text may have been lost, or its neighbours may have changed. A chunk that
        # was rolled back belongs to the same edition as those written now: half of each edition would mix two
        # documents.
        if row is None or row.deleted or row.row_hash != each.row_hash or row.status in UNSETTLED:
            writes.append(Write(chunk=each, previous=row))
    return writes, [row for row in rows.values() if is_there(row)]


def is_there(row: ChunkRow) -> bool:
    """Tell whether the index may hold a row of a chunk, also one whose deletion failed or was rolled back."""
    return not row.deleted or row.status in UNSETTLED


async def _owned_elsewhere(
    source: str, document: str, writes: Sequence[Write], *, ledger: Ledger, scan: Scan
) -> Problem | None:
    """Check whether new chunks belong to another source already: ids of receipts do not contain their source."""
    new = [write.chunk for write in writes if write.previous is None]
    foreign = [each for each in new if not each.id.startswith(f"{source}#")]
    for collection in {each.collection for each in foreign}:
        ids = [each.id for each in foreign if each.collection == collection]
        owners = {
            owner for owner in (await ledger.chunks.owners(collection, ids)).values() if owner in scan.others
        }
        if owners:
            reason = (
                f"source {min(owners)} already has it in collection {collection}; list it in one source only, or give"
                f" source {source} another collection"
            )
            return Problem(subject=document, reason=reason, document=document)
    return None
