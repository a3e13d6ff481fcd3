"""What a command prints: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from flowbed import telemetry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Seconds between lines of progress without a terminal.
EVERY = 5.0
VERBS = {
    "embed": "embedding",
    "fetch": "fetching",
    "find": "gathering",
    "release": "releasing",
    "verify": "verifying",
    "wait": "waiting for the provider",
}
COUNTED = {"wait": "texts"}  # unit of a stage that does not count chunks


def say(text: str = "") -> None:
    """Print a line of a result."""
    sys.stdout.write(f"{text}\n")


def note(text: str) -> None:
    """Print a line that is not part of the result."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def say_json(value: Any) -> None:  # anything that plain() converts
    """Print a result as one line of JSON."""
    say(json.dumps(plain(value), ensure_ascii=False))
    sys.stdout.flush()


def plain(value: Any) -> Any:
    """Convert records to JSON types."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, tuple) and hasattr(value, "_asdict"):  # a named tuple
        return plain(value._asdict())
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in value]
    return value.value if isinstance(value, Enum) else value


class Progress:
    """The progress of a stage: count and rate."""

    def __init__(self) -> None:
        """Start without a stage."""
        self._name = ""
        self._ahead: dict[str, int] = {}
        self.stage, self.total, self.done, self.chunks, self.since = "", 0, 0, 0, time.monotonic()

    def take(self, point: str, facts: Mapping[str, Any]) -> bool:
        """Process a telemetry point; return whether it changed anything."""
        if point == telemetry.STAGE:
            self._name, self.since = facts["stage"], time.monotonic()
            self.stage = f"{VERBS[self._name]} {facts.get('source', '')}".strip()
            self.total, self.done, self.chunks = facts.get("total", 0), self._ahead.pop(self._name, 0), 0
            return True
        if point == telemetry.PROGRESS and facts["stage"] != self._name:
            # Documents fetched first are embedded while the others are fetched.
            self._ahead[facts["stage"]] = self._ahead.get(facts["stage"], 0) + facts["done"]
            return False
        if point == telemetry.PROGRESS:
            self.done += facts["done"]
            self.chunks += facts.get("chunks", 0)
            return True
        return False

    @property
    def line(self) -> str:
        """Count, rate and time left, in a line."""
        seconds = max(time.monotonic() - self.since, 1e-9)
        rate = self.done / seconds
        text = f"{self.stage}: {self.done:,}"
        if self.total:
            text += f" of {self.total:,} {COUNTED.get(self._name, 'chunks')}"
        else:
            text += f" documents, {self.chunks:,} chunks"
        text += f", {rate:,.0f}/s"
        if self.total and rate and self.done < self.total:
            text += f", {(self.total - self.done) / rate:,.0f} s left"
        return text


@contextmanager
def progress(*, as_json: bool) -> Iterator[None]:
    """Show the progress of the work inside: a bar on a terminal, JSON lines with `as_json`, plain lines elsewhere."""
    if as_json:
        show = _json_lines()
    elif sys.stderr.isatty():
        with _bar():
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
    last = [time.monotonic()]

    def show(point: str, facts: dict[str, Any]) -> None:
        if point == telemetry.STAGE and now.done:
            note(now.line)
        if now.take(point, facts) and now.done and time.monotonic() - last[0] >= EVERY:
            last[0] = time.monotonic()
            note(now.line)
        if point == telemetry.RETRIED:
            note(f"trying again: {facts['reason']}")

    return show


def _json_lines() -> telemetry.Listener:
    now = Progress()
    last = [0.0]

    def show(point: str, facts: dict[str, Any]) -> None:
        if now.take(point, facts) and time.monotonic() - last[0] >= EVERY:
            last[0] = time.monotonic()
            say_json({"progress": now.stage, "done": now.done, "total": now.total, "chunks": now.chunks})

    return show


@contextmanager
def _bar() -> Iterator[None]:
    from rich.console import Console  # only a terminal needs rich here
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        SpinnerColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}/s"),
        TimeRemainingColumn(),
    )
    now = Progress()
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None, rate="0")

        def show(point: str, facts: dict[str, Any]) -> None:
            if point == telemetry.STAGE:
                bar.reset(task)
            if now.take(point, facts):
                rate = now.done / max(time.monotonic() - now.since, 1e-9)
                bar.update(
                    task,
                    description=now.stage,
                    completed=now.done,
                    total=now.total or None,
                    rate=f"{rate:,.0f}",
                )

        stop = telemetry.listen(show)
        try:
            yield
        finally:
            stop()
