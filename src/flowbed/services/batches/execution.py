"""One job, carried on from wherever it stands until it has ended: its lines judged, answered in parts, and joined."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import orjson

from flowbed.errors import NotFound
from flowbed.records.serving import Caller
from flowbed.services.batches.answering import Stopped, undone
from flowbed.services.batches.input_lines import Check, Fault, copied
from flowbed.services.batches.job_owner import Owner
from flowbed.services.batches.output import Parts
from flowbed.services.served_model import allow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from flowbed.ledger import JobRow, Ledger
    from flowbed.services.batches.answering import Answers
    from flowbed.services.batches.input_lines import Copy
    from flowbed.services.batches.output import Outcome, Part
    from flowbed.services.service import Service

# Seconds that a job is held for, counted anew with every part: so long do others leave it alone after its holder's
# machine is gone.
HELD = 30.0
# A part is laid down when it has taken so many seconds, or has so many bytes: that much is done again after a kill.
PART_SECONDS, PART_BYTES = 1.0, 8 * 2**20

VALIDATING, IN_PROGRESS, FINALIZING, CANCELLING = "validating", "in_progress", "finalizing", "cancelling"
COMPLETED, FAILED, EXPIRED, CANCELLED = "completed", "failed", "expired", "cancelled"

PAGE = 1_000  # lines that are read and written together

# What the lines are told that a job was not got to, by the state that it ends in.
UNDONE = {
    EXPIRED: ("batch_expired", "This request could not be executed before the completion window expired."),
    CANCELLED: ("batch_cancelled", "This request was not executed: the batch was cancelled."),
}
REVOKED = (
    "batch_cancelled",
    "This request was not executed: the API key that the batch was made with was revoked.",
)


class Lost(Exception):  # noqa: N818 - it ends this process's work on a job, which goes on elsewhere
    """Another process holds the job."""


class GaveWay(Exception):  # noqa: N818 - it ends this process's work on a job for now
    """The job stands back for those of others."""


class InputGone(Exception):  # noqa: N818 - it ends a job, and is not seen outside
    """The file that a job reads is not there any more."""


class Work:
    """The work on one job, by one worker that holds it."""

    def __init__(
        self,
        row: JobRow,
        service: Service,
        *,
        answers: Answers,
        worker: str,
        monotonic: Callable[[], float],
        done: Callable[[int, int], None],
    ) -> None:
        """Carry on `row`; `done` is told how many lines of each part were answered, and failed."""
        self._row, self._service, self._answers = row, service, answers
        self._ledger: Ledger = service.bed.ledger
        self._parts = Parts(service.bed.store, row.id)
        self._worker, self._monotonic, self._clock = worker, monotonic, service.bed.clock
        self._done = done
        self._for = Owner(self._ledger.keys, row.owner)
        self._revoked = False
        self.gives_way = False

    def give_way(self) -> None:
        """Ask that the work ends with the part that is under way, for another process, or this one, to go on later."""
        self.gives_way = True

    async def run(self) -> None:
        """Do all that is left to do; repeatable, whatever ends it.

        Raises:
            Lost: another process does it.
            GaveWay: it was asked to, and what was answered is counted.
            Transient: store or ledger cannot be reached.
        """
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
                    await self._go_on(copy, caller)
                if not self._row.ended:
                    await self._finish(copy)
        except InputGone:
            message = (
                f"The input file {row.input} was deleted, or its time was over, before all of it was read."
            )
            await self._fail([Fault(code="input_file_not_found", message=message)])

    async def let_go(self) -> None:
        """Hold the job no more, so that any process may go on with it."""
        await self._ledger.jobs.save(replace(self._row, worker="", until=0), worker=self._worker)

    async def _caller(self) -> Caller:
        """Find out for whom this is done; where the key was revoked, for nobody: the job is then cancelled."""
        caller = await self._for.caller()
        if caller is not None:
            return caller
        self._revoked = True
        await self._ledger.jobs.cancel(self._row.id)
        await self._hold()
        return Caller(key=self._row.owner, background=True)

    def _check(self, caller: Caller) -> Check:
        models, serving = self._service.models, self._service.serving

        def named(name: str) -> str:
            model = models.named(name)
            allow(model.id, model.names, caller, serving)
            return model.id

        return Check(self._answers.wire.read, named)

    async def _input(self) -> AsyncIterator[bytes]:
        try:
            row = await self._service.files.get(self._row.owner, self._row.input)
            async for piece in self._service.files.content(row):
                yield piece
        except NotFound as error:
            raise InputGone from error

    async def _begin(self, check: Check, lines: int) -> None:
        """Settle whether the job is done at all."""
        if faults := check.end():
            await self._fail(faults)
            return
        # One after the other, so that of two that fit alone one is taken; two servers may take a little too much.
        async with self._service.jobs.queueing:
            if await self._fits(check.tokens):
                await self._save(state=IN_PROGRESS, model=check.model, total=lines, queued=check.tokens)
                return
        message = (
            f"Enqueued token limit reached for {check.model}: this batch has about {check.tokens:,} tokens, and"
            " fewer may wait beside those that do. Please try again once some in_progress batches have been completed."
        )
        await self._fail([Fault(code="token_limit_exceeded", message=message)])

    async def _fits(self, tokens: int) -> bool:
        """Tell whether so many tokens may wait beside those that do."""
        tier = self._service.serving.tiers.get(self._row.tier)
        if tier is None or tier.queued is None:
            return True
        return await self._ledger.jobs.queued(self._row.owner) + tokens <= tier.queued

    async def _go_on(self, copy: Copy, caller: Caller) -> None:
        """Answer the lines that are left, until there are none, or the time is over, or nobody wants them any more."""
        while self._row.line < self._row.total and (part := await self._parts.find(self._row.line)):
            await self._count(part)
        while self._row.line < self._row.total and not await self._is_over():
            if self.gives_way:
                raise GaveWay
            outcomes = await self._answered(copy, caller)
            if outcomes:
                await self._count(await self._parts.lay(self._row.line, outcomes))
        whole = self._row.line == self._row.total
        await self._save(state=CANCELLING if self._row.cancel and not whole else FINALIZING)

    async def _answered(self, copy: Copy, caller: Caller) -> list[Outcome]:
        """Answer as many lines as make a part; fewer, or none, where the job is over meanwhile."""
        outcomes: list[Outcome] = []
        begun = self._monotonic()
        size = 0
        place = self._row.line
        while place < self._row.total and size < PART_BYTES and self._monotonic() - begun < PART_SECONDS:
            try:
                found = await self._answers.next(
                    copy, place, caller, job=self._row.id, model=self._row.model, over=self._has_to_stop
                )
            except Stopped:
                break
            outcomes += found
            place += len(found)
            size += sum(len(outcome.text) for outcome in found)
        return outcomes

    async def _finish(self, copy: Copy | None, faults: Sequence[Fault] = ()) -> None:
        """Join the parts to files, and say how the job has ended; without a copy, nothing is said of lines left."""
        row = self._row
        whole = COMPLETED if row.line == row.total else CANCELLED if row.state == CANCELLING else EXPIRED
        end = FAILED if faults else whole
        output = errors = ""
        if row.completed:
            output = await self._file("output", self._parts.output(row.line))
        if row.failed or (copy is not None and row.line < row.total):
            errors = await self._file("error", self._errors(copy, end))
        await self._save(
            state=end,
            output=output,
            errors=errors,
            faults=orjson.dumps([asdict(fault) for fault in faults]).decode(),
            ended=self._clock(),
            queued=0,
        )
        await self._parts.drop()

    async def _fail(self, faults: Sequence[Fault]) -> None:
        await self._finish(None, faults)

    async def _file(self, kind: str, pieces: AsyncIterator[bytes]) -> str:
        """Write one of the files that a job makes, under an id that follows from the job's."""
        row = self._row
        id = f"file-{hashlib.sha256(f'{row.id}/{kind}'.encode()).hexdigest()[:24]}"  # noqa: A001 - the record's field
        # The same whenever it is written again: how long it is kept counts from when the work was over.
        since = self._stamps().get(row.state, row.created)
        await self._service.files.write(
            row.owner,
            id=id,
            filename=f"{row.id}_{kind}.jsonl",
            pieces=pieces,
            expires=since + row.keep * 1_000_000 if row.keep else 0,
        )
        return id

    async def _errors(self, copy: Copy | None, end: str) -> AsyncIterator[bytes]:
        """Write the lines that failed, and those that were not got to."""
        async for piece in self._parts.errors(self._row.line):
            yield piece
        if copy is None or self._row.line == self._row.total:
            return
        code, message = REVOKED if self._revoked and end == CANCELLED else UNDONE[end]
        for first in range(self._row.line, self._row.total, PAGE):
            last = min(first + PAGE, self._row.total)
            names = await asyncio.to_thread(copy.names, first, last)
            yield b"".join(
                undone(self._row.id, first + number, name, code=code, message=message)
                for number, name in enumerate(names)
            )

    async def _count(self, part: Part) -> None:
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

    async def _has_to_stop(self) -> bool:
        return await self._is_over() or self.gives_way

    async def _is_over(self) -> bool:
        """Hold the job for longer, and tell whether its time is over or nobody wants any more of it."""
        await self._hold()
        if not self._row.cancel:
            await self._caller()  # which cancels the job of a key that was revoked since
        return self._row.cancel or self._clock() >= self._row.expires

    async def _hold(self) -> None:
        now = self._clock()
        until = now + round(HELD * 1e6)
        held = await self._ledger.jobs.hold(self._row.id, worker=self._worker, now=now, until=until)
        if held is None:
            raise Lost
        self._row = held

    async def _save(self, **changes: Any) -> None:  # fields of a row
        """Write the row as it changes, with the time at which a new state begins."""
        now = self._clock()
        row = replace(self._row, worker=self._worker, until=now + round(HELD * 1e6), **changes)
        if row.state != self._row.state:
            row = replace(row, stamps=orjson.dumps({**self._stamps(), row.state: now}).decode())
        if not await self._ledger.jobs.save(row, worker=self._worker):
            raise Lost
        self._row = row

    def _stamps(self) -> dict[str, int]:
        stamps: dict[str, int] = orjson.loads(self._row.stamps)
        return stamps
