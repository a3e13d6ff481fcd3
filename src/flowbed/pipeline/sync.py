"""Sync a source: write what changed as batch files, and record it in the ledger in one conditional step."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from flowbed.errors import Conflict
from flowbed.index.active_space import require_same
from flowbed.index.forgotten import read_blocked
from flowbed.lanes.batch_files import batch_key, encode_batch
from flowbed.ledger import BatchRow, ChunkRow, DeadLetter, Swap
from flowbed.ledger.rows import WITHHELD
from flowbed.pipeline.changes import changes
from flowbed.pipeline.comparing.records import Scan
from flowbed.records import Problem, Status, batch_id
from flowbed.storage.compression import plain
from flowbed.telemetry import BATCH_REGISTERED, BATCH_WRITTEN, FETCH_SWAPPED, PROGRESS, STAGE, reached

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from flowbed.lanes.contexts import Context, ModelContext
    from flowbed.ledger import Cursor, DocumentRow, Ledger, Progress
    from flowbed.pipeline import ConfiguredSource
    from flowbed.pipeline.comparing.records import Change

# Two runs that fetch the same source make each other's swaps fail; after this many tries this one leaves it to the
# other.
TRIES = 6


@dataclass
class Synced:
    """What a sync did: documents fetched, chunks to write and to delete, and problems.

    `empty` says why no document was listed, and `drift` why a plan's part was not applied.
    """

    fetched: int = 0
    chunks: int = 0
    deleted: int = 0
    problems: list[Problem] = field(default_factory=list)
    withheld: str = ""
    empty: str = ""
    drift: str = ""


async def sync(
    feed: ConfiguredSource,
    context: ModelContext,
    *,
    allow_deletes: bool,
    wrote: Callable[[BatchRow], None] | None = None,
    progress: Progress | None = None,
    troubled: bool = True,
) -> Synced:
    """Fetch one source, write its new and changed chunks as batch files, and move its cursor with them.

    `wrote` is called with each batch file, once the ledger knows of its chunks. `progress` is how far the source was
    fetched, where that was read already; `troubled` whether it may have dead letters.

    Raises:
        Misconfigured: the source cannot be read.
        Transient: the same sync may succeed later.
    """
    done = Synced()
    source = feed.rules.source
    reached(STAGE, stage="fetch", source=source)
    for attempt in range(TRIES):
        if progress is None:
            progress = (await context.ledger.documents.progress([source]))[source]
        cursor = progress.cursor
        scan = Scan(others=context.sources - {source}, forgotten=partial(read_blocked, context.store))
        try:
            async for change in changes(
                feed,
                progress,
                ledger=context.ledger,
                read=lambda text: context.embedder().read(text),
                clock=context.clock,
                scan=scan,
                allow_deletes=allow_deletes,
            ):
                now, later = context.clock(), 0
                while (
                    written := await write_batch(
                        prepare(source, change, now=now, later=later, compressed=context.compress_batches),
                        context,
                    )
                ) is None:
                    later += 1
                cursor = await apply(cursor, written, context.ledger)
                if wrote is not None and written.batch is not None:
                    wrote(written.batch)
                done.fetched += change.fetched
                done.chunks += len(change.writes)
                done.deleted += len(change.deletes)
                reached(
                    PROGRESS, stage="fetch", source=source, done=change.fetched, chunks=len(change.writes)
                )
        except Conflict:
            progress = None
            # What this fetch read may be older than what the winner wrote: discard it and start over.
            await asyncio.sleep(0.05 * 2**attempt)
            continue
        done.problems, done.withheld, done.empty = scan.problems, scan.withheld, scan.empty
        if scan.judged and (troubled or scan.problems or scan.withheld):
            await settle_letters(
                source,
                scan.problems,
                context,
                relisted=scan.relisted,
                gone=scan.gone,
                withheld=scan.withheld,
            )
        return done
    reason = "another run is fetching it at the same time, so this fetch was discarded; run again"
    done.problems.append(Problem(subject=f"source {source}", reason=reason))
    return done


async def check_space(feed: ConfiguredSource, context: ModelContext) -> None:
    """Check, before anything is paid for, that a feed's collections take this model's vectors.

    Raises:
        Misconfigured: one lives in another space.
    """
    for collection in feed.rules.collections:
        live = await context.collections.get(collection)
        if live is not None:
            require_same(live, context.embedder().space)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A change with its versions assigned: a batch file, where it writes chunks, and its rows.

    `body` encodes the batch file as it was registered.
    """

    value: str
    documents: tuple[DocumentRow, ...]
    removed: tuple[str, ...]
    chunks: tuple[ChunkRow, ...]
    batch: BatchRow | None
    body: Callable[[BatchRow], bytes]


def prepare(source: str, change: Change, *, now: int, later: int = 0, compressed: bool = False) -> Prepared:
    """Assign versions, and make the batch file and the rows of a change.

    `later` is added to every version, which gives the batch file another name.
    """
    # Versions follow from the rows as they were read: the swap fails if another process has written one since.
    versions = [
        max(write.previous.version + 1 if write.previous else 0, now) + later for write in change.writes
    ]
    batch = None
    if change.writes:
        rows = [
            (write.chunk.id, write.chunk.text_hash, version)
            for write, version in zip(change.writes, versions, strict=True)
        ]
        name = batch_id(source, rows)
        batch = BatchRow(
            id=name,
            source=source,
            key=batch_key(source, name, at=now, compressed=compressed),
            timestamp=now,
            chunks=len(rows),
        )
    chunks = [
        ChunkRow(
            collection=write.chunk.collection,
            id=write.chunk.id,
            source=source,
            document=write.chunk.document,
            ordinal=write.chunk.ordinal,
            tokens=write.chunk.tokens,
            text_hash=write.chunk.text_hash,
            row_hash=write.chunk.row_hash,
            version=version,
            batch=batch.id if batch else "",
        )
        for write, version in zip(change.writes, versions, strict=True)
    ]
    chunks += [
        ChunkRow(
            collection=row.collection,
            id=row.id,
            source=source,
            document=row.document,
            ordinal=row.ordinal,
            tokens=0,
            text_hash="",
            row_hash="",
            version=max(row.version + 1, now),
            batch="",
            deleted=True,
            status=Status.NONE,
        )
        for row in change.deletes
    ]
    return Prepared(
        value=change.value,
        documents=change.documents,
        removed=change.removed,
        chunks=tuple(chunks),
        batch=batch,
        body=partial(encode_batch, texts=[write.chunk for write in change.writes], versions=versions),
    )


async def write_batch(prepared: Prepared, context: Context) -> Prepared | None:
    """Write the batch file of a change, if it has one; safe to repeat. None where the file exists with other content.

    Return the change with its batch as it was registered first, which may have been on another day.

    The name covers ids, texts and versions, but not metadata: an abandoned fetch within the same microsecond, or before
    the clock was set back, may have left a file of that name with other metadata.
    """
    if prepared.batch is None:
        return prepared
    row = await context.ledger.batches.register(prepared.batch)
    reached(BATCH_REGISTERED, batch=row.id)
    body = prepared.body(row)
    try:
        await context.store.create(row.key, body)
    except Conflict:
        # Another version of the library may have compressed it to other bytes.
        if plain((await context.store.get(row.key)).body) != plain(body):
            return None
    reached(BATCH_WRITTEN, batch=row.id)
    return replace(prepared, batch=row)


async def apply(cursor: Cursor, prepared: Prepared, ledger: Ledger) -> Cursor:
    """Move the cursor together with all rows of a change whose batch file is written.

    Raises:
        Conflict: the cursor has moved since it was read; no row was written.
    """
    moved = await ledger.documents.swap(
        Swap(
            cursor=cursor,
            value=prepared.value,
            documents=prepared.documents,
            removed=prepared.removed,
            chunks=prepared.chunks,
        )
    )
    reached(FETCH_SWAPPED, source=cursor.source, chunks=len(prepared.chunks))
    return moved


async def settle_letters(
    source: str,
    problems: Sequence[Problem],
    context: Context,
    *,
    relisted: bool,
    withheld: str,
    gone: Collection[str] = (),
) -> None:
    """Make the problems of a scan, and why it withheld deletions, the dead letters of a source.

    Those of a scan that listed everything again replace all others. A scan of what changed leaves the others, but for
    documents that it could read or that are `gone`: the source does not list the rest again by itself.
    """
    failed = {problem.subject: problem.reason for problem in problems if not problem.skipped}
    letters = context.ledger.dead_letters
    if relisted:
        await letters.remove("source", owner=source)
    else:
        settled = await _settled(source, context.ledger, gone)
        await letters.remove("source", owner=source, subjects=[WITHHELD, *settled - failed.keys()])
    left = {**failed, **({WITHHELD: withheld} if withheld else {})}
    if left:
        await letters.add(
            [
                DeadLetter(kind="source", owner=source, subject=subject, reason=reason, at=context.clock())
                for subject, reason in left.items()
            ]
        )


async def _settled(source: str, ledger: Ledger, gone: Collection[str]) -> set[str]:
    """Return the subjects of dead letters that are documents which were stored since, or are gone."""
    written = {
        letter.subject: letter.at
        async for page in ledger.dead_letters.pages()
        for letter in page
        if (letter.kind, letter.owner) == ("source", source)
    }
    rows = await ledger.documents.get(source, list(written)) if written else {}
    return {subject for subject, at in written.items() if subject in gone or _is_newer(rows.get(subject), at)}


def _is_newer(row: DocumentRow | None, at: int) -> bool:
    return row is not None and row.generation > at
