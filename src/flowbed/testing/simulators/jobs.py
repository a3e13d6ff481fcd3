"""The jobs of a simulated Batch API: what each does, decided when it is made, and how far it is, by the clock.

All lines are worked on as a job is made; the clock then says how many of them are done, and when the job ends. So no
time need pass, nothing works in the background, and what is paid for is paid for whether or not anyone looks again.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from flowbed.testing.simulators.content import Content, Scratch
from flowbed.testing.simulators.files import MONTH, Files

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from flowbed.testing.simulators.content import Piece
    from flowbed.testing.simulators.wire import Call

Status = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
# A job is validated in the first part of its time and finalized in the last, so that every state can be seen.
VALIDATING, FINALIZING = 0.05, 0.95
NEVER = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why the input of a job is refused; `line` counts from 1, and is None where it is not one line's fault."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of input and its answer, if there is one in the file that it should be in.

    `good` lines are billed. `answers` are those in the output, or in the errors where it is not good: none where the
    answer was lost, and more where it was doubled.
    """

    custom_id: str
    good: bool
    answers: Sequence[Piece]
    call: Call | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a job does: its lines in the order in which it does them.

    `unfinished` are the places of those that are left when it expires, as it then does in the place of completing.
    `arrange` puts the pieces of the output in order.
    """

    model: str = ""
    lines: Sequence[Line] = ()
    problems: Sequence[Problem] = ()
    unfinished: Collection[int] = frozenset()
    arrange: Callable[[list[Piece]], list[Piece]] = list

    @property
    def tokens(self) -> int:
        """How many tokens all lines have."""
        return sum(line.call.tokens for line in self.lines if line.call)


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """When things happen to a job, in seconds since 1970.

    A job that is `stuck` has no end of its own; `cancelling` is how long it takes to be cancelled.
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

    `said` is what it was asked for with; `unfinished_line` writes a line that was not worked on, or nothing. `output`
    and `errors` name files. Once it is `settled`, `left` are the places of the lines that it did not do.
    """

    id: str
    key: str
    said: Mapping[str, Any]
    work: Work
    course: Course
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
        """When it ends, as far as is known."""
        if self.work.problems:
            return self.course.began
        if self.cancelled is not None:
            return self.cancelled + self.course.cancelling
        return self.course.ends if self.course.stuck else min(self.course.ends, self.course.expires)

    def status(self, now: float) -> Status:
        """Tell its state."""
        if now < self.ended:
            if self.cancelled is not None:
                return "cancelling"
            if now < self.course.began:
                return "validating"
            return "in_progress" if now < self.course.finalizing else "finalizing"
        if self.work.problems:
            return "failed"
        if self.cancelled is not None:
            return "cancelled"
        return "expired" if self.work.unfinished or self.course.ends > self.course.expires else "completed"

    def remaining(self, now: float) -> Collection[int]:
        """Tell the places of the lines that are not done."""
        if self.settled:
            return self.left
        now = now if self.cancelled is None else min(now, self.cancelled)
        spent = self.course.finalizing - self.course.began
        share = 1.0 if now >= self.course.finalizing else max(0.0, now - self.course.began) / spent
        done = int(share * len(self.work.lines))
        return {*range(done, len(self.work.lines)), *self.work.unfinished}

    def stamps(self, now: float) -> dict[str, float]:
        """Tell when it reached the states that it has reached."""
        last = self.ended if self.cancelled is None else min(self.ended, self.cancelled)
        reached: dict[str, float] = {}
        if not self.work.problems:
            on_the_way = {"in_progress": self.course.began, "finalizing": self.course.finalizing}
            reached = {status: at for status, at in on_the_way.items() if at <= min(now, last)}
        if self.cancelled is not None:
            reached["cancelling"] = self.cancelled
        if now >= self.ended:
            reached[self.status(now)] = self.ended
        return reached

    def counts(self, now: float) -> dict[str, int]:
        """Count its lines; those that are left when it ends have neither completed nor failed."""
        if self.work.problems or now < self.course.began:
            return {"total": 0, "completed": 0, "failed": 0}
        left = self.remaining(now)
        done = [line.good for place, line in enumerate(self.work.lines) if place not in left]
        return {"total": len(self.work.lines), "completed": sum(done), "failed": len(done) - sum(done)}


class Jobs:
    """All jobs, and the files that they read and write.

    A job takes `seconds`; `queue_tokens` is how many the unfinished jobs of a key may have in all for one model.
    """

    def __init__(
        self, *, window: float, seconds: float, cancelling: float, queue_tokens: int | None, output: str
    ) -> None:
        """Begin with none; `window` is how long a job may take, `output` the purpose of the files that they write."""
        self.files = Files()
        self.queue_tokens = queue_tokens
        self._window, self._seconds, self._cancelling = window, seconds, cancelling
        self._output = output
        self._jobs: dict[str, Job] = {}
        self._unsettled: list[Job] = []

    def course(self, now: float, *, late: float = 0.0, stuck: bool = False) -> Course:
        """Plan a job that begins now; `late` is by how much it takes longer, or its cancelling where it is stuck."""
        return Course(
            created=now,
            seconds=self._seconds + (0.0 if stuck else late),
            expires=now + self._window,
            cancelling=self._cancelling + (late if stuck else 0.0),
            stuck=stuck,
        )

    def waiting(self, key: str, model: str | None, now: float) -> int:
        """Count the tokens of the unfinished jobs of a key, of one model or of all."""
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
        """Begin a job."""
        self._jobs[job.id] = job
        self._unsettled.append(job)

    def get(self, key: str, job: str) -> Job | None:
        """Find a job."""
        found = self._jobs.get(job)
        return found if found and found.key == key and not found.forgotten else None

    def all(self, key: str) -> Sequence[Job]:
        """Give all jobs of a key, the newest first."""
        return [job for job in reversed(self._jobs.values()) if job.key == key and not job.forgotten]

    def settle(self, now: float) -> Sequence[Call]:
        """End the jobs whose time has come, and give what they are billed for."""
        ended = [job for job in self._unsettled if job.ended <= now]
        self._unsettled = [job for job in self._unsettled if job.ended > now]
        return [call for job in ended for call in self._end(job)]

    def _end(self, job: Job) -> Sequence[Call]:
        """Write the files of a job, and give what it is billed for."""
        job.left = job.remaining(job.ended)
        job.settled = True
        if job.work.problems:
            return ()
        self._write(job)
        done = enumerate(job.work.lines)
        calls = [line.call for place, line in done if line.good and line.call and place not in job.left]
        job.tokens_billed = sum(call.tokens for call in calls)
        # The texts are needed no more.
        job.work = replace(job.work, lines=[replace(line, call=None) for line in job.work.lines])
        return calls

    def _write(self, job: Job) -> None:
        good: list[Piece] = []
        bad: list[Piece] = []
        scratch = Scratch()
        why = "batch_cancelled" if job.cancelled is not None else "batch_expired"
        for place, line in enumerate(job.work.lines):
            if place in job.left:
                if told := job.unfinished_line(job.id, line.custom_id, why):
                    bad.append(scratch.append(told))
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
    """Make an id that no other simulator makes, so that what one has forgotten no other knows."""
    return f"{prefix}{secrets.token_hex(16)}"
