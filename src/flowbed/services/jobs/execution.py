"""The execution of one stage of one job; safe to repeat after any interruption, since the ledger says what is done."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson

from flowbed.chunking import Rules
from flowbed.embedding.local.priority import background
from flowbed.errors import Error, Exhausted, Misconfigured, Rejected, Transient
from flowbed.index.active_space import require_same
from flowbed.lanes.failures import RunStats
from flowbed.ledger.index_jobs import STAGES
from flowbed.pipeline import ConfiguredSource
from flowbed.records.serving import Caller
from flowbed.records.written import documents_source
from flowbed.services.batches.job_owner import JobOwner
from flowbed.services.jobs.chunk_states import (
    read_collection_states,
    read_states,
    requeue_collection,
)
from flowbed.services.jobs.documents import InputDocuments
from flowbed.services.jobs.lease import ATTEMPTS_MOST, FAILED, RETRY_SECONDS, HeldJob, Stopped
from flowbed.services.jobs.notes import note
from flowbed.services.jobs.requests import id_of, input_key, read_input
from flowbed.services.jobs.undo import (
    Replaced,
    keep_replaced,
    read_replaced,
    replaced_key,
    still_its_own,
)
from flowbed.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from flowbed.lanes.contexts import RunContext
    from flowbed.ledger.index_jobs import IndexJobRow, IndexJobs
    from flowbed.pipeline.sync import Synced
    from flowbed.records import Problem
    from flowbed.services.files import FileService
    from flowbed.services.jobs.chunk_states import ChunkStates
    from flowbed.services.jobs.requests import JobDocument, JobFile
    from flowbed.services.project import Project
    from flowbed.services.quotas import QuotaService

# Seconds that a job is worked on before the next one of its stage gets its turn.
TURN_SECONDS = 10.0
# Chunks that are embedded before the job's counts are written, and whether it was cancelled is looked at.
SLICE = 512
# Seconds that a job waits at most for a provider that asks for more: one that recovers early is noticed.
WAIT_MOST = 300.0
IDLE_MOST = 2  # slices in a row that embed nothing before the job is tried again later
FAULTS_MOST = 100  # more are counted, and not listed
CHUNKING, EMBEDDING, STORING = STAGES
NOBODY = Caller(background=True)
COMPLETED, CANCELLED = "completed", "cancelled"
REEMBED = "reembed"


class Waits(Exception):  # noqa: N818 - it ends a piece of work, and is not seen outside
    """The job waits until `due` (µs since 1970), for a `reason`."""

    def __init__(self, due: int, reason: str) -> None:
        """Keep until when, and why."""
        super().__init__(reason)
        self.due, self.reason = due, reason


@dataclass(frozen=True, kw_only=True)
class JobParts:
    """What jobs work with: the project, the ledger's jobs, the stored files and the quotas of owners."""

    bed: Project
    rows: IndexJobs
    files: FileService
    quotas: QuotaService


class IndexJobExecution:
    """The execution of one stage of a job by the worker that holds its lease."""

    def __init__(
        self, row: IndexJobRow, parts: JobParts, *, worker: str, monotonic: Callable[[], float]
    ) -> None:
        """Continue `row`, which `worker` holds."""
        self._job = HeldJob(row, parts.rows, worker=worker, clock=parts.bed.clock)
        self._parts, self._bed = parts, parts.bed
        self._clock, self._monotonic = parts.bed.clock, monotonic
        self._source = documents_source(row.collection)
        self._owner = JobOwner(parts.bed.ledger.keys, row.owner)
        self._caller: Caller | None = None
        self._idle = 0  # slices in a row that embedded nothing

    @property
    def row(self) -> IndexJobRow:
        """The job as it was written last."""
        return self._job.row

    async def run(self) -> None:
        """Do the work of the job's stage, and pass it on; afterwards nobody holds the job.

        Raises:
            LeaseLost: another process executes the job.
        """
        async with self._job.renewed():
            await self._attempt()

    async def _attempt(self) -> None:
        try:
            await self._begin()
            with background():
                await (self._cancelling() if self.row.cancel else getattr(self, f"_{self.row.stage}")())
        except Stopped:
            await self._job.release(attempts=0)
        except Waits as waits:
            await self._job.release(reason=waits.reason, due=waits.due)
        except (Misconfigured, Rejected) as error:
            await self._end(FAILED, error=str(error))
        except Transient as error:
            wait = min(error.retry_after or RETRY_SECONDS, WAIT_MOST)
            await self._job.release(reason=str(error), due=self._clock() + round(wait * 1e6))
        except Error as error:
            await self._job.fail_after_attempts(str(error))

    async def _begin(self) -> None:
        """Give up a job that kills its workers, and say that it has begun."""
        row = self.row
        if row.attempts > ATTEMPTS_MOST:
            raise Rejected(
                f"its worker ended {ATTEMPTS_MOST} times during {row.stage} without getting on; the server's log may"
                " say why, and `flowbed jobs retry` starts the job again"
            )
        self._caller = await self._owner.caller()
        if not row.cancel and self._caller is None:  # its key was revoked
            cancelled = await self._parts.rows.cancel(
                row.id, "keep", note("cancelling", self._clock(), finished="keep")
            )
            self._job.row = cancelled or row
        if row.state == "queued":
            await self._job.save([note("started", self._clock())], state="running", reason="")

    async def _chunking(self) -> None:
        """Chunk the documents of the job into batch files and record them, or let all of a collection wait again."""
        context = self._bed.run_context()
        await asyncio.to_thread(context.embedder)
        parts = await read_input(self._bed.store, self.row.id)
        problems = [] if self.row.kind == REEMBED else await self._sync(parts, context)
        if self.row.kind == REEMBED:
            await self._require_space(context)
            states = await requeue_collection(self._bed.ledger, self.row.collection, now=self._clock())
        else:
            states = await self._states(parts)
        await self._job.pass_on(
            EMBEDDING,
            documents=len(parts),
            chunks=states.total,
            skipped=states.stored,
            stored=states.stored,
            failed=len(problems),
            faults=_faults(problems),
            estimated_usd=states.waiting_tokens * context.embedder().price / 1e6,
            batches=orjson.dumps(states.batches).decode(),
        )

    async def _sync(self, parts: Sequence[JobDocument | JobFile | str], context: RunContext) -> list[Problem]:
        """Write what is new and changed of the documents as batch files; return why some could not be read."""
        from flowbed.pipeline.sync import check_space, sync

        feed = ConfiguredSource(
            source=InputDocuments(parts, self._parts.files, self._bed.store, owner=self.row.owner),
            rules=self._rules,
        )
        await check_space(feed, context)
        await keep_replaced(self.row.id, parts, self._rules, context)
        synced: Synced = await self._job.interruptible(
            sync(feed, context, allow_deletes=True, troubled=False)
        )
        if any(not each.document for each in synced.problems):
            raise Transient("other jobs kept writing the same collection; it is tried again")
        return synced.problems

    @property
    def _rules(self) -> Rules:
        chunking: dict[str, int] = orjson.loads(self.row.chunking)
        return Rules(source=self._source, collections=(self.row.collection,), **chunking)

    async def _require_space(self, context: RunContext) -> None:
        live = await context.collections.get(self.row.collection)
        if live is not None:
            require_same(live, context.embedder().space)

    async def _states(self, parts: Sequence[JobDocument | JobFile | str]) -> ChunkStates:
        if self.row.kind == REEMBED:
            return await read_collection_states(self._bed.ledger, self.row.collection)
        return await read_states(self._bed.ledger, self._source, [id_of(each) for each in parts])

    async def _embedding(self) -> None:
        """Embed the chunks of the job's batch files, and write deltas that no commit holds yet."""
        from flowbed.lanes.claims import release_dead_workers
        from flowbed.lanes.embed import embed  # loads numpy and lance

        context = replace(self._bed.run_context(), commits=False)
        batches = {batch: (source,) for batch, source in orjson.loads(self.row.batches).items()}
        sources = {source for some in batches.values() for source in some}
        await release_dead_workers(context, await context.ledger.overview())
        begun = self._monotonic()
        while await self._waiting(context, batches):
            self._job.require_going_on()
            if self._monotonic() - begun > TURN_SECONDS:
                raise Stopped
            granted = await self._granted()
            made = granted
            try:
                done = await self._job.interruptible(
                    embed(context, sources=sources, batches=batches, limit=granted)
                )
                made = done.sent
            finally:
                self._parts.quotas.settle_embeddings(self._caller or NOBODY, taken=granted, made=made)
            await self._count(done)
        # Deletions come last: with the new rows they are in one commit.
        await embed(context, sources=(self._source,), batches={"": (self._source,)})
        if self.row.kind != REEMBED:
            states = await self._states(await read_input(self._bed.store, self.row.id))
            if states.claimed:
                raise Transient("another process is embedding some of its chunks")
        await self._job.pass_on(STORING)

    async def _storing(self) -> None:
        """Commit what was embedded, and end the job."""
        await self._commit(self._bed.run_context())
        parts = await read_input(self._bed.store, self.row.id)
        states = await self._states(parts)
        if states.waiting or states.held:
            # What another process had claimed, or a repair has sent round again.
            await self._job.pass_on(
                EMBEDDING, stored=states.stored, due=self._clock() + round(RETRY_SECONDS * 1e6)
            )
        else:
            await self._finish(states)

    async def _commit(self, context: RunContext) -> None:
        from flowbed.lanes.write_deltas import commit_readable  # loads numpy and lance
        from flowbed.pipeline.run import tidy

        tally = RunStats()
        await commit_readable(self.row.target or self.row.collection, context, tally)
        for error in tally.unreadable.values():
            raise error
        await tidy(context, tally)
        for problem in (await self._bed.publish_due()).failures:
            log.warning("job %s: publishing %s: %s", self.row.id, problem.subject, problem.reason)

    async def _cancelling(self) -> None:
        """End the job: keep the documents that are finished, or none, and put back what the others replaced."""
        from flowbed.lanes.claims import release_dead_workers
        from flowbed.lanes.embed import embed  # loads numpy and lance
        from flowbed.pipeline.sync import sync

        context = self._bed.run_context()
        await release_dead_workers(context, await context.ledger.overview())
        await asyncio.to_thread(context.embedder)
        parts = await read_input(self._bed.store, self.row.id)
        if self.row.cancel == "keep":
            await self._commit(context)
        before = await read_replaced(self._bed.store, self.row.id)
        states = await self._states(parts)
        wanted = set(before) if self.row.cancel == "rollback" else before.keys() & states.unfinished
        wanted &= await still_its_own(parts, self._rules, context)
        if wanted:
            feed = ConfiguredSource(source=Replaced(before, wanted), rules=self._rules)
            await sync(feed, context, allow_deletes=True, troubled=False)
        batches = {batch: (source,) for batch, source in (await self._states(parts)).batches.items()}
        # Old and new rows, and deletions, are in one commit: nothing of the job is seen on the way.
        uncommitted = replace(context, commits=False)
        if batches:
            await embed(uncommitted, sources=(self._source,), batches=batches)
        await embed(uncommitted, sources=(self._source,), batches={"": (self._source,)})
        await self._commit(context)
        left = await self._states(parts)
        if left.waiting or left.held:
            raise Transient("what the job replaced is not back yet")
        own = sorted(await still_its_own(parts, self._rules, context))
        kept = await read_states(self._bed.ledger, self._source, [] if self.row.cancel == "rollback" else own)
        await self._bed.store.delete([replaced_key(self.row.id)])
        await self._end(CANCELLED, stored=left.stored if self.row.kind == REEMBED else kept.stored)

    async def _finish(self, states: ChunkStates) -> None:
        row = self.row
        faults = orjson.loads(row.faults) + [
            {"document": each.document, "message": each.error} for each in states.refused
        ]
        failed = row.failed + len(states.refused)
        nothing = failed and not states.stored
        await self._end(
            FAILED if nothing else COMPLETED,
            error="none of its documents could be stored; `errors` say why" if nothing else "",
            stored=states.stored,
            failed=failed,
            faults=orjson.dumps(faults[:FAULTS_MOST]).decode(),
        )

    async def _end(self, state: str, *, error: str = "", **changes: Any) -> None:
        await self._job.end(state, error=error, **changes)
        if state == COMPLETED:
            await self._bed.store.delete([input_key(self.row.id), replaced_key(self.row.id)])

    async def _granted(self) -> int:
        """Take the embeddings of a slice from the owner's quota, as many as are left.

        Raises:
            Waits: none is left today.
        """
        try:
            return await self._parts.quotas.take_embeddings(self._caller or NOBODY, SLICE, least=1)
        except Exhausted:
            raise Waits(self._parts.quotas.midnight, "the quota of embeddings a day is used up") from None

    async def _waiting(self, context: RunContext, batches: Mapping[str, Collection[str]]) -> bool:
        """Tell whether any chunk of the batch files can be claimed."""
        from flowbed.lanes.claims import WAITING

        chunks, now = self._bed.ledger.chunks, context.clock()
        for batch, sources in batches.items():
            if await chunks.ready(batch, WAITING, now=now, sources=sources):
                return True
        return False

    async def _count(self, done: RunStats) -> None:
        """Count what a slice did.

        Raises:
            Transient: it got nowhere.
        """
        row = self.row
        if done.chunks or done.sent:
            sent = min(done.sent, done.chunks)
            await self._job.save(
                progress=True,
                embedded=row.embedded + sent,
                cached=row.cached + done.chunks - sent,
                tokens=row.tokens + done.tokens,
                billed_usd=row.billed_usd + done.cost_usd,
                attempts=0,
            )
        # A chunk that was refused waits no more; one that failed for a passing reason does, and at once.
        self._idle = 0 if done.chunks else self._idle + 1
        if done.stopped or self._idle == IDLE_MOST:
            raise Transient(
                done.stopped or (done.failures[0].reason if done.failures else "its chunks are held")
            )


def _faults(problems: Sequence[Problem]) -> str:
    """Return why documents could not be read, as JSON."""
    return orjson.dumps(
        [{"document": each.document, "message": each.reason} for each in problems[:FAULTS_MOST]]
    ).decode()
