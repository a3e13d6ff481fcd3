"""Structured logs: one JSON object per line and request, without keys and texts."""

from __future__ import annotations

import asyncio
import logging
import traceback
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson
import stamina.instrumentation
import structlog

from flowbed.escaping import escape_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO, TextIO

    from flowbed.server.http.request_context import RequestContext

# Characters of an unknown model's name: the caller may have sent anything.
NAME = 64
# Seconds for which lines are buffered: this much of the log is lost if the process is killed.
GATHERED = 0.1
# Statuses from here on are faults of the server.
FAULT = 500


def configure(stream: TextIO, *, verbose: bool) -> None:
    """Send Python's logging to `stream`: warnings of Flowbed and uvicorn, errors of other packages.

    With `verbose`, also Flowbed's debug messages and uvicorn's notices.
    """
    # With structlog installed, stamina would print retries to standard output.
    stamina.instrumentation.set_on_retry_hooks(())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(_line),
            ]
        )
    )
    logging.basicConfig(level=logging.ERROR, handlers=[handler], force=True)
    logging.getLogger("flowbed").setLevel(logging.DEBUG if verbose else logging.WARNING)
    logging.getLogger("uvicorn").setLevel(logging.INFO if verbose else logging.WARNING)


def _line(value: Any, **_: Any) -> str:
    return escape_json(orjson.dumps(value, default=str).decode())


class Log:
    """A watcher of the gate that logs every request, or only those that failed because of the server.

    Lines are buffered and written together: one write per line takes longer than many a response.
    """

    def __init__(self, stream: BinaryIO, *, now: Callable[[], int], every: bool = True) -> None:
        """Write to `stream`; `now` returns microseconds since 1970."""
        self._stream, self._now, self._every = stream, now, every
        self._lines: list[bytes] = []

    def __call__(self, context: RequestContext) -> None:
        """Log one request."""
        failed = context.status >= FAULT or context.exception is not None
        if not (failed or self._every):
            return
        line = {
            "timestamp": datetime.fromtimestamp(self._now() / 1e6, UTC).isoformat(timespec="milliseconds"),
            "level": "error" if failed else "info",
            "event": "request",
            **_facts(context),
            **(_failure(context) if failed else {}),
        }
        if not self._lines:
            asyncio.get_running_loop().call_later(GATHERED, self.flush)
        written = orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
        self._lines.append(written if written.isascii() else escape_json(written.decode()).encode())

    def flush(self) -> None:
        """Write the buffered lines."""
        lines, self._lines = self._lines, []
        self._stream.write(b"".join(lines))
        self._stream.flush()


def _facts(context: RequestContext) -> dict[str, Any]:
    facts = {
        "request_id": context.id,
        "method": context.method,
        "route": context.route,
        "status": context.status,
        "seconds": round(context.seconds, 6),
    }
    if context.caller.key is not None:
        facts["key"] = context.caller.key  # the id, not the secret
    if context.code is not None:
        facts["code"] = context.code
    result = context.result
    if result is not None:
        facts |= {
            "model": result.model,
            "provider": result.provider,
            "space": result.space[:8],
            "inputs": len(result.vectors),
            "cached": result.cached,
            "tokens": result.tokens,
        }
    elif context.model:
        facts["model"] = context.model[:NAME]
    return facts


def _failure(context: RequestContext) -> dict[str, Any]:
    """Describe a failure. Of an unexpected exception only type and traceback: its message may quote a text."""
    if context.exception is None:
        return {"reason": context.reason}
    frames = traceback.extract_tb(context.exception.__traceback__)
    return {
        "fault": type(context.exception).__qualname__,
        "at": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }
