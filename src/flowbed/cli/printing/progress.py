"""How far a command has come: a live line on a terminal, JSON lines with `--json`, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from contextlib import contextmanager
from math import sqrt
from typing import TYPE_CHECKING, Any, NamedTuple

from flowbed import telemetry
from flowbed.cli.printing.output import note, say_json
from flowbed.escaping import visible
from flowbed.records.values import count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from rich.console import RenderableType

# Seconds between lines of progress without a terminal, and between two notes of the same retry.
EVERY = 5.0
# Answers that a rate is measured over: a wave of requests or two.
RECENT = 40
# Seconds before a rate is shown: what is counted at once, such as cached vectors, has none.
SOONEST = 1.0
REASON = 160  # characters of a reason that are shown
VERBS = {
    "embed": "embedding",
    "export": "exporting",
    "fetch": "fetching",
    "deltas": "reading deltas",
    "find": "gathering",
    "forget": "forgetting from the",
    "import": "importing",
    "release": "releasing",
    "verify": "verifying",
    "wait": "waiting for the provider",
}
COUNTED = {
    "wait": "texts",
    "export": "rows",
    "import": "rows",
    "deltas": "deltas",
}  # unit of a stage that does not count chunks


class _Answered(NamedTuple):
    """An answer: when it came, for how much, and the seconds that it took, 0 where it was not a request."""

    at: float
    done: int
    seconds: float


class Rate:
    """How many are done in a second, from the most recent answers; `clock` returns seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Begin now."""
        self._clock = clock
        self._since = clock()
        self._concurrency = 1
        self._answers: deque[_Answered] = deque(maxlen=RECENT)

    def add(self, done: int, seconds: float, concurrency: int) -> None:
        """Count what was done, by a request that took `seconds`, of `concurrency` at once."""
        if len(self._answers) == RECENT:
            self._since = self._answers[0].at
        self._concurrency = concurrency
        self._answers.append(_Answered(self._clock(), done, seconds))

    @property
    def per_second(self) -> float:
        """The rate; 0 where it is not known yet."""
        elapsed = self._clock() - self._since
        done = sum(each.done for each in self._answers)
        seconds = sum(each.seconds for each in self._answers)
        if elapsed < SOONEST or not done:
            return 0.0
        if not seconds:
            return done / elapsed
        # The first is too low while the first requests are half done, and the second too high where requests wait for
        # each other; later both are right.
        return sqrt(done / elapsed * self._concurrency * done / seconds)


class Progress:
    """The progress of a command, from its telemetry; `clock` returns seconds.

    Documents fetched first are embedded while the others are fetched: then both are counted.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start without a stage."""
        self._clock = clock
        self._stage, self._source = "", ""
        self._fetching = False
        self._rate = Rate(clock)
        self._documents, self._chunks, self._earlier = 0, 0, 0  # fetched; chunks of the sources before
        self._waiting: tuple[float, float, str] | None = None
        self.done, self.total = 0, 0

    def take(self, point: str, facts: Mapping[str, Any]) -> bool:
        """Process a telemetry point; return whether it changed anything."""
        match point:
            case telemetry.STAGE:
                self._begin(facts["stage"], facts.get("source", ""), facts.get("total", 0))
            case telemetry.PROGRESS:
                self._waiting = None
                self._count(facts)
            case telemetry.FETCHED:
                self._fetching = False
            case telemetry.RETRIED:
                now = self._clock()
                self._waiting = (now, now + (facts.get("seconds") or 0.0), retried(facts))
            case _:
                return False
        return True

    @property
    def stage(self) -> str:
        """The stage, in words."""
        return f"{VERBS[self._stage]} {self._source}".strip() if self._stage else ""

    @property
    def chunks(self) -> int:
        """The chunks of the documents fetched from this source so far."""
        return self._chunks - self._earlier

    @property
    def counts(self) -> str:
        """What was done, in words."""
        if not self._stage:
            return ""
        if self._stage == "fetch":
            return f"{count(self.done, 'document')}, {count(self.chunks, 'chunk')}"
        of = f" of {self.total:,}" if self.total else ""
        counted = f"{self.done:,}{of} {COUNTED.get(self._stage, 'chunks')}"
        return (
            f"{counted} ({count(self._documents, 'document')} fetched so far)" if self._fetching else counted
        )

    @property
    def speed(self) -> str:
        """The rate and the time left, in words; empty where they are not known."""
        rate = self._rate.per_second
        if not rate:
            return ""
        text = f"{rate:,.0f}/s" if rate >= 10 else f"{rate:,.1f}/s"  # noqa: PLR2004 - two digits
        left = self.seconds_left
        return text if left is None else f"{text}, {duration(left)} left"

    @property
    def seconds_left(self) -> float | None:
        """An estimate of the time left in this stage, None where it is not known."""
        rate = self._rate.per_second
        if self._fetching or not rate or not self.done < self.total:
            return None
        return (self.total - self.done) / rate

    @property
    def waiting(self) -> str:
        """Why nothing comes for a while, in words; empty where nothing is known to wait."""
        if self._waiting is None:
            return ""
        since, until, why = self._waiting
        now = self._clock()
        if now > until + EVERY:  # sent again, without an answer yet
            return ""
        return f"waiting {max(1.0, until - now):.0f} s: {why}" if until > since else f"trying again: {why}"

    @property
    def line(self) -> str:
        """All of it, in a line."""
        return ", ".join(each for each in (f"{self.stage}: {self.counts}", self.speed) if each)

    def _begin(self, stage: str, source: str, total: int) -> None:
        if stage == "embed" and self._stage == "embed":
            self._fetching, self.total = False, total  # begun while documents were fetched; now all is known
            return
        self._fetching, self._earlier = stage == "fetch", self._chunks
        if not (self._fetching and self._stage == "embed"):
            self._show(stage, source, total)

    def _show(self, stage: str, source: str, total: int) -> None:
        self._stage, self._source = stage, source
        self._rate = Rate(self._clock)
        self.done, self.total = 0, total

    def _count(self, facts: Mapping[str, Any]) -> None:
        stage, done = facts["stage"], facts["done"]
        if stage == "fetch":
            self._documents += done
            self._chunks += facts.get("chunks", 0)
            if self._stage == "embed":
                self.total = max(self.total, self._chunks)
                return
        elif stage == "embed" and self._stage == "fetch":
            self._show("embed", "", self._chunks)
        if stage != self._stage:
            return
        self.done += done
        if "seconds" in facts or stage != "embed":
            self._rate.add(done, facts.get("seconds", 0.0), facts.get("concurrency", 1))


def retried(facts: Mapping[str, Any]) -> str:
    """Say why a request is sent again."""
    reason = visible(facts["reason"])
    short = reason if len(reason) <= REASON else f"{reason[:REASON]}..."
    return f"rate limited: {short}" if facts.get("limited") else short


def duration(seconds: float) -> str:
    """Format a time that is an estimate."""
    if seconds < 100:  # noqa: PLR2004 - two digits
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6_000 else f"{seconds / 3_600:.1f} h"  # noqa: PLR2004 - two digits


@contextmanager
def progress(*, as_json: bool) -> Iterator[None]:
    """Show the progress of the work inside."""
    if as_json:
        show = _json_lines()
    elif sys.stderr.isatty():
        with _live():
            yield
        return
    else:
        show = _lines()
    stop = telemetry.listen(show)
    try:
        yield
    finally:
        stop()


def _lines() -> telemetry.Listener:
    now = Progress()
    last = time.monotonic()
    noted: dict[str, float] = {}

    def show(point: str, facts: dict[str, Any]) -> None:
        nonlocal last
        before, stage = now.line, now.stage
        if point == telemetry.RETRIED:
            why = retried(facts)
            # Ten requests in flight fail for one reason.
            if time.monotonic() - noted.get(why, -EVERY) >= EVERY:
                noted[why] = time.monotonic()
                seconds = facts.get("seconds")
                note(f"trying again{f' in {seconds:.0f} s' if seconds else ''}: {why}")
            return
        ended = now.done > 0
        if not now.take(point, facts):
            return
        if point == telemetry.STAGE and ended and now.stage != stage:
            note(before)
        elif now.done and time.monotonic() - last >= EVERY:
            last = time.monotonic()
            note(now.line)

    return show


def _json_lines() -> telemetry.Listener:
    now = Progress()
    last = 0.0

    def show(point: str, facts: dict[str, Any]) -> None:
        nonlocal last
        if now.take(point, facts) and time.monotonic() - last >= EVERY:
            last = time.monotonic()
            say_json({"progress": now.stage, "done": now.done, "total": now.total, "chunks": now.chunks})

    return show


@contextmanager
def _live() -> Iterator[None]:
    from rich.console import Console, Group  # only a terminal needs rich here
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.spinner import Spinner
    from rich.table import Table
    from rich.text import Text

    now = Progress()
    console = Console(stderr=True)
    spinner = Spinner("dots" if console.encoding.startswith("utf") else "line")

    def view() -> RenderableType:
        row = Table.grid(padding=(0, 1))
        bar = (
            [ProgressBar(total=now.total, completed=min(now.done, now.total), width=20)] if now.total else []
        )
        # Texts, since rich would read brackets in a plain string as markup.
        row.add_row(spinner, Text(f"{now.stage or 'starting'}:"), *bar, Text(now.counts), Text(now.speed))
        waiting = now.waiting
        return Group(row, Text(waiting, no_wrap=True, overflow="ellipsis")) if waiting else row

    def show(point: str, facts: dict[str, Any]) -> None:
        now.take(point, facts)

    with Live(get_renderable=view, console=console, transient=True, refresh_per_second=10):
        stop = telemetry.listen(show)
        try:
            yield
        finally:
            stop()
