"""Compare a fetch with the ledger, chunk by chunk, and return what changed. It writes nothing."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from flowbed.chunking import chunk_as_read
from flowbed.errors import Rejected, Unreadable
from flowbed.index.forgotten import Blocked
from flowbed.ledger import DocumentRow
from flowbed.ledger.text import require_storable
from flowbed.pipeline.seen_ids import Listed
from flowbed.records import Problem, Status
from flowbed.records.values import count

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence

    from flowbed.ledger import ChunkRow, Ledger, Progress
    from flowbed.pipeline import ConfiguredSource
    from flowbed.records import Chunk, Entry, Reading

# A batch file holds about this many chunks: some megabytes, a few seconds of a provider's work.
BATCH_CHUNKS = 2_000
# Documents that are read and chunked before their chunks are counted.
READ_AT_ONCE = 64
# The beginning of a source's cursor while a plan is released. A fetch takes such a cursor as empty.
RELEASING = "plan:"
# In these states the index holds something else for a chunk than the ledger says: it failed, or was rolled back.
UNSETTLED = frozenset({Status.FAILED, Status.REVERTED})
# Removing more than this share of a source, and this many documents, is more often a mistake than intended.
GUARDED_SHARE, GUARDED_COUNT = 0.30, 20
# Entries that a message names; the others are counted.
NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Write:
    """A chunk to write, and the ledger's row of it, if there is one."""

    chunk: Chunk
    previous: ChunkRow | None


@dataclass(frozen=True, kw_only=True)
class Change:
    """A part of a fetch that is applied in one swap; `value` is the cursor afterwards.

    `documents` are new, changed, or only listed with another etag; `fetched` counts the first two.
    """

    value: str
    documents: tuple[DocumentRow, ...] = ()
    removed: tuple[str, ...] = ()
    writes: tuple[Write, ...] = ()
    deletes: tuple[ChunkRow, ...] = ()
    fetched: int = 0


@dataclass
class Scan:
    """What was observed during a fetch.

    `withheld` says why deletions were not carried out, `empty` why a complete fetch listed nothing. `judged` says that
    the fetch went far enough to decide about deletions.
    `others` are the other sources of the project; a source may take over what a source that no longer exists held.
    `forgotten` reads what must not return; it has to be read after the cursor, which a request to forget moves last.
    """

    problems: list[Problem] = field(default_factory=list)
    complete: bool = False
    known: int = 0
    withheld: str = ""
    judged: bool = False
    empty: str = ""
    others: frozenset[str] = frozenset()
    forgotten: Callable[[], Awaitable[Blocked]] | None = None


@dataclass
class _Proved:
    """Documents that a source says are gone, and the cursor before the first of them.

    They are deleted at the end of the fetch, when their number is known. Until then the cursor stays before them, since
    the source would not prove them again.
    """

    names: dict[str, None] = field(default_factory=dict)
    before: str | None = None

    def add(self, names: Collection[str], cursor: str) -> None:
        if names and self.before is None:
            self.before = cursor
        self.names.update(dict.fromkeys(names))

    def held(self, cursor: str) -> str:
        return cursor if self.before is None else self.before


@dataclass
class _Stretch:
    """A change that is being collected."""

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
    """A document that was read: its hash, and its chunks, or None where it is unchanged."""

    entry: Entry
    hash: str
    chunks: list[Chunk] | None


async def changes(
    feed: ConfiguredSource,
    progress: Progress,
    *,
    ledger: Ledger,
    read: Callable[[str], Reading],
    clock: Callable[[], int],
    scan: Scan,
    allow_deletes: bool,
) -> AsyncIterator[Change]:
    """Compare a whole fetch with the ledger, and yield changes of about BATCH_CHUNKS chunks; fill `scan` meanwhile.

    `progress` is how far the source was fetched before.
    """
    source, mark, cursor = feed.rules.source, f"{feed.rules.fingerprint}:", progress.cursor
    listed = Listed()
    # Under other chunking rules the same documents give other chunks, so the source is fetched from its beginning.
    begin = cursor.value.removeprefix(mark) if cursor.value.startswith(mark) else ""
    value = begin
    entries = 0
    proved = _Proved()
    async for page in feed.source.fetch(begin):
        # A source whose pages have cursors resumes from the last page after a crash. One with a single cursor for its
        # whole listing has none until the end, and must not keep the old one: part of what that covers is overwritten.
        held = f"{mark}{value}" if page.cursor else ""
        proved.add(await ledger.documents.etags(source, page.gone) if page.gone else (), held)
        held = proved.held(held)
        value = page.cursor
        scan.problems += page.problems
        scan.complete = page.complete
        entries += len(page.entries)
        listed.add([entry.document for entry in page.entries])
        async for stretch in _stretches(feed, page.entries, ledger=ledger, read=read, clock=clock, scan=scan):
            yield stretch.change(held)
    if scan.complete and not (entries or scan.problems):
        scan.empty = page.empty or "it has none"
    gone: list[str] = []
    if not scan.complete:
        gone = listed.missing(list(proved.names))
        scan.withheld = _doubt(source, gone, set(), total=progress.documents, allow_deletes=allow_deletes)
    # Where every known document was listed exactly once, none is gone. Reading all of their rows would take as long as
    # everything before.
    elif scan.known != progress.documents or not listed.once:
        gone = await _gone(source, listed, scan, ledger=ledger, allow_deletes=allow_deletes)
    for start in range(0, 0 if scan.withheld else len(gone), BATCH_CHUNKS):
        yield await _removal(source, gone[start : start + BATCH_CHUNKS], ledger=ledger, value=proved.held(""))
    # Only now is everything before it applied: a fetch that left something undone starts over.
    done = not scan.withheld and all(problem.skipped for problem in scan.problems)
    scan.judged = scan.complete or bool(scan.withheld) or (done and bool(value))
    if done and f"{mark}{value}" != cursor.value:
        yield Change(value=f"{mark}{value}")


async def _stretches(
    feed: ConfiguredSource,
    entries: Sequence[Entry],
    *,
    ledger: Ledger,
    read: Callable[[str], Reading],
    clock: Callable[[], int],
    scan: Scan,
) -> AsyncIterator[_Stretch]:
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
    stretch = _Stretch()
    start = 0
    while start < len(moved):
        some = moved[start : start + READ_AT_ONCE]
        documents, problems = await _read_in_thread(feed, some, known, read, blocked)
        start += len(documents) + len(problems)
        scan.problems += problems
        await _compare(feed, documents, known, stretch, ledger=ledger, now=clock(), scan=scan)
        if stretch.full:
            yield stretch
            stretch = _Stretch()
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
            problems.append(_was_text(problem) if problem.skipped and entry.document in known else problem)
    return documents, problems


def _is_forgotten(chunk_: Chunk, source: str, blocked: Blocked) -> bool:
    return blocked.chunk(chunk_.collection, chunk_.id) or blocked.passage(
        source, chunk_.document, chunk_.text_hash
    )


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
    return writes, [row for row in rows.values() if _is_there(row)]


def _is_there(row: ChunkRow) -> bool:
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


async def _removal(source: str, documents: Sequence[str], *, ledger: Ledger, value: str) -> Change:
    rows = await ledger.chunks.of(source, documents)
    return Change(value=value, removed=tuple(documents), deletes=tuple(row for row in rows if _is_there(row)))


async def _gone(source: str, listed: Listed, scan: Scan, *, ledger: Ledger, allow_deletes: bool) -> list[str]:
    """Return the documents that a complete fetch no longer listed; where that is doubtful, say why in `scan`."""
    gone, kept = await _unlisted(source, listed, scan, ledger)
    # A document that was text and is none now is not gone: most likely it was saved wrongly.
    scan.problems = [
        _was_text(each) if each.skipped and each.document in kept else each for each in scan.problems
    ]
    # Of the documents before this fetch: those that it added would make any loss look small.
    total = scan.known + len(kept) + len(gone)
    unreadable = {
        (problem.subject, problem.reason)
        for problem in scan.problems
        if not (problem.document or problem.folder or problem.skipped)
    }
    if gone and unreadable and allow_deletes:
        # Whoever allows deletions has to have seen what may be wrong with them: a run has reported it before.
        unreadable -= await _reported(source, ledger)
    scan.withheld = _doubt(source, gone, unreadable, total=total, allow_deletes=allow_deletes)
    return gone


async def _reported(source: str, ledger: Ledger) -> set[tuple[str, str]]:
    """Return the problems of a source that are dead letters, by subject and reason."""
    return {
        (letter.subject, letter.reason)
        async for page in ledger.dead_letters.pages()
        for letter in page
        if (letter.kind, letter.owner) == ("source", source)
    }


async def _unlisted(source: str, listed: Listed, scan: Scan, ledger: Ledger) -> tuple[list[str], set[str]]:
    """Return the documents that were not listed: those that are gone, and those that have a problem."""
    troubled = {problem.document for problem in scan.problems if problem.document}
    folders = tuple({problem.folder for problem in scan.problems if problem.folder})
    gone: list[str] = []
    kept: set[str] = set()
    async for rows in ledger.documents.pages(source):
        for each in listed.missing([row.id for row in rows]):
            if each in troubled or each.startswith(folders):
                kept.add(each)
            else:
                gone.append(each)
    return gone, kept


def _doubt(
    source: str, gone: Sequence[str], unreadable: set[tuple[str, str]], *, total: int, allow_deletes: bool
) -> str:
    """Say why documents that were not listed are kept; empty where they are deleted."""
    if gone and unreadable:
        subjects = sorted(subject for subject, _ in unreadable)
        others = f" and {len(subjects) - NAMED:,} others" if len(subjects) > NAMED else ""
        return (
            f"{count(len(gone), 'document')} not listed, but kept, since {count(len(subjects), 'entry')} could not be"
            f" read and may be theirs ({', '.join(subjects[:NAMED])}{others}); fix those and run again, or run"
            f" `flowbed run {source} --allow-deletes` to delete the documents all the same"
        )
    if not allow_deletes and len(gone) >= GUARDED_COUNT and len(gone) > GUARDED_SHARE * total:
        return (
            f"{len(gone):,} of {total:,} documents are gone from the source, which is more than {GUARDED_SHARE:.0%}:"
            f" they are kept; if that is intended, run `flowbed run {source} --allow-deletes`"
        )
    return ""


def _was_text(problem: Problem) -> Problem:
    reason = f"{problem.reason}; its indexed chunks are kept until it can be read again or is deleted"
    return replace(problem, reason=reason, skipped=False)
