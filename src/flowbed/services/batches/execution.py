"""The execution of one job, from any state to its end: check the input, answer it in parts, join the parts."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import orjson

from flowbed.errors import NotFound
from flowbed.records.serving import Caller
from flowbed.services.batches.answering import JobStopped
from flowbed.services.batches.deaths import DEATHS_MOST, forget_deaths
from flowbed.services.batches.input_lines import InputCheck, InputFault, copied
from flowbed.services.batches.job_owner import JobOwner
from flowbed.services.batches.output import OutputParts
from flowbed.services.batches.result_files import ResultFiles
from flowbed.services.embedding.served_model import allow
from flowbed.telemetry import log

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from flowbed.ledger import JobRow, Ledger
    from flowbed.services.batches.answering import LineEmbedder
    from flowbed.services.batches.input_lines import LocalCopy
    from flowbed.services.batches.output import LineOutcome, OutputPart
    from flowbed.services.service import Service

# Seconds of a job's lease, renewed with every part: after its holder's machine fails, others wait this long.
LEASE_SECONDS = 30.0
# A part is written after this many seconds or bytes; a kill repeats at most this much work.
PART_SECONDS, PART_BYTES = 1.0, 8 * 2**20

VALIDATING, IN_PROGRESS, FINALIZING, CANCELLING = "validating", "in_progress", "finalizing", "cancelling"
COMPLETED, FAILED, EXPIRED, CANCELLED = "completed", "failed", "expired", "cancelled"

# Code and message for lines that were not answered, by the state in which their job ends.
UNANSWERED = {
    EXPIRED: ("batch_expired", "This request could not be executed before the completion window expired."),
    CANCELLED: ("batch_cancelled", "This request was not executed: the batch was cancelled."),
}
REVOKED = (
    "batch_cancelled",
    "This request was not executed: the API key that created the batch was revoked.",
)


class LeaseLost(Exception):  # noqa: N818 - it ends this process's work on a job, which goes on elsewhere
    """Another process holds the lease of the job."""


class Yielded(Exception):  # noqa: N818 - it ends this process's work on a job for now
    """The job yields its place to the jobs of other owners."""


class InputGone(Exception):  # noqa: N818 - it ends a job, and is not seen outside
    """The input file of a job no longer exists."""


class JobExecution:
    """The execution of one job by the worker that holds its lease."""

    def __init__(
        self,
        row: JobRow,
        service: Service,
        *,
        embedder: LineEmbedder,
        worker: str,
        monotonic: Callable[[], float],
        done: Callable[[int, int], None],
        deaths: int = 0,
    ) -> None:
        """Continue `row`; `done` receives how many lines of each part were answered, and how many failed.

        `deaths` processes have died at the job since it got on.
        """
        self._row, self._service, self._embedder = row, service, embedder
        self._ledger: Ledger = service.bed.ledger
        self._parts = OutputParts(service.bed.store, row.id)
        self._results = ResultFiles(service.files, self._parts)
        self._worker, self._monotonic, self._clock = worker, monotonic, service.bed.clock
        self._done = done
        self._owner = JobOwner(self._ledger.keys, row.owner)
        self._revoked = False
        self.deaths = deaths
        self.yielding = False

    def yield_place(self) -> None:
        """Stop after the current part, so that this or another process continues later."""
        self.yielding = True

    async def run(self) -> None:
        """Do all work that is left; safe to repeat after any interruption.

        Raises:
            LeaseLost: another process executes the job.
            Yielded: `yield_place` was called; everything answered so far is counted.
            Transient: the store or the ledger cannot be reached.
        """
        if self.deaths >= DEATHS_MOST and await self._has_given_up():
            return
        row = self._row
        if row.state != VALIDATING and row.line == row.total:
            await self._finish(None)
            return
        caller = await self._caller()
        check = self._check(caller) if row.state == VALIDATING else None
        longest = self._service.serving.body_bytes
        try:
            async with copied(self._input(), longest=longest, seen=check) as copy:
                if check is not None:
                    await self._begin(check, len(copy))
                if self._row.state == IN_PROGRESS:
                    await self._answer_lines(copy, caller)
                if not self._row.ended:
                    await self._finish(copy)
        except InputGone:
            message = f"The input file {row.input} was deleted, or expired, before it was read completely."
            await self._fail([InputFault(code="input_file_not_found", message=message)])

    async def release(self) -> None:
        """Release the lease, so that any process may continue."""
        await self._ledger.jobs.save(replace(self._row, worker="", until=0), worker=self._worker)

    async def _caller(self) -> Caller:
        """Return the owner; if its key was revoked, cancel the job and return a caller without rights."""
        caller = await self._owner.caller()
        if caller is not None:
            return caller
        self._revoked = True
        await self._ledger.jobs.cancel(self._row.id)
        await self._renew_lease()
        return Caller(key=self._row.owner, background=True)

    def _check(self, caller: Caller) -> InputCheck:
        models, serving = self._service.models, self._service.serving

        def named(name: str) -> str:
            model = models.named(name)
            allow(model.id, model.names, caller, serving)
            return model.id

        return InputCheck(self._embedder.wire.read, named)

    async def _input(self) -> AsyncIterator[bytes]:
        try:
            row = await self._service.files.get(self._row.owner, self._row.input)
            async for piece in self._service.files.content(row):
                yield piece
        except NotFound as error:
            raise InputGone from error

    async def _begin(self, check: InputCheck, lines: int) -> None:
        """Start answering, or fail the job if its input is invalid or its tokens exceed the owner's queue."""
        if faults := check.end():
            await self._fail(faults)
            return
        # Serialized, so that of two jobs that fit only alone one is accepted; two servers may accept slightly too much.
        async with self._service.jobs.queueing:
            if await self._fits(check.tokens):
                await self._save(state=IN_PROGRESS, model=check.model, total=lines, queued=check.tokens)
                await self._forget_deaths()
                return
        message = (
            f"Enqueued token limit reached for {check.model}: this batch has about {check.tokens:,} tokens,"
            " more than fit beside your other batches. Please try again once some in_progress batches have completed."
        )
        await self._fail([InputFault(code="token_limit_exceeded", message=message)])

    async def _fits(self, tokens: int) -> bool:
        """Tell whether this many tokens fit into the owner's queue."""
        tier = self._service.serving.tiers.get(self._row.tier)
        if tier is None or tier.queued is None:
            return True
        return await self._ledger.jobs.queued(self._row.owner) + tokens <= tier.queued

    async def _answer_lines(self, copy: LocalCopy, caller: Caller) -> None:
        """Answer the remaining lines until none is left, the job expires, or it is cancelled."""
        await self._count_written()
        while self._row.line < self._row.total and not await self._has_ended():
            if self.yielding:
                raise Yielded
            outcomes = await self._answered(copy, caller)
            if outcomes:
                await self._count(await self._parts.write(self._row.line, outcomes))
        whole = self._row.line == self._row.total
        await self._save(state=CANCELLING if self._row.cancel and not whole else FINALIZING)

    async def _answered(self, copy: LocalCopy, caller: Caller) -> list[LineOutcome]:
        """Answer the lines of one part; fewer, or none, if the job ends meanwhile."""
        outcomes: list[LineOutcome] = []
        begun = self._monotonic()
        size = 0
        place = self._row.line
        while place < self._row.total and size < PART_BYTES and self._monotonic() - begun < PART_SECONDS:
            try:
                found = await self._embedder.next(
                    copy, place, caller, job=self._row.id, model=self._row.model, over=self._must_stop
                )
            except JobStopped:
                break
            outcomes += found
            place += len(found)
            size += sum(len(outcome.text) for outcome in found)
        return outcomes

    async def _finish(self, copy: LocalCopy | None, faults: Sequence[InputFault] = ()) -> None:
        """Join the parts to files and record the final state; without a copy, unanswered lines are not listed."""
        row = self._row
        whole = COMPLETED if row.line == row.total else CANCELLED if row.state == CANCELLING else EXPIRED
        end = FAILED if faults else whole
        # Writing the files again must give the same files: they expire relative to the end of the work.
        since = self._stamps().get(row.state, row.created)
        reason = REVOKED if self._revoked and end == CANCELLED else UNANSWERED.get(end)
        output = errors = ""
        # Where writing the files is what kills, a job without them is better than one that never ends.
        if self.deaths < 2 * DEATHS_MOST:
            output, errors = await self._results.write(row, copy, reason=reason, since=since)
        await self._save(
            state=end,
            output=output,
            errors=errors,
            faults=orjson.dumps([asdict(fault) for fault in faults]).decode(),
            ended=self._clock(),
            queued=0,
        )
        await self._forget_deaths()
        await self._parts.drop()

    async def _fail(self, faults: Sequence[InputFault]) -> None:
        await self._finish(None, faults)

    async def _has_given_up(self) -> bool:
        """Fail a job that kills its workers, unless it got on: who waits is told, and what was answered is kept."""
        await self._count_written()
        row, deaths = self._row, self.deaths
        if not deaths:
            return False
        work = f"answered line {row.line + 1:,} of {row.total:,} and those after it"
        if row.state == VALIDATING:
            work = f"checked its input file {row.input}"
        elif row.line == row.total:
            work = "wrote its output file"
        left = "The answers until then are kept: send the other lines" if row.line else "Send its lines"
        message = (
            f"{deaths} processes of the server died, one after the other, while they {work}, so that may be what"
            f" kills them; the log of their machines says what of, often that memory ran out. {left} in a new batch,"
            " in smaller requests."
        )
        log.error("batch %s has failed: %s", row.id, message)
        await self._fail([InputFault(code="server_error", message=message)])
        return True

    async def _count_written(self) -> None:
        """Count the parts that a killed process has written, and not counted."""
        while self._row.line < self._row.total and (part := await self._parts.find(self._row.line)):
            await self._count(part)

    async def _count(self, part: OutputPart) -> None:
        """Count a part that is in the store."""
        row = self._row
        left = row.total - row.line
        await self._save(
            line=row.line + part.lines,
            completed=row.completed + part.lines - part.failed,
            failed=row.failed + part.failed,
            tokens=row.tokens + part.tokens,
            queued=row.queued * (left - part.lines) // left,
        )
        self._done(part.lines - part.failed, part.failed)
        await self._forget_deaths()

    async def _forget_deaths(self) -> None:
        if self.deaths:
            await forget_deaths(self._ledger, self._row.id)
            self.deaths = 0

    async def _must_stop(self) -> bool:
        return await self._has_ended() or self.yielding

    async def _has_ended(self) -> bool:
        """Renew the lease, and tell whether the job has expired or been cancelled."""
        await self._renew_lease()
        if not self._row.cancel:
            await self._caller()  # cancels the job if its key was revoked
        return self._row.cancel or self._clock() >= self._row.expires

    async def _renew_lease(self) -> None:
        now = self._clock()
        until = now + round(LEASE_SECONDS * 1e6)
        held = await self._ledger.jobs.hold(self._row.id, worker=self._worker, now=now, until=until)
        if held is None:
            raise LeaseLost
        self._row = held

    async def _save(self, **changes: Any) -> None:
        """Write changed fields of the row, and stamp the start of a new state."""
        now = self._clock()
        row = replace(self._row, worker=self._worker, until=now + round(LEASE_SECONDS * 1e6), **changes)
        if row.state != self._row.state:
            row = replace(row, stamps=orjson.dumps({**self._stamps(), row.state: now}).decode())
        if not await self._ledger.jobs.save(row, worker=self._worker):
            raise LeaseLost
        self._row = row

    def _stamps(self) -> dict[str, int]:
        stamps: dict[str, int] = orjson.loads(self._row.stamps)
        return stamps
