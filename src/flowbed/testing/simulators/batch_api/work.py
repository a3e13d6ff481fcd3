"""What a job does: its input parsed and checked, its lines answered, and the faults applied."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from flowbed.testing.simulators.batch_api.jobs import Job, Line, Problem, Work
from flowbed.testing.simulators.content import Scratch
from flowbed.testing.simulators.faults import OF_JOBS, OF_VECTORS
from flowbed.testing.simulators.wire import Answer, Refusal, VendorError, fields

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from flowbed.testing.simulators.batch_api.jobs import Jobs
    from flowbed.testing.simulators.content import Content, Piece
    from flowbed.testing.simulators.faults import Fault, Kind
    from flowbed.testing.simulators.wire import Call, OperationContext

TOO_MANY = 429


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One valid line of input; `call` is its request, or `error` its answer."""

    custom_id: str
    call: Call | None = None
    error: Answer | None = None


class LineFormat(Protocol):
    """How one vendor reads and writes the lines of a job."""

    def check(self, number: int, payload: dict[str, Any]) -> Iterator[Problem]:
        """Return what is wrong with a line of input, so that the whole job is refused."""
        ...

    def call(self, payload: dict[str, Any]) -> Call:
        """Validate the call of a line.

        Raises:
            VendorError: this line is answered with an error.
        """
        ...

    def line(self, job: str, custom_id: str, answer: Answer) -> bytes:
        """Write a line of the output, with its line break."""
        ...

    def unfinished(self, job: str, custom_id: str, why: str) -> bytes:
        """Write the line of one that was not processed; empty if there is none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """The input of a job, and what is wrong with it as a whole."""

    model: str = ""
    tasks: Sequence[Task] = ()
    problems: Sequence[Problem] = ()

    @property
    def inputs(self) -> int:
        """The number of texts."""
        return sum(len(task.call.texts) for task in self.tasks if task.call)

    @property
    def tokens(self) -> int:
        """The number of tokens."""
        return sum(task.call.tokens for task in self.tasks if task.call)


class Texts:
    """The texts of an input, read again each time."""

    def __init__(self, content: Content) -> None:
        """Read `content`."""
        self._content = content

    def __iter__(self) -> Iterator[str]:
        """Read the texts of all lines, as far as they can be read."""
        for raw in self._content.lines():
            texts = body_of(raw).get("input", "")
            yield from map(str, texts if isinstance(texts, list) else [texts])


def body_of(raw: bytes) -> dict[str, Any]:
    """Parse the body of a line; empty if that fails."""
    body = (fields(raw) or {}).get("body")
    return body if isinstance(body, dict) else {}


def read_input(content: Content, line_format: LineFormat, *, model: str) -> Input:
    """Read the input of a job for a model."""
    tasks: list[Task] = []
    problems: list[Problem] = []
    for number, raw in enumerate(content.lines(), 1):
        payload = fields(raw)
        if payload is None:
            message = "This line is not parseable as valid JSON."
            problems.append(Problem(code="invalid_json_line", message=message, line=number))
        elif found := list(line_format.check(number, payload)):
            problems += found
        else:
            tasks.append(_task(payload, line_format))
    return Input(model=model, tasks=tasks, problems=problems)


def make_job(
    name: str,
    payload: Mapping[str, Any],
    found: Input,
    context: OperationContext,
    *,
    line_format: LineFormat,
    jobs: Jobs,
    keep: float,
) -> Job:
    """Create the job for an input; `payload` is the request for it, `keep` how long its files are kept."""
    problems = found.problems or _ordered(found.tasks, context)
    job = Job(
        id=name,
        key=context.key,
        payload=payload,
        work=Work(model=found.model, problems=problems)
        if problems
        else _done(name, found, context, line_format),
        timeline=jobs.timeline(
            context.now,
            late=sum(fault.delay for fault in context.due if fault.kind in OF_JOBS),
            stuck=_due(context, "stuck"),
        ),
        unfinished_line=line_format.unfinished,
        forgotten=_due(context, "forgotten"),
        lost=_due(context, "lost"),
        keep=keep,
    )
    jobs.add(job)
    return job


def _ordered(tasks: Sequence[Task], context: OperationContext) -> Sequence[Problem]:
    """Return the problems that a fault reports for valid lines."""
    message = "A fault to order."
    return [
        Problem(code="invalid_request", message=message, line=place + 1, param="body.input")
        for place in _struck(context, tasks, "validation")
    ]


def _done(job: str, found: Input, context: OperationContext, line_format: LineFormat) -> Work:
    """Answer all lines of a job, correctly or as the faults say."""
    tasks = found.tasks
    scratch = Scratch()
    failed = _failed(context, tasks)
    good = [task.call for place, task in enumerate(tasks) if task.call and place not in failed]
    answers = context.answers(good, [fault for fault in context.due if fault.kind in OF_VECTORS])
    spoil = {kind: _struck(context, tasks, kind) for kind in SPOILED}
    lines = []
    for place, task in enumerate(tasks):
        answer = failed.get(place) or task.error
        right = line_format.line(job, task.custom_id, answer or next(answers))
        written = [right]
        for kind, struck in spoil.items():
            if place in struck and task.call and not answer:
                written = _spoiled(kind, written, context, line_format, job, task)
        pieces = [scratch.append(each) for each in written]
        lines.append(Line(custom_id=task.custom_id, good=answer is None, answers=pieces, call=task.call))
    return Work(
        model=found.model,
        lines=lines,
        unfinished=_struck(context, tasks, "expired"),
        arrange=_Arranged(
            seed=context.chance.random() if _due(context, "shuffled") else None, torn=_due(context, "torn")
        ),
    )


# What is done to the answers of lines, in this order.
SPOILED: tuple[Kind, ...] = ("conflicting_lines", "doubled_lines", "broken_lines", "missing_lines")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arranged:
    """The order of an output: shuffled if there is a `seed`, and ending in the middle of a line if `torn`."""

    seed: float | None
    torn: bool

    def __call__(self, pieces: list[Piece]) -> list[Piece]:
        if self.seed is not None:
            random.Random(self.seed).shuffle(pieces)  # noqa: S311 - chance that can be repeated is the point
        if self.torn:
            pieces[-1] = pieces[-1].part(pieces[-1].size // 2)
        return pieces


def _task(payload: dict[str, Any], line_format: LineFormat) -> Task:
    custom_id = payload["custom_id"]
    try:
        return Task(custom_id=custom_id, call=line_format.call(payload))
    except VendorError as error:
        return Task(custom_id=custom_id, error=error.answer)


def _due(context: OperationContext, kind: Kind) -> bool:
    return any(fault.kind == kind for fault in context.due)


def _struck(context: OperationContext, tasks: Sequence[Task], kind: Kind) -> Collection[int]:
    """Pick the lines that the faults of a kind affect."""
    return {place for fault in context.due if fault.kind == kind for place in _places(context, tasks, fault)}


def _places(context: OperationContext, tasks: Sequence[Task], fault: Fault) -> Sequence[int]:
    matching = [
        place
        for place, task in enumerate(tasks)
        if task.call and (not fault.text or any(fault.text in text for text in task.call.texts))
    ]
    # Rounded first: a share of 0.07 of 100 is 7, which floats would make slightly more than 7.
    return context.chance.sample(matching, math.ceil(round(fault.share * len(matching), 6)))


def _failed(context: OperationContext, tasks: Sequence[Task]) -> dict[int, Answer]:
    """Word the errors of the lines that a fault lets fail."""
    found: dict[int, Answer] = {}
    for fault in context.due:
        if fault.kind == "failed_lines":
            refusal = Refusal(
                reason="rate_limited" if fault.status == TOO_MANY else "error",
                status=fault.status,
                retry_after=fault.retry_after,
            )
            found |= dict.fromkeys(_places(context, tasks, fault), context.refuse(refusal))
    return found


def _spoiled(
    kind: Kind, written: list[bytes], context: OperationContext, line_format: LineFormat, job: str, task: Task
) -> list[bytes]:
    match kind:
        case "doubled_lines":
            return [*written, written[0]]
        case "conflicting_lines":
            assert task.call is not None
            other = replace(task.call, texts=[f"{text} and more" for text in task.call.texts])
            (answer,) = context.answers([other], ())
            return [*written, line_format.line(job, task.custom_id, answer)]
        case "broken_lines":
            return [b"upstream said: " + each[: len(each) // 2] + b"\n" for each in written]
    return []
