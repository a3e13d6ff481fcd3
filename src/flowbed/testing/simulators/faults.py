"""Faults of a simulated provider, and the requests that they affect."""

from __future__ import annotations

import random
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import TypeAdapter, ValidationError

from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Kind = Literal[
    "slow",  # only late
    "rate_limited",  # 429, as when a rate limit is exceeded
    "quota",  # the account is exhausted: 429 with OpenAI, 402 elsewhere
    "error",  # the vendor's error of `status`
    "gateway",  # an HTML page with `status`, from something in front of the vendor
    "cut",  # the work is done and billed; the connection ends without an answer
    "truncated",  # the answer ends halfway
    "garbled",  # 200 with invalid JSON
    "wrong_order",  # the last vector comes first, each with its right index
    "wrong_index",  # every vector has the index of the first text
    "wrong_dimension",  # vectors that are one number short
    "missing",  # the last text has no vector
    "not_finite",  # the last vector contains no numbers
    "validation",  # of a job: lines are found invalid, and the job fails
    "failed_lines",  # lines are answered with an error of `status`
    "missing_lines",  # lines are done and billed, and are in neither file
    "doubled_lines",  # lines are answered twice
    "conflicting_lines",  # lines are answered twice, the second time with another vector
    "broken_lines",  # lines of the output are invalid JSON
    "shuffled",  # the output is in another order
    "torn",  # the output ends in the middle of a line, as if the file ended there
    "expired",  # the job expires, with lines left over
    "stuck",  # it does not end unless it is cancelled
    "lost",  # it completes, and its output is gone
    "forgotten",  # it is created, and then unknown
]
RetryHeader = Literal["seconds", "milliseconds", "date", "none"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# Faults that no client could notice if the vendor's answers have no index.
OF_INDICES: frozenset[Kind] = frozenset({"wrong_order", "wrong_index"})
# Faults of vectors, in requests and in jobs.
OF_VECTORS: frozenset[Kind] = frozenset({*OF_INDICES, "wrong_dimension", "missing", "not_finite"})
# Faults of jobs: they affect only requests that create one.
OF_JOBS: frozenset[Kind] = frozenset(KINDS[KINDS.index("validation") :])


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that goes wrong, and when.

    By order: `calls` numbers the matching requests, from 1; None means all. By share: a random `probability` of these.
    By match: `path` and `model` are shell patterns, and `text` is part of one of the texts. A fault comes `delay`
    seconds late, and `delay_per_text` for each text of the request. `retry_after` seconds are sent in the header chosen
    by `retry_header`, and in the body if the vendor does that; None omits them.

    A fault of jobs affects the request that creates one. A fault of lines affects a random `share` of those that
    contain `text`. `delay` then delays the end of the job, not the request, and for `stuck` the cancelling.
    """

    kind: Kind
    calls: tuple[int, ...] | None = None
    probability: float = 1.0
    path: str = "*"
    model: str = "*"
    text: str = ""
    delay: float = 0.0
    delay_per_text: float = 0.0
    status: int = 500
    retry_after: float | None = None
    retry_header: RetryHeader = "seconds"
    share: float = 1.0

    def __post_init__(self) -> None:
        """Refuse faults that can never apply or could not be answered.

        Raises:
            ValueError: a number is out of its range.
        """
        ranges = {
            "calls count from 1": all(call >= 1 for call in self.calls or ()),
            "probability lies between 0 and 1": 0 <= self.probability <= 1,
            "share lies between 0 and 1": 0 <= self.share <= 1,
            "delay and delay_per_text are not negative": self.delay >= 0 and self.delay_per_text >= 0,
            "status is an error status, 400 to 599": 400 <= self.status <= 599,
            "retry_after is not negative": self.retry_after is None or self.retry_after >= 0,
        }
        if broken := [rule for rule, holds in ranges.items() if not holds]:
            raise ValueError(f"{self.kind}: {', '.join(broken)}")


FIELDS = {field.name for field in fields(Fault)}
_FAULTS = TypeAdapter(tuple[Fault, ...])


def read_faults(value: Any) -> tuple[Fault, ...]:  # any JSON value
    """Parse faults from JSON.

    Raises:
        Misconfigured: it is not a list of faults; the message says what is wrong.
    """
    try:
        unknown = {name for fault in value for name in fault} - FIELDS
        if unknown:
            raise Misconfigured(f"a fault has no {sorted(unknown)}; it has {sorted(FIELDS)}")
        return _FAULTS.validate_python(value)
    except (ValidationError, TypeError) as error:
        raise Misconfigured(f"these are no faults: {error}") from error


def read_fault(text: str) -> Fault:
    """Parse a fault from one line: `rate_limited,calls=1+2,retry_after=0.5`.

    Raises:
        Misconfigured: it is not a fault; the message says what is wrong.
    """
    kind, *rest = (each.strip() for each in text.split(","))
    if kind not in KINDS:
        raise Misconfigured(f"no fault is called {kind!r}; there are {', '.join(KINDS)}")
    payload: dict[str, Any] = {"kind": kind}
    for each in rest:
        name, equals, value = each.partition("=")
        if not equals:
            raise Misconfigured(f"a fault is written kind,name=value,...; {each!r} is not name=value")
        payload[name] = value.split("+") if name == "calls" else value
    (fault,) = read_faults([payload])
    return fault


class Script:
    """The faults of a simulator and how often they applied; the same requests in the same order get the same faults."""

    def __init__(self, faults: Sequence[Fault] = (), *, seed: int = 0) -> None:
        """Start with these faults; `seed` seeds the random choices."""
        self.order(*faults, seed=seed)

    @property
    def faults(self) -> Sequence[Fault]:
        """The faults in force."""
        return self._faults

    def order(self, *faults: Fault, seed: int = 0) -> None:
        """Replace the faults, and count from 1 again."""
        self._faults = faults
        self._matched = [0] * len(faults)
        self._random = random.Random(seed)  # noqa: S311 - chance that can be repeated is the point

    @property
    def chance(self) -> random.Random:
        """The random generator for everything left to chance."""
        return self._random

    def due(self, path: str, model: str, texts: Iterable[str], *, makes_job: bool = False) -> Sequence[Fault]:
        """Return the faults of one request."""
        return [
            fault
            for place, fault in enumerate(self._faults)
            if (makes_job or fault.kind not in OF_JOBS)
            and _matches(fault, path, model, texts)
            and self._strikes(place, fault)
        ]

    def _strikes(self, place: int, fault: Fault) -> bool:
        self._matched[place] += 1
        if fault.calls is not None and self._matched[place] not in fault.calls:
            return False
        return fault.probability >= 1 or self._random.random() < fault.probability


def _matches(fault: Fault, path: str, model: str, texts: Iterable[str]) -> bool:
    return (
        fnmatchcase(path, fault.path)
        and fnmatchcase(model, fault.model)
        and (not fault.text or any(fault.text in text for text in texts))
    )
