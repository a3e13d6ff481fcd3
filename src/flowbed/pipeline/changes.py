"""What a fetch changes: documents compared with the ledger, chunk by chunk. It reads, and writes nothing."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from flowbed.chunking import chunk
from flowbed.errors import Rejected
from flowbed.ledger import DocumentRow
from flowbed.ledger.text import require_storable
from flowbed.pipeline.seen_ids import Listed
from flowbed.records import Problem, Status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from flowbed.ledger import ChunkRow, Ledger, Progress
    from flowbed.pipeline import ConfiguredSource
    from flowbed.records import Chunk, Entry

# A batch file holds about this many chunks: some megabytes, a few seconds of a provider's work.
BATCH_CHUNKS = 2_000
# Documents read and chunked between two looks at how many chunks they made.
READ_AT_ONCE = 64
# What the cursor of a source begins with while a plan is being carried out; to any fetch it says nothing.
RELEASING = "plan:"
# What stands for a chunk in the index is not what the ledger says of it: it failed, or was taken back.
UNSETTLED = frozenset({Status.FAILED, Status.REVERTED})
# Removing more of a source than this share, and this many, at once is more often a mistake than a wish.
GUARDED_SHARE, GUARDED_COUNT = 0.30, 20


@dataclass(frozen=True, kw_only=True)
class Write:
    """One chunk to write: as its document has it now, and as the ledger knew it, if it did."""

    chunk: Chunk
    previous: ChunkRow | None


@dataclass(frozen=True, kw_only=True)
class Change:
    """A stretch of a fetch, to be applied in one swap; `value` is where the cursor stands afterwards.

    `documents` are new, changed or merely listed with another etag; `fetched` counts the first two.
    """

    value: str
    documents: tuple[DocumentRow, ...] = ()
    removed: tuple[str, ...] = ()
    writes: tuple[Write, ...] = ()
    deletes: tuple[ChunkRow, ...] = ()
    fetched: int = 0


@dataclass
class Scan:
    """What is seen on the way through a fetch; `withheld` says why deletions were not carried out.

    `others` are the other sources of the project; what a source held that is no longer one may be taken over.
    """

    problems: list[Problem] = field(default_factory=list)
    complete: bool = False
    known: int = 0
    withheld: str = ""
    others: frozenset[str] = frozenset()


@dataclass
class _Stretch:
    """A change in the making."""

    documents: list[DocumentRow] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    deletes: list[ChunkRow] = field(default_factory=list)
    fetched: int = 0

    @property
    def full(self) -> bool:
        return max(len(self.writes) + len(self.deletes), len(self.documents)) >= BATCH_CHUNKS

    def change(self, value: str) -> Change:
        return Change(
            value=value,
            documents=tuple(self.documents),
            writes=tuple(self.writes),
            deletes=tuple(self.deletes),
            fetched=self.fetched,
        )


@dataclass(frozen=True)
class _Read:
    """A document that was read: what it hashes to, and its chunks, or None where it is as it was."""

    entry: Entry
    hash: str
    chunks: list[Chunk] | None


async def changes(
    feed: ConfiguredSource,
    progress: Progress,
    *,
    ledger: Ledger,
    count: Callable[[str], int],
    clock: Callable[[], int],
    scan: Scan,
    allow_deletes: bool,
) -> AsyncIterator[Change]:
    """Compare a whole fetch with the ledger, in stretches of about BATCH_CHUNKS chunks; `scan` is filled on the way.

    `progress` is how far the source was fetched before.
    """
    source, mark, cursor = feed.rules.source, f"{feed.rules.fingerprint}:", progress.cursor
    listed = Listed()
    # Under other rules the same documents give other chunks, so that the source is gone through from its beginning.
    begin = cursor.value.removeprefix(mark) if cursor.value.startswith(mark) else ""
    value = begin
    async for page in feed.source.fetch(begin):
        # A source that can go on from its pages does so after a crash. One whose cursor stands for all that it once
        # listed has none until the end, and must not keep the old one: part of what that stood for is overwritten.
        held = f"{mark}{value}" if page.cursor else ""
        value = page.cursor
        scan.problems += page.problems
        scan.complete = page.complete
        listed.add([entry.document for entry in page.entries])
        async for stretch in _stretches(
            feed, page.entries, ledger=ledger, count=count, clock=clock, scan=scan
        ):
            yield stretch.change(held)
        if page.gone:
            yield await _removal(source, page.gone, ledger=ledger, value=held)
    gone: list[str] = []
    # Where each document that there was is listed, each once, none is gone: to read all of their rows takes as long as
    # all that went before.
    if scan.complete and not (scan.known == progress.documents and listed.once):
        gone = await _gone(source, listed, scan, ledger=ledger, allow_deletes=allow_deletes)
    for start in range(0, len(gone), BATCH_CHUNKS):
        yield await _removal(source, gone[start : start + BATCH_CHUNKS], ledger=ledger, value="")
    # Only now is everything before it applied: a fetch that has left something undone begins again.
    done = not scan.withheld and all(problem.skipped for problem in scan.problems)
    if done and f"{mark}{value}" != cursor.value:
        yield Change(value=f"{mark}{value}")


async def _stretches(
    feed: ConfiguredSource,
    entries: Sequence[Entry],
    *,
    ledger: Ledger,
    count: Callable[[str], int],
    clock: Callable[[], int],
    scan: Scan,
) -> AsyncIterator[_Stretch]:
    """Compare the entries whose etag has moved with the ledger."""
    if not entries:
        return
    source, mark = feed.rules.source, f"{feed.rules.fingerprint}:"
    etags = await ledger.documents.etags(source, [entry.document for entry in entries])
    scan.known += len(etags)
    moved = [entry for entry in entries if etags.get(entry.document) != mark + entry.etag]
    # Most have not: a row takes twice as long to read as its etag.
    known = await ledger.documents.get(source, [entry.document for entry in moved]) if moved else {}
    stretch = _Stretch()
    for start in range(0, len(moved), READ_AT_ONCE):
        some = moved[start : start + READ_AT_ONCE]
        read, problems = await asyncio.to_thread(_read, feed, some, known, count)
        scan.problems += problems
        await _compare(feed, read, known, stretch, ledger=ledger, now=clock(), scan=scan)
        if stretch.full:
            yield stretch
            stretch = _Stretch()
    if stretch.documents:
        yield stretch


def _read(
    feed: ConfiguredSource,
    entries: Sequence[Entry],
    known: Mapping[str, DocumentRow],
    count: Callable[[str], int],
) -> tuple[list[_Read], list[Problem]]:
    """Read the entries, and chunk those whose content is not what it was."""
    read: list[_Read] = []
    problems: list[Problem] = []
    for entry in entries:
        try:
            document = entry.read()
            digest = hashlib.sha256(f"{feed.rules.fingerprint}:{document.hash}".encode()).hexdigest()
            row = known.get(entry.document)
            same = row is not None and row.hash == digest
            chunks = None if same else chunk(document, feed.rules, count)
            require_storable([entry.document, *(each.id for each in chunks or ())])
            read.append(_Read(entry, digest, chunks))
        except Rejected as error:
            problems.append(Problem(subject=entry.document, reason=str(error), document=entry.document))
    return read, problems


async def _compare(
    feed: ConfiguredSource,
    read: Sequence[_Read],
    known: Mapping[str, DocumentRow],
    stretch: _Stretch,
    *,
    ledger: Ledger,
    now: int,
    scan: Scan,
) -> None:
    """Add to the stretch what differs between the documents read and their rows."""
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
            if problem := await _taken(source, name, new, ledger=ledger, scan=scan):
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
    """Tell which chunks of a document have to be written, and which rows deleted, for the rows to become the chunks."""
    rows = {(row.collection, row.id): row for row in before}
    writes = []
    for each in chunks:
        row = rows.pop((each.collection, each.id), None)
        # What failed may do better now: its text may have been lost, or its neighbours have changed. What a rollback
        # took back belongs to the same edition as what is written now: half of each would be a document that never was.
        if row is None or row.deleted or row.row_hash != each.row_hash or row.status in UNSETTLED:
            writes.append(Write(chunk=each, previous=row))
    return writes, [row for row in rows.values() if _is_there(row)]


def _is_there(row: ChunkRow) -> bool:
    """Tell whether the index may hold a row of a chunk: one whose deletion did not last is there again."""
    return not row.deleted or row.status in UNSETTLED


async def _taken(
    source: str, document: str, writes: Sequence[Write], *, ledger: Ledger, scan: Scan
) -> Problem | None:
    """Find out whether chunks that would be new are another source's: ids of receipts do not name their source."""
    new = [write.chunk for write in writes if write.previous is None]
    foreign = [each for each in new if not each.id.startswith(f"{source}#")]
    for collection in {each.collection for each in foreign}:
        ids = [each.id for each in foreign if each.collection == collection]
        owners = {
            owner for owner in (await ledger.chunks.owners(collection, ids)).values() if owner in scan.others
        }
        if owners:
            reason = (
                f"source {min(owners)} has put it into collection {collection} already; list it in one of them, or give"
                f" source {source} a collection of its own"
            )
            return Problem(subject=document, reason=reason, document=document)
    return None


async def _removal(source: str, documents: Sequence[str], *, ledger: Ledger, value: str) -> Change:
    rows = await ledger.chunks.of(source, documents)
    return Change(value=value, removed=tuple(documents), deletes=tuple(row for row in rows if _is_there(row)))


async def _gone(source: str, listed: Listed, scan: Scan, *, ledger: Ledger, allow_deletes: bool) -> list[str]:
    """Name the documents that a complete fetch no longer listed, unless there is reason to doubt it."""
    named = {problem.document for problem in scan.problems if problem.document}
    gone: list[str] = []
    kept: set[str] = set()
    async for rows in ledger.documents.pages(source):
        unlisted = listed.missing([row.id for row in rows])
        gone += [each for each in unlisted if each not in named]
        kept.update(each for each in unlisted if each in named)
    # What was text before and is none now has not gone: most likely it was saved wrongly.
    scan.problems = [
        _was_text(each) if each.skipped and each.document in kept else each for each in scan.problems
    ]
    if not gone:
        return []
    # Of the documents there were before this fetch: those that it added would make any loss look small.
    total = scan.known + len(kept) + len(gone)
    doubtful = sum(1 for problem in scan.problems if not problem.document and not problem.skipped)
    if doubtful:
        scan.withheld = (
            f"{len(gone)} documents that were not listed are kept, since {doubtful} entries could not be read and may"
            " be theirs; mend those and run again"
        )
        return []
    if not allow_deletes and len(gone) >= GUARDED_COUNT and len(gone) > GUARDED_SHARE * total:
        scan.withheld = (
            f"{len(gone)} of {total} documents are gone from the source, which is more than {GUARDED_SHARE:.0%}: they"
            " are kept; if that is meant, run again with --allow-deletes"
        )
        return []
    return gone


def _was_text(problem: Problem) -> Problem:
    reason = f"{problem.reason}; what was indexed of it before is kept until it is text again, or gone"
    return replace(problem, reason=reason, skipped=False)
