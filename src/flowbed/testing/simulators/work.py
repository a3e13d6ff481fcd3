"""What a job does: its input read and checked, its lines answered, and what faults make of them."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from flowbed.testing.simulators.content import Scratch
from flowbed.testing.simulators.faults import OF_JOBS, OF_VECTORS
from flowbed.testing.simulators.jobs import Job, Line, Problem, Work
from flowbed.testing.simulators.wire import Answer, Refusal, VendorError, fields

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from flowbed.testing.simulators.content import Content, Piece
    from flowbed.testing.simulators.faults import Fault, Kind
    from flowbed.testing.simulators.jobs import Jobs
    from flowbed.testing.simulators.wire import Call, Scene

TOO_MANY = 429


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One good line of input; `call` is what it asks for, or else `error` what it is answered with."""

    custom_id: str
    call: Call | None = None
    error: Answer | None = None


class Sheet(Protocol):
    """How one vendor reads and writes the lines of a job."""

    def check(self, number: int, said: dict[str, Any]) -> Iterator[Problem]:
        """Tell what is wrong with a line of input, so that the job as a whole is refused."""
        ...

    def call(self, said: dict[str, Any]) -> Call:
        """Judge what a line asks for.

        Raises:
            VendorError: this line is answered with an error.
        """
        ...

    def line(self, job: str, custom_id: str, answer: Answer) -> bytes:
        """Write a line of answer, ended."""
        ...

    def unfinished(self, job: str, custom_id: str, why: str) -> bytes:
        """Write the line of one that was not worked on; nothing where there is none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """What a job is asked to do, and what is wrong with it as a whole."""

    model: str = ""
    tasks: Sequence[Task] = ()
    problems: Sequence[Problem] = ()

    @property
    def inputs(self) -> int:
        """How many texts it has."""
        return sum(len(task.call.texts) for task in self.tasks if task.call)

    @property
    def tokens(self) -> int:
        """How many tokens it has."""
        return sum(task.call.tokens for task in self.tasks if task.call)


class Texts:
    """The texts of an input, read anew each time."""

    def __init__(self, content: Content) -> None:
        """Read `content`."""
        self._content = content

    def __iter__(self) -> Iterator[str]:
        """Read the texts of all lines, as far as they can be read."""
        for raw in self._content.lines():
            texts = body_of(raw).get("input", "")
            yield from map(str, texts if isinstance(texts, list) else [texts])


def body_of(raw: bytes) -> dict[str, Any]:
    """Read what a line asks for; nothing where it cannot be read."""
    body = (fields(raw) or {}).get("body")
    return body if isinstance(body, dict) else {}


def read_input(content: Content, sheet: Sheet, *, model: str) -> Input:
    """Read the input of a job for a model."""
    tasks: list[Task] = []
    problems: list[Problem] = []
    for number, raw in enumerate(content.lines(), 1):
        said = fields(raw)
        if said is None:
            message = "This line is not parseable as valid JSON."
            problems.append(Problem(code="invalid_json_line", message=message, line=number))
        elif found := list(sheet.check(number, said)):
            problems += found
        else:
            tasks.append(_task(said, sheet))
    return Input(model=model, tasks=tasks, problems=problems)


def make_job(
    name: str,
    said: Mapping[str, Any],
    found: Input,
    scene: Scene,
    *,
    sheet: Sheet,
    jobs: Jobs,
    keep: float,
) -> Job:
    """Begin the job for an input; `said` is what it was asked for with, `keep` how long its files are kept."""
    problems = found.problems or _ordered(found.tasks, scene)
    job = Job(
        id=name,
        key=scene.key,
        said=said,
        work=Work(model=found.model, problems=problems) if problems else _done(name, found, scene, sheet),
        course=jobs.course(
            scene.now,
            late=sum(fault.delay for fault in scene.due if fault.kind in OF_JOBS),
            stuck=_due(scene, "stuck"),
        ),
        unfinished_line=sheet.unfinished,
        forgotten=_due(scene, "forgotten"),
        lost=_due(scene, "lost"),
        keep=keep,
    )
    jobs.add(job)
    return job


def _ordered(tasks: Sequence[Task], scene: Scene) -> Sequence[Problem]:
    """Give what a fault finds wrong with lines that are right."""
    message = "A fault to order."
    return [
        Problem(code="invalid_request", message=message, line=place + 1, param="body.input")
        for place in _struck(scene, tasks, "validation")
    ]


def _done(job: str, found: Input, scene: Scene, sheet: Sheet) -> Work:
    """Answer all lines of a job, right or as the faults have it."""
    tasks = found.tasks
    scratch = Scratch()
    failed = _failed(scene, tasks)
    good = [task.call for place, task in enumerate(tasks) if task.call and place not in failed]
    answers = scene.answers(good, [fault for fault in scene.due if fault.kind in OF_VECTORS])
    spoil = {kind: _struck(scene, tasks, kind) for kind in SPOILED}
    lines = []
    for place, task in enumerate(tasks):
        answer = failed.get(place) or task.error
        right = sheet.line(job, task.custom_id, answer or next(answers))
        told = [right]
        for kind, struck in spoil.items():
            if place in struck and task.call and not answer:
                told = _spoiled(kind, told, scene, sheet, job, task)
        pieces = [scratch.append(each) for each in told]
        lines.append(Line(custom_id=task.custom_id, good=answer is None, answers=pieces, call=task.call))
    return Work(
        model=found.model,
        lines=lines,
        unfinished=_struck(scene, tasks, "expired"),
        arrange=_Arranged(
            seed=scene.chance.random() if _due(scene, "shuffled") else None, torn=_due(scene, "torn")
        ),
    )


# What is done to the answers of lines, in this order.
SPOILED: tuple[Kind, ...] = ("conflicting_lines", "doubled_lines", "broken_lines", "missing_lines")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arranged:
    """The order of an output: shuffled where there is a `seed`, and ending in the middle of a line if `torn`."""

    seed: float | None
    torn: bool

    def __call__(self, pieces: list[Piece]) -> list[Piece]:
        if self.seed is not None:
            random.Random(self.seed).shuffle(pieces)  # noqa: S311 - chance that can be repeated is the point
        if self.torn:
            pieces[-1] = pieces[-1].part(pieces[-1].size // 2)
        return pieces


def _task(said: dict[str, Any], sheet: Sheet) -> Task:
    custom_id = said["custom_id"]
    try:
        return Task(custom_id=custom_id, call=sheet.call(said))
    except VendorError as error:
        return Task(custom_id=custom_id, error=error.answer)


def _due(scene: Scene, kind: Kind) -> bool:
    return any(fault.kind == kind for fault in scene.due)


def _struck(scene: Scene, tasks: Sequence[Task], kind: Kind) -> Collection[int]:
    """Pick the lines that the faults of a kind strike."""
    return {place for fault in scene.due if fault.kind == kind for place in _places(scene, tasks, fault)}


def _places(scene: Scene, tasks: Sequence[Task], fault: Fault) -> Sequence[int]:
    matching = [
        place
        for place, task in enumerate(tasks)
        if task.call and (not fault.text or any(fault.text in text for text in task.call.texts))
    ]
    # Rounded first, so that a share of 0.07 is 7 of 100, which floats would make a little more than 7.
    return scene.chance.sample(matching, math.ceil(round(fault.share * len(matching), 6)))


def _failed(scene: Scene, tasks: Sequence[Task]) -> dict[int, Answer]:
    """Word the errors of the lines that fail to order."""
    found: dict[int, Answer] = {}
    for fault in scene.due:
        if fault.kind == "failed_lines":
            refusal = Refusal(
                reason="rate_limited" if fault.status == TOO_MANY else "error",
                status=fault.status,
                retry_after=fault.retry_after,
            )
            found |= dict.fromkeys(_places(scene, tasks, fault), scene.refuse(refusal))
    return found


def _spoiled(kind: Kind, told: list[bytes], scene: Scene, sheet: Sheet, job: str, task: Task) -> list[bytes]:
    match kind:
        case "doubled_lines":
            return [*told, told[0]]
        case "conflicting_lines":
            assert task.call is not None
            other = replace(task.call, texts=[f"{text} and more" for text in task.call.texts])
            (answer,) = scene.answers([other], ())
            return [*told, sheet.line(job, task.custom_id, answer)]
        case "broken_lines":
            return [b"upstream said: " + each[: len(each) // 2] + b"\n" for each in told]
    return []
