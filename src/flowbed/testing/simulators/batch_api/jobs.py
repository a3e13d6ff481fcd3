"""The jobs of a simulated Batch API: what each does is computed at once; how far it is depends on the clock.

All lines are processed when a job is created. The clock then determines how many are done and when the job ends. So
no real time passes, nothing runs in the background, and work is billed whether or not a client polls.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from flowbed.testing.simulators.batch_api.files import MONTH, Files
from flowbed.testing.simulators.content import Content, Scratch

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from flowbed.testing.simulators.content import Piece
    from flowbed.testing.simulators.wire import Call

Status = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
# A job is validated in the first part of its time and finalized in the last, so that every state can be observed.
VALIDATING, FINALIZING = 0.05, 0.95
NEVER = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why the input of a job is refused; `line` counts from 1, and is None if no single line is at fault."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of input and its answers.

    `good` lines are billed. `answers` are the lines in the output, or in the error file if it is not good: none if the
    answer was lost, several if it was doubled.
    """

    custom_id: str
    good: bool
    answers: Sequence[Piece]
    call: Call | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a job does: its lines in processing order.

    `unfinished` are the positions of the lines left when it expires; it then expires instead of completing. `arrange`
    orders the pieces of the output.
    """

    model: str = ""
    lines: Sequence[Line] = ()
    problems: Sequence[Problem] = ()
    unfinished: Collection[int] = frozenset()
    arrange: Callable[[list[Piece]], list[Piece]] = list

    @property
    def tokens(self) -> int:
        """The tokens of all lines."""
        return sum(line.call.tokens for line in self.lines if line.call)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """When things happen to a job, in seconds since 1970.

    A `stuck` job never ends by itself; `cancelling` is how long cancelling takes.
    """

    created: float
    seconds: float
    expires: float
    cancelling: float = 0.0
    stuck: bool = False

    @property
    def began(self) -> float:
        """When its input has been validated."""
        return self.created + self.seconds * VALIDATING

    @property
    def finalizing(self) -> float:
        """When all lines are done."""
        return NEVER if self.stuck else self.created + self.seconds * FINALIZING

    @property
    def ends(self) -> float:
        """When it has completed."""
        return NEVER if self.stuck else self.created + self.seconds


@dataclass(kw_only=True, eq=False)
class Job:
    """One job.

    `payload` is the request that created it; `unfinished_line` writes a line that was not processed, or nothing.
    `output` and `errors` name files. Once it is `settled`, `left` are the positions of the unprocessed lines.
    """

    id: str
    key: str
    payload: Mapping[str, Any]
    work: Work
    timeline: Timeline
    unfinished_line: Callable[[str, str, str], bytes]
    forgotten: bool = False
    lost: bool = False
    keep: float = MONTH
    cancelled: float | None = None
    output: str | None = None
    errors: str | None = None
    settled: bool = False
    tokens_billed: int = 0
    left: Collection[int] = field(default_factory=frozenset)

    @property
    def ended(self) -> float:
        """When it ends, as far as known."""
        if self.work.problems:
            return self.timeline.began
        if self.cancelled is not None:
            return self.cancelled + self.timeline.cancelling
        return self.timeline.ends if self.timeline.stuck else min(self.timeline.ends, self.timeline.expires)

    def status(self, now: float) -> Status:
        """Return its state."""
        if now < self.ended:
            if self.cancelled is not None:
                return "cancelling"
            if now < self.timeline.began:
                return "validating"
            return "in_progress" if now < self.timeline.finalizing else "finalizing"
        if self.work.problems:
            return "failed"
        if self.cancelled is not None:
            return "cancelled"
        return (
            "expired" if self.work.unfinished or self.timeline.ends > self.timeline.expires else "completed"
        )

    def remaining(self, now: float) -> Collection[int]:
        """Return the positions of the lines that are not done."""
        if self.settled:
            return self.left
        now = now if self.cancelled is None else min(now, self.cancelled)
        spent = self.timeline.finalizing - self.timeline.began
        share = 1.0 if now >= self.timeline.finalizing else max(0.0, now - self.timeline.began) / spent
        done = int(share * len(self.work.lines))
        return {*range(done, len(self.work.lines)), *self.work.unfinished}

    def stamps(self, now: float) -> dict[str, float]:
        """Return when it reached the states it has reached."""
        last = self.ended if self.cancelled is None else min(self.ended, self.cancelled)
        reached: dict[str, float] = {}
        if not self.work.problems:
            on_the_way = {"in_progress": self.timeline.began, "finalizing": self.timeline.finalizing}
            reached = {status: at for status, at in on_the_way.items() if at <= min(now, last)}
        if self.cancelled is not None:
            reached["cancelling"] = self.cancelled
        if now >= self.ended:
            reached[self.status(now)] = self.ended
        return reached

    def counts(self, now: float) -> dict[str, int]:
        """Count its lines; lines left when it ends have neither completed nor failed."""
        if self.work.problems or now < self.timeline.began:
            return {"total": 0, "completed": 0, "failed": 0}
        left = self.remaining(now)
        done = [line.good for place, line in enumerate(self.work.lines) if place not in left]
        return {"total": len(self.work.lines), "completed": sum(done), "failed": len(done) - sum(done)}


class Jobs:
    """All jobs, and the files that they read and write.

    A job takes `seconds`; `queue_tokens` limits the unfinished jobs of a key, together, for one model.
    """

    def __init__(
        self, *, window: float, seconds: float, cancelling: float, queue_tokens: int | None, output: str
    ) -> None:
        """Start empty; `window` is how long a job may take, `output` the purpose of the files that jobs write."""
        self.files = Files()
        self.queue_tokens = queue_tokens
        self._window, self._seconds, self._cancelling = window, seconds, cancelling
        self._output = output
        self._jobs: dict[str, Job] = {}
        self._unsettled: list[Job] = []

    def timeline(self, now: float, *, late: float = 0.0, stuck: bool = False) -> Timeline:
        """Schedule a job that begins now; `late` delays its end, or its cancelling if it is stuck."""
        return Timeline(
            created=now,
            seconds=self._seconds + (0.0 if stuck else late),
            expires=now + self._window,
            cancelling=self._cancelling + (late if stuck else 0.0),
            stuck=stuck,
        )

    def waiting(self, key: str, model: str | None, now: float) -> int:
        """Count the tokens of a key's unfinished jobs, of one model or of all."""
        return sum(
            job.work.tokens
            for job in self._unsettled
            if job.key == key
            and model in {None, job.work.model}
            and now < job.ended
            and not job.work.problems
        )

    def unfinished(self, key: str, now: float) -> int:
        """Count the unfinished jobs of a key."""
        return sum(job.key == key and now < job.ended for job in self._unsettled)

    def add(self, job: Job) -> None:
        """Add a job."""
        self._jobs[job.id] = job
        self._unsettled.append(job)

    def get(self, key: str, job: str) -> Job | None:
        """Find a job."""
        found = self._jobs.get(job)
        return found if found and found.key == key and not found.forgotten else None

    def all(self, key: str) -> Sequence[Job]:
        """Return all jobs of a key, the newest first."""
        return [job for job in reversed(self._jobs.values()) if job.key == key and not job.forgotten]

    def settle(self, now: float) -> Sequence[Call]:
        """End the jobs whose time has come, and return the calls to bill."""
        ended = [job for job in self._unsettled if job.ended <= now]
        self._unsettled = [job for job in self._unsettled if job.ended > now]
        return [call for job in ended for call in self._end(job)]

    def _end(self, job: Job) -> Sequence[Call]:
        """Write the files of a job, and return the calls to bill."""
        job.left = job.remaining(job.ended)
        job.settled = True
        if job.work.problems:
            return ()
        self._write(job)
        done = enumerate(job.work.lines)
        calls = [line.call for place, line in done if line.good and line.call and place not in job.left]
        job.tokens_billed = sum(call.tokens for call in calls)
        # The texts are no longer needed.
        job.work = replace(job.work, lines=[replace(line, call=None) for line in job.work.lines])
        return calls

    def _write(self, job: Job) -> None:
        good: list[Piece] = []
        bad: list[Piece] = []
        scratch = Scratch()
        why = "batch_cancelled" if job.cancelled is not None else "batch_expired"
        for place, line in enumerate(job.work.lines):
            if place in job.left:
                if written := job.unfinished_line(job.id, line.custom_id, why):
                    bad.append(scratch.append(written))
            else:
                (good if line.good else bad).extend(line.answers)
        if good:
            job.output = self._keep(job, "output", job.work.arrange(good))
            if job.lost:
                self.files.remove(job.output)
        if bad:
            job.errors = self._keep(job, "error", bad)

    def _keep(self, job: Job, what: str, pieces: list[Piece]) -> str:
        name, content = f"{job.id}_{what}.jsonl", Content(pieces)
        return self.files.add(job.key, self._output, name, content, now=job.ended, keep=job.keep).id


def new_id(prefix: str) -> str:
    """Make an id that no other simulator makes, so that one simulator never knows another's."""
    return f"{prefix}{secrets.token_hex(16)}"
