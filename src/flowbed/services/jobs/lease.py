"""A job that this process holds: its lease is renewed, and what is written of it is written as its holder."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from flowbed.errors import Error
from flowbed.services.jobs.notes import end_note, note, progress_note

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

    from flowbed.ledger.index_jobs import IndexJobRow, IndexJobs, JobNote

# Seconds of a job's lease, and between two renewals: after its holder's machine fails, others wait this long.
LEASE_SECONDS, RENEW_SECONDS = 30.0, 2.0
# Seconds before a job that failed for a passing reason is tried again. While a provider is down its breaker answers.
RETRY_SECONDS = 5.0
# A job is given up whose worker ended this often before it got on, or that failed so often for a reason of our own.
ATTEMPTS_MOST = 5
FAILED = "failed"


class LeaseLost(Exception):  # noqa: N818 - it ends this process's work on a job, which goes on elsewhere
    """Another process holds the lease of the job."""


class Stopped(Exception):  # noqa: N818 - it ends a piece of work, and is not seen outside
    """The job was cancelled, or the worker is to stop."""


class HeldJob:
    """A job held by `worker`; `row` is the job as it was written last."""

    def __init__(self, row: IndexJobRow, rows: IndexJobs, *, worker: str, clock: Callable[[], int]) -> None:
        """Take a job that was claimed."""
        self.row, self._rows = row, rows
        self._worker, self._clock = worker, clock
        self._stop, self._over = asyncio.Event(), asyncio.Event()

    @contextlib.asynccontextmanager
    async def renewed(self) -> AsyncIterator[None]:
        """Renew the lease meanwhile; where the work is cancelled, release it, so that another worker can go on."""
        renewing = asyncio.create_task(self._renew())
        try:
            yield
        except asyncio.CancelledError:
            # It may have been passed on already; else its lease ends by itself.
            with contextlib.suppress(LeaseLost, Error):
                await asyncio.shield(self.release(attempts=max(0, self.row.attempts - 1)))
            raise
        finally:
            self._over.set()
            await asyncio.gather(renewing, return_exceptions=True)

    def require_going_on(self) -> None:
        """Raise `Stopped` where the job was cancelled, or another process holds it."""
        if self._stop.is_set() or self.row.cancel:
            raise Stopped

    async def interruptible(self, work: Coroutine[Any, Any, Any]) -> Any:  # the result of the work
        """Await work, which is cancelled when the job is to stop."""
        task = asyncio.create_task(work)
        stop = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise Stopped
            return await task
        finally:
            for each in (task, stop):
                each.cancel()
            await asyncio.gather(task, stop, return_exceptions=True)

    async def _renew(self) -> None:
        """Renew the lease, and notice that the job was cancelled or taken over."""
        while not await self._is_over():
            now = self._clock()
            until = now + round(LEASE_SECONDS * 1e6)
            try:
                held = await self._rows.hold(self.row.id, worker=self._worker, now=now, until=until)
            except Error:
                continue  # its lease lasts for many renewals
            if held is None or (held.cancel and not self.row.cancel):
                self._stop.set()

    async def _is_over(self) -> bool:
        """Wait for the end of the work, or until the lease is to be renewed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RENEW_SECONDS):
                await self._over.wait()
        return self._over.is_set()

    async def pass_on(self, stage: str, **changes: Any) -> None:
        """Pass the job on to the workers of another stage."""
        at = self._clock()
        await self.save(
            [note("stage", at, stage=stage)],
            progress=True,
            stage=stage,
            **{"attempts": 0, "due": 0, "reason": "", "worker": "", "until": 0, **changes},
        )

    async def release(self, *, attempts: int | None = None, due: int = 0, reason: str = "") -> None:
        """Let any worker continue the job, when it is due."""
        row = self.row
        # A failure that was seen is none of the worker's ends.
        left = max(0, row.attempts - 1) if attempts is None else attempts
        notes = [note("warning", self._clock(), message=reason)] if reason and reason != row.reason else []
        await self.save(notes, attempts=left, due=due, reason=reason, worker="", until=0)

    async def fail_after_attempts(self, error: str) -> None:
        """Try again later what failed for a reason of our own, and give it up after some attempts."""
        if self.row.attempts >= ATTEMPTS_MOST:
            await self.end(FAILED, error=error)
            return
        wait = RETRY_SECONDS * 2**self.row.attempts
        await self.release(attempts=self.row.attempts, due=self._clock() + round(wait * 1e6), reason=error)

    async def end(self, state: str, *, error: str = "", **changes: Any) -> None:
        """Write the last state of the job, with its last event."""
        at = self._clock()
        ended = replace(self.row, state=state, error=error, **changes)
        await self.save(
            [end_note(ended, at)],
            state=state,
            error=error,
            reason="",
            ended=at,
            worker="",
            until=0,
            **changes,
        )

    async def save(self, notes: Sequence[JobNote] = (), *, progress: bool = False, **changes: Any) -> None:
        """Write changed fields with their events, and stamp the start of a new state."""
        now = self._clock()
        until = now + round(LEASE_SECONDS * 1e6)
        row = replace(self.row, **{"worker": self._worker, "until": until, **changes})
        if row.state != self.row.state:
            stamps = {**orjson.loads(row.stamps), row.state: now}
            row = replace(row, stamps=orjson.dumps(stamps).decode())
        if progress:
            notes = [*notes, progress_note(row, now)]
        saved = await self._rows.save(row, notes, worker=self._worker)
        if saved is None:
            raise LeaseLost
        self.row = saved
