"""Lines of JSON for CloudWatch: the log, the points of the data flow with their ids, and metrics (EMF).

A text is followed from fetch to commit by `correlation_ids`: the line of a fetch has its batch file, the line of
embedding the batch file and the run, and the line of the commit the run.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Self

import orjson
import stamina.instrumentation

from flowbed import telemetry
from flowbed.errors import Error

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMESPACE = "Flowbed"
# Points whose facts are written; the others are counted by the steps themselves, or are of one request.
WRITTEN = frozenset(
    {
        telemetry.BATCH_WRITTEN,
        telemetry.RUN_RECORDED,
        telemetry.RUN_COMMITTED,
        telemetry.SUBMISSION_RECORDED,
        telemetry.SUBMISSION_SUBMITTED,
        telemetry.SUBMISSION_ENDED,
        telemetry.DEAD_LETTER,
        telemetry.RETRIED,
        telemetry.POINTER_MOVED,
    }
)
# Facts of a point that name what a text passes through.
IDS = ("batch", "batches", "run", "runs", "submission")
_current: ContextVar[Lines | None] = ContextVar("flowbed_lines", default=None)


class Lines(logging.Handler):
    """Writes the lines of one call, while it is entered; `points` are those that were reached."""

    def __init__(self, *, function: str, request: str) -> None:
        """Name the function and the request in every line."""
        super().__init__(logging.INFO)
        self.points: list[tuple[str, dict[str, Any]]] = []
        self._named = {"function": function, "request_id": request}
        self._counts: dict[str, float] = {}
        self._closing = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Take over the logger of Flowbed."""
        # With structlog installed, stamina would print retries to standard output; points tell of them.
        stamina.instrumentation.set_on_retry_hooks(())
        log = telemetry.log
        level, propagate = log.level, log.propagate
        began = time.monotonic()
        log.addHandler(self)
        log.setLevel(logging.INFO)
        log.propagate = False  # the runtime would write every line again
        token = _current.set(self)

        def restore() -> None:
            _current.reset(token)
            log.removeHandler(self)
            log.setLevel(level)
            log.propagate = propagate

        self._closing.callback(restore)
        self._closing.callback(self._write_metrics)
        self._closing.callback(lambda: self.count(DurationMs=1e3 * (time.monotonic() - began)))
        self._closing.callback(telemetry.listen(self._reached))
        return self

    def __exit__(self, *_: object) -> None:
        """Write the metrics, and leave the logger as it was."""
        self._closing.close()

    def count(self, **counts: float) -> None:
        """Add to metrics of this call."""
        for name, number in counts.items():
            self._counts[name] = self._counts.get(name, 0) + number

    def tell(self, message: str, **facts: Any) -> None:
        """Write one line."""
        self._write("INFO", message, facts)

    def failed(self, error: Exception) -> None:
        """Write why the call failed."""
        self.count(Errors=1)
        self._write("ERROR", str(error) or type(error).__name__, {"error": type(error).__name__})
        if not isinstance(error, Error):
            telemetry.log.error("unexpected error", exc_info=error)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line of Flowbed's log, if this call caused it."""
        if _current.get() is not self:
            return
        facts = {}
        if record.exc_info:
            facts["exception"] = logging.Formatter().formatException(record.exc_info)
        self._write(record.levelname, record.getMessage(), facts)

    def _reached(self, point: str, facts: dict[str, Any]) -> None:
        if _current.get() is not self or point not in WRITTEN:
            return
        self.points.append((point, facts))
        if point == telemetry.DEAD_LETTER:
            self.count(DeadLetters=1)
        self._write("INFO", point, {"point": point, **facts})

    def _write(self, level: str, message: str, facts: Mapping[str, Any]) -> None:
        line = {
            "timestamp": _now(),
            "level": level,
            "message": message,
            **self._named,
            **facts,
            "correlation_ids": _ids(facts),
        }
        _print(line)

    def _write_metrics(self) -> None:
        """Write what was counted in the embedded metric format."""
        if not self._counts:
            return
        metrics = [
            {"Name": name, "Unit": "Milliseconds" if name.endswith("Ms") else "Count"}
            for name in sorted(self._counts)
        ]
        about = {"Namespace": NAMESPACE, "Dimensions": [["FunctionName"]], "Metrics": metrics}
        _print(
            {
                "_aws": {"Timestamp": int(_now() * 1_000), "CloudWatchMetrics": [about]},
                "FunctionName": self._named["function"],
                **self._named,
                **self._counts,
            }
        )


def _ids(facts: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    for name in IDS:
        value = facts.get(name, ())
        found += [value] if isinstance(value, str) else [each for each in value if isinstance(each, str)]
    return found


def _now() -> float:
    return logging.makeLogRecord({}).created


def _print(line: Mapping[str, Any]) -> None:
    try:
        written = orjson.dumps(line, default=str).decode()
    except TypeError:  # half a character, or a number of more than 64 bits, which JSON itself allows
        written = json.dumps(line, default=str)
    sys.stdout.write(written + "\n")
    sys.stdout.flush()
