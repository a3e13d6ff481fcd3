"""Plan what a run would do and cost, and stage it for `run --plan`; the ledger is not changed."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import tempfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flowbed.embedding.reading import advice, characters
from flowbed.errors import Damaged, Error
from flowbed.index.datasets import FileMissing
from flowbed.index.forgotten import read_blocked
from flowbed.lanes.batch.in_flight import InFlightTexts
from flowbed.lanes.batch_files import read_chunk_texts
from flowbed.lanes.claims import WAITING, release_dead_workers
from flowbed.pipeline.changes import changes
from flowbed.pipeline.comparing.records import Scan
from flowbed.pipeline.estimate import counts_as_billed, least_seconds, outlook, past
from flowbed.pipeline.staging import Draft, StagedPlan, StagedSource
from flowbed.pipeline.sync import check_space, prepare
from flowbed.records import Lane, Plan, Planned, Problem, Space, Status, canonical
from flowbed.telemetry import PROGRESS, STAGE, reached

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

    from flowbed.index.vector_lookup import VectorLookup
    from flowbed.lanes.batch_files import ChunkText
    from flowbed.lanes.choice import LaneOption
    from flowbed.lanes.contexts import RunContext
    from flowbed.ledger import ChunkRow
    from flowbed.pipeline import ConfiguredSource
    from flowbed.pipeline.comparing.records import Change
    from flowbed.pipeline.staging import Part


async def plan(
    context: RunContext,
    *,
    feeds: Mapping[str, ConfiguredSource],
    allow_deletes: bool = False,
    lane: LaneOption = "auto",
    deadline: float | None = None,
) -> Plan:
    """Plan a run of `feeds`, and stage the plan; planning the same again stages nothing.

    `lane` and `deadline` (seconds) are those intended for the run; neither is part of the plan.

    Raises:
        Misconfigured: the model cannot be opened, the only source cannot be read, or its collection lives in another
            space.
    """
    await asyncio.to_thread(context.embedder)  # fails here once, rather than for every source
    await release_dead_workers(
        context
    )  # as a run does first: chunks claimed by dead workers are not seen as waiting
    with tempfile.TemporaryDirectory(prefix="flowbed-plan-") as folder:
        planner = _Planner(context, Draft(Path(folder)))
        for name, feed in feeds.items():
            try:
                await check_space(feed, context)
                await planner.scan(feed, allow_deletes=allow_deletes)
            except Error as error:
                if len(feeds) == 1:
                    raise
                planner.problems.append(Problem(subject=f"source {name}", reason=str(error)))
        await planner.take_in_waiting(feeds)
        return await planner.result(lane, deadline)


@dataclass
class _Figures:
    """The counts of a plan, in chunks except for documents, tokens and characters; `texts` would be sent."""

    documents: int = 0
    new: int = 0
    changed: int = 0
    deleted: int = 0
    waiting: int = 0
    texts: int = 0
    tokens: int = 0
    characters: int = 0
    lost: int = 0
    reuse: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("repeated", "submitted", "cached", "indexed"), 0)
    )

    @property
    def written(self) -> int:
        return self.new + self.changed + self.waiting


@dataclass(frozen=True)
class _Text:
    """A text that may have to be paid for, and its own tokens."""

    hash: str
    sent: str
    tokens: int


class _Planner:
    """Collects one plan."""

    def __init__(self, context: RunContext, draft: Draft) -> None:
        self._context, self._draft = context, draft
        self._figures = _Figures()
        self._digest = hashlib.sha256()
        self._sources: dict[str, StagedSource] = {}
        self._waiting: list[str] = []
        # 16 bytes for each distinct text, and for each waiting row that this plan writes again.
        self._seen: set[bytes] = set()
        self._replaced: set[bytes] = set()
        self._tiers: list[VectorLookup] | None = None
        self._carried: InFlightTexts | None = None
        self.problems: list[Problem] = []
        self.withheld: dict[str, str] = {}
        self.empty: dict[str, str] = {}

    async def scan(self, feed: ConfiguredSource, *, allow_deletes: bool) -> None:
        """Fetch one source, compare it with the ledger, and keep the changes."""
        context, name = self._context, feed.rules.source
        reached(STAGE, stage="fetch", source=name)
        progress = (await context.ledger.documents.progress([name]))[name]
        cursor = progress.cursor
        scan = Scan(others=context.sources - {name}, forgotten=partial(read_blocked, context.store))
        after = cursor.value
        kept: list[Part] = []
        digest = hashlib.sha256(canonical([name, feed.rules.fingerprint, cursor.value, cursor.token]))
        async for change in changes(
            feed,
            progress,
            ledger=context.ledger,
            read=lambda text: context.embedder().read(text),
            clock=context.clock,
            scan=scan,
            allow_deletes=allow_deletes,
        ):
            after = change.value
            if change.documents or change.removed or change.deletes:
                prepared = await asyncio.to_thread(
                    prepare, name, change, now=context.clock(), compressed=context.compress_batches
                )
                kept.append(await self._draft.add(prepared, fetched=change.fetched))
                digest.update(_content(change))
                await self._count(change)
            reached(PROGRESS, stage="fetch", source=name, done=change.fetched, chunks=len(change.writes))
        self._digest.update(digest.digest())
        self.problems += scan.problems
        if scan.withheld:
            self.withheld[name] = scan.withheld
        if scan.empty:
            self.empty[name] = scan.empty
        self._sources[name] = StagedSource(
            value=cursor.value,
            token=cursor.token,
            after=after,
            rules=feed.rules.fingerprint,
            complete=scan.relisted,
            problems=tuple(scan.problems),
            withheld=scan.withheld,
            parts=tuple(kept),
            empty=scan.empty,
        )

    async def _count(self, change: Change) -> None:
        figures = self._figures
        figures.documents += change.fetched + len(change.removed)
        figures.deleted += len(change.deletes)
        fresh = sum(1 for write in change.writes if write.previous is None or write.previous.deleted)
        figures.new += fresh
        figures.changed += len(change.writes) - fresh
        figures.lost += sum(write.chunk.lost for write in change.writes)
        figures.characters += sum(characters(write.chunk.sent) for write in change.writes)
        before = [write.previous for write in change.writes if write.previous is not None]
        self._replaced.update(
            _row_key(row) for row in (*before, *change.deletes) if row.status is not Status.SUCCESS
        )
        await self._price(
            [_Text(write.chunk.text_hash, write.chunk.sent, write.chunk.tokens) for write in change.writes]
        )

    async def take_in_waiting(self, feeds: Mapping[str, ConfiguredSource]) -> None:
        """Add what earlier runs left to do in the planned sources, batch by batch."""
        names = tuple(name for name in feeds if name in self._sources)
        if not names:
            return
        async for batch, rows in self._left(names):
            waits = [row for row in rows if _row_key(row) not in self._replaced]
            if not waits:
                continue
            self._digest.update(
                canonical([[row.collection, row.id, row.version, row.attempts] for row in waits])
            )
            self._waiting.append(batch)
            self._figures.deleted += sum(1 for row in waits if row.deleted)
            # A lost text is not embedded; the run after this one reads its document again.
            passages, _ = await read_chunk_texts(
                [row for row in waits if not row.deleted],
                store=self._context.store,
                ledger=self._context.ledger,
            )
            self._figures.waiting += len(passages)
            await self._price([_text(each) for each in passages])

    async def _left(self, sources: Sequence[str]) -> AsyncIterator[tuple[str, list[ChunkRow]]]:
        chunks, now = self._context.ledger.chunks, self._context.clock()
        async for batches in chunks.batches(WAITING, now=now, sources=sources):
            for batch in batches:
                yield batch, await chunks.ready(batch, WAITING, now=now, sources=sources)

    async def _price(self, texts: Sequence[_Text]) -> None:
        """Count the cost of these texts, except those whose vectors are known."""
        figures = self._figures
        first: dict[str, _Text] = {}
        for each in texts:
            if (key := bytes.fromhex(each.hash)[:16]) not in self._seen:
                self._seen.add(key)
                first[each.hash] = each
        figures.reuse["repeated"] += len(texts) - len(first)
        if not first:
            return
        embedder = await asyncio.to_thread(self._context.embedder)
        submitted = await self._submitted(list(first), embedder.space)
        figures.reuse["submitted"] += len(submitted)
        first = {key: each for key, each in first.items() if key not in submitted}
        cached = await embedder.known([each.sent for each in first.values()], purpose="document")
        rest = {key: each for key, each in first.items() if each.sent not in cached}
        figures.reuse["cached"] += len(first) - len(rest)
        indexed = await self._indexed(list(rest), embedder.space)
        figures.reuse["indexed"] += len(indexed)
        figures.texts += len(rest) - len(indexed)
        figures.tokens += sum(
            embedder.bill(each.sent, each.tokens) for key, each in rest.items() if key not in indexed
        )

    async def _submitted(self, hashes: Sequence[str], space: Space) -> set[str]:
        """Return the texts that a live submission carries: they are paid for already."""
        if self._carried is None:
            self._carried = InFlightTexts(self._context.store, self._context.ledger, space)
            await self._carried.refresh()
        return set(self._carried.find(hashes))

    async def _indexed(self, hashes: Sequence[str], space: Space) -> set[str]:
        if self._tiers is None:
            found, _ = await self._context.collections.readable()
            same = [live for live in found if live.space.fingerprint == space.fingerprint]
            if same:
                # There is an index to read: only now lance is loaded.
                from flowbed.index.vector_lookup import VectorLookup

                self._tiers = [VectorLookup(live, self._context.datasets) for live in same]
            else:
                self._tiers = []
        known: set[str] = set()
        for tier in self._tiers:
            with contextlib.suppress(Damaged, FileMissing):  # the run says so, or does without it
                known.update(await tier.get_many([each for each in hashes if each not in known]))
        return known

    async def result(self, lane: LaneOption, deadline: float | None) -> Plan:
        """Stage the plan if there is anything to do, and return its record."""
        figures, context = self._figures, self._context
        ahead = await outlook(context)
        before = await past(context, tokens=figures.tokens, texts=figures.texts)
        slowest = least_seconds(context.embedder(), tokens=figures.tokens, texts=figures.texts)
        seconds = round(max(figures.tokens / before.rate, slowest), 1)
        lost = figures.lost / max(1, figures.characters)
        cost = figures.tokens * ahead.price / 1e6
        choice = ahead.choose(lane, tokens=figures.tokens, texts=figures.texts, deadline=deadline)
        plan_id = None
        if figures.written or figures.deleted or figures.documents:
            space = context.embedder().space
            self._digest.update(canonical([space.fingerprint, figures.tokens, cost, figures.reuse]))
            plan_id = self._digest.hexdigest()[:16]
            staged = StagedPlan(
                plan_id=plan_id,
                created=context.clock(),
                space=space.fingerprint,
                model=space.model,
                planned=Planned(
                    plan_id=plan_id,
                    chunks=figures.written,
                    deleted=figures.deleted,
                    tokens=figures.tokens,
                    cost_usd=cost,
                    seconds=seconds,
                ),
                sources=self._sources,
                waiting=tuple(self._waiting),
            )
            await self._draft.stage(context.store, staged)
        return Plan(
            plan_id=plan_id,
            new=figures.new,
            changed=figures.changed,
            reused=sum(figures.reuse.values()),
            deleted=figures.deleted,
            tokens=figures.tokens,
            lanes={
                "realtime": Lane(cost_usd=cost, seconds=seconds),
                "batch": ahead.batch(figures.tokens),
            },
            documents=figures.documents,
            waiting=figures.waiting,
            reuse=figures.reuse,
            timed_runs=before.timed,
            timed_submissions=ahead.timed,
            lane=choice.lane,
            lane_why=choice.why,
            tokens_exact=counts_as_billed(context.embedder()),
            error_seen=before.error,
            problems=tuple(self.problems),
            withheld=self.withheld,
            empty=self.empty,
            lost=lost,
            lost_advice=advice(lost, context.embedder().space.model) if lost else "",
        )


def _content(change: Change) -> bytes:
    """Describe what a change does, independently of when it was planned."""
    hashes = {each.id: each.hash for each in change.documents}
    touched: Iterable[str] = {write.chunk.document for write in change.writes}
    return canonical(
        [
            sorted((each, hashes[each]) for each in touched if each in hashes),
            sorted(change.removed),
            [(write.chunk.collection, write.chunk.id, write.chunk.row_hash) for write in change.writes],
            [(row.collection, row.id) for row in change.deletes],
        ]
    )


def _text(passage: ChunkText) -> _Text:
    return _Text(passage.row.text_hash, passage.sent, passage.row.tokens)


def _row_key(row: ChunkRow) -> bytes:
    return hashlib.blake2b(f"{row.collection}\0{row.id}".encode(), digest_size=16).digest()
