"""Embed: chunks that wait are claimed, their texts get vectors, a delta per collection is laid down and committed."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from flowbed.errors import Conflict, Error
from flowbed.index.commit import commit
from flowbed.index.deltas import Delete, Upsert, write_delta
from flowbed.index.live import live_collection, live_collections
from flowbed.index.reuse import Reuse
from flowbed.lanes.realtime import Outcome
from flowbed.lanes.realtime import embed as embed_now
from flowbed.ledger import DeadLetter, Failure, RunRow, Swap
from flowbed.pipeline.batches import read_passages
from flowbed.records import Problem, Status
from flowbed.telemetry import CHUNKS_CLAIMED, DEAD_LETTER, DELTA_WRITTEN, PROGRESS, RUN_RECORDED, log, reached

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from flowbed.ledger import ChunkRow
    from flowbed.pipeline import Parts
    from flowbed.pipeline.batches import Passage

# Chunks of one run: their vectors are held until its deltas are written (13 MB at 384 dimensions).
RUN_CHUNKS = 8_192
# A claim lasts this long unless renewed; the claims of a process known to be dead are taken back at once.
CLAIM = 60_000_000  # µs
WAITING = frozenset({Status.NONE, Status.FAILED})


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What a provider was sent for one run, and the seconds it took."""

    texts: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    seconds: float = 0.0


@dataclass
class Tally:
    """What embedding did: chunks embedded or reused and deleted, texts sent, and what failed."""

    chunks: int = 0
    sent: int = 0
    deleted: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    truncated: int = 0
    failures: list[Problem] = field(default_factory=list)
    failed: int = 0
    versions: dict[str, int] = field(default_factory=dict)
    stopped: str = ""


async def embed(
    parts: Parts,
    *,
    sources: Collection[str],
    statuses: Collection[Status] = WAITING,
    limit: int | None = None,
) -> Tally:
    """Embed what waits, run by run, each committed before the next begins.

    Raises:
        Misconfigured: the model or the collection cannot be used; what was claimed waits again.

    """
    tally = Tally()
    tiers: dict[str, Reuse] = {}
    async with _renewed(parts):
        async for claimed in _claims(parts, sources=sources, statuses=statuses, limit=limit):
            await _run(claimed, parts, tally, tiers)
            if tally.stopped:
                break
    return tally


@asynccontextmanager
async def _renewed(parts: Parts) -> AsyncIterator[None]:
    """Keep this worker's claims from running out, and give back what is left of them at the end."""

    async def beat() -> None:
        while True:
            await asyncio.sleep(CLAIM / 1e6 / 3)
            try:
                await parts.ledger.chunks.renew(parts.worker, until=parts.clock() + CLAIM)
            except Error as error:  # there is time for two more tries before the claims run out
                log.warning("claims could not be renewed: %s", error)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await parts.ledger.chunks.release(parts.worker)


async def _claims(
    parts: Parts, *, sources: Collection[str], statuses: Collection[Status], limit: int | None
) -> AsyncIterator[list[ChunkRow]]:
    """Claim what waits, oldest batch first, in groups of about RUN_CHUNKS."""
    left = limit if limit is not None else float("inf")
    group: list[ChunkRow] = []
    async for batches in parts.ledger.chunks.batches(statuses, now=parts.clock(), sources=sources):
        for batch in batches:
            while left > 0:
                now = parts.clock()
                rows = await parts.ledger.chunks.claim(
                    batch,
                    statuses,
                    worker=parts.worker,
                    now=now,
                    until=now + CLAIM,
                    sources=sources,
                    limit=int(min(left, RUN_CHUNKS)),
                )
                left -= len(rows)
                group += rows
                if len(group) >= RUN_CHUNKS:
                    reached(CHUNKS_CLAIMED, chunks=len(group))
                    yield group
                    group = []
                if len(rows) < RUN_CHUNKS:
                    break
    if group:
        reached(CHUNKS_CLAIMED, chunks=len(group))
        yield group


async def _run(rows: Sequence[ChunkRow], parts: Parts, tally: Tally, tiers: dict[str, Reuse]) -> None:
    """Embed a group of claimed chunks, and commit a delta for each of its collections."""
    waiting = [row for row in rows if not row.deleted]
    passages, lost = await read_passages(waiting, store=parts.store, ledger=parts.ledger)
    outcome, spent = await _embed(passages, parts, tiers)
    tally.sent += spent.texts
    tally.tokens += spent.tokens
    tally.cost_usd += spent.cost_usd
    for collection in sorted({row.collection for row in rows}):
        upserts = [
            _upsert(each, outcome.vectors[each.row.text_hash])
            for each in passages
            if each.row.collection == collection and each.row.text_hash in outcome.vectors
        ]
        deletes = [
            Delete(id=row.id, version=row.version)
            for row in rows
            if row.deleted and row.collection == collection
        ]
        if not upserts and not deletes:
            continue
        try:
            await _lay_down(collection, upserts, deletes, spent, parts)
        except (
            Conflict
        ) as error:  # someone else's bytes lie where this delta belongs: the other collections go on
            tally.failed += 1
            tally.failures.append(Problem(subject=f"collection {collection}", reason=str(error)))
            continue
        await commit_pending(collection, parts, tally)
        tally.chunks += len(upserts)
        tally.deleted += len(deletes)
        spent = Spent()  # what was sent is told once, by the first of the collections that it was sent for
    tally.truncated += sum(1 for each in passages if each.row.text_hash in outcome.truncated)
    failed = [
        _failure(each.row, *outcome.failures[each.row.text_hash])
        for each in passages
        if each.row.text_hash in outcome.failures
    ]
    if failed and not outcome.vectors and all(each.kind == "transient" for each in failed):
        tally.stopped = (
            f"no request succeeded any more ({failed[0].reason}); what waits is taken up by the next run"
        )
    await _read_again([each.row for each in lost], parts)
    failed += [
        _failure(each.row, "transient", f"{each.reason}; the next run reads its document again")
        for each in lost
    ]
    await _fail(failed, parts, tally)
    # The lane has told of each distinct text; the chunks that shared one, or had none, are done as well.
    reached(PROGRESS, stage="embed", done=len(rows) - len({each.row.text_hash for each in passages}))


async def _embed(passages: Sequence[Passage], parts: Parts, tiers: dict[str, Reuse]) -> tuple[Outcome, Spent]:
    """Find or make the vectors of passages, and tell what that took."""
    if not passages:
        return Outcome(), Spent()
    began = parts.monotonic()
    embedder = await asyncio.to_thread(parts.embedder)
    for collection in sorted({each.row.collection for each in passages}):
        await parts.datasets.begin(collection, embedder.space, now=parts.clock())
    for live in await live_collections(parts.store):
        # Whatever collection a text was embedded for, its vector is the same.
        if live.space.fingerprint == embedder.space.fingerprint:
            tiers.setdefault(live.collection, Reuse(live, parts.datasets))
    outcome = await embed_now(
        {each.row.text_hash: each.sent for each in passages},
        embedder=embedder,
        index=_Every(list(tiers.values())),
        concurrency=parts.concurrency,
    )
    return outcome, Spent(
        texts=outcome.sent,
        tokens=outcome.tokens,
        cost_usd=outcome.tokens * embedder.price / 1e6,
        seconds=parts.monotonic() - began,
    )


async def _lay_down(
    collection: str, upserts: Sequence[Upsert], deletes: Sequence[Delete], spent: Spent, parts: Parts
) -> None:
    """Write the delta of one collection, and record its run."""
    live = await live_collection(parts.store, collection)
    if live is None:
        # Nothing of this collection was ever committed, so that there is nothing to delete from it.
        live = await parts.datasets.begin(collection, parts.embedder().space, now=parts.clock())
    delta = await write_delta(parts.store, collection, live.space, upserts, deletes, now=parts.clock())
    reached(DELTA_WRITTEN, run=delta.run)
    await parts.ledger.runs.record(
        RunRow(
            id=delta.run,
            collection=collection,
            space=live.space.to_json(),
            key=delta.key,
            sha256=delta.sha256,
            rows=delta.rows,
            lane="realtime",
            worker=parts.worker,
            created=parts.clock(),
            texts=spent.texts,
            tokens=spent.tokens,
            cost_usd=spent.cost_usd,
            seconds=spent.seconds,
        ),
        [*((row.id, row.version) for row in upserts), *((row.id, row.version) for row in deletes)],
        worker=parts.worker,
    )
    reached(RUN_RECORDED, run=delta.run)
    if await parts.ledger.dead_letters.count():
        # What failed once and is in a run now waits for nobody to look any more.
        subjects = [*(row.id for row in upserts), *(row.id for row in deletes)]
        await parts.ledger.dead_letters.remove("chunk", owner=collection, subjects=subjects)


def _upsert(passage: Passage, vector: NDArray[np.float32]) -> Upsert:
    return Upsert(
        id=passage.row.id,
        version=passage.row.version,
        document=passage.text,
        metadata=passage.metadata,
        text_hash=passage.row.text_hash,
        vector=vector,
    )


def _failure(row: ChunkRow, kind: str, reason: str) -> Failure:
    return Failure(collection=row.collection, id=row.id, version=row.version, kind=kind, reason=reason)


async def commit_pending(collection: str, parts: Parts, tally: Tally) -> None:
    """Commit what is pending of a collection, and tally it."""
    committed = await commit(
        collection, store=parts.store, ledger=parts.ledger, datasets=parts.datasets, clock=parts.clock
    )
    if committed.version is not None:
        tally.versions[collection] = committed.version
    tally.failed += len(committed.refused)
    tally.failures += committed.refused


async def _read_again(rows: Sequence[ChunkRow], parts: Parts) -> None:
    """Make the next fetch take the documents of chunks whose texts are lost for changed."""
    for source in sorted({row.source for row in rows}):
        names = {row.document for row in rows if row.source == source}
        known = await parts.ledger.documents.get(source, names)
        forgotten = [replace(row, etag="", hash="") for row in known.values()]
        # Where another run is fetching just now, the next one will find the texts missing again, and do this then.
        with contextlib.suppress(Conflict):
            cursor = await parts.ledger.documents.cursor(source)
            await parts.ledger.documents.swap(Swap(cursor=cursor, value="", documents=forgotten))


async def _fail(failures: Sequence[Failure], parts: Parts, tally: Tally) -> None:
    if not failures:
        return
    letters = [
        DeadLetter(kind="chunk", owner=each.collection, subject=each.id, reason=each.reason, at=parts.clock())
        for each in failures
        if each.kind == "rejected"
    ]
    # The letter first: a chunk that has failed without one would be looked at by nobody.
    if letters:
        await parts.ledger.dead_letters.add(letters)
    await parts.ledger.chunks.fail(failures, worker=parts.worker)
    for each in failures:
        reached(DEAD_LETTER, kind=each.kind, subject=each.id, reason=each.reason)
    tally.failed += len(failures)
    tally.failures += [Problem(subject=each.id, reason=each.reason) for each in failures]


@dataclass(frozen=True)
class _Every:
    """The indexes of several collections, asked one after the other."""

    tiers: Sequence[Reuse]

    async def get_many(self, hashes: Sequence[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for tier in self.tiers:
            found |= await tier.get_many([each for each in hashes if each not in found])
        return found
