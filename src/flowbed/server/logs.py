"""Structured logs, a JSON object a line: one for each request. Keys and texts are never among what is logged."""

from __future__ import annotations

import asyncio
import logging
import traceback
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson
import stamina.instrumentation
import structlog

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO, TextIO

    from flowbed.server.http.request_context import Exchange

# Letters of the name of a model that is not known: whoever asks may have put anything there.
NAME = 64
# Seconds that lines are gathered for: as much is lost of the log where a process is killed.
GATHERED = 0.1
# Statuses from here on are the server's own fault, and someone should look.
FAULT = 500


def configure(stream: TextIO, *, verbose: bool) -> None:
    """Send what Python's own logging is told to `stream`: of Flowbed and of uvicorn, of others only what is wrong."""
    # With structlog installed, retries would be printed to standard output.
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


def _line(value: Any, **_: Any) -> str:  # what structlog hands over
    return orjson.dumps(value, default=str).decode()


class Log:
    """A watcher of the gate that writes a line for each request: all of them, or only those the server failed at.

    Lines are gathered for a moment and written together: a write for each takes longer than many an answer.
    """

    def __init__(self, stream: BinaryIO, *, now: Callable[[], int], every: bool = True) -> None:
        """Write to `stream`; `now` gives microseconds since 1970."""
        self._stream, self._now, self._every = stream, now, every
        self._lines: list[bytes] = []

    def __call__(self, exchange: Exchange) -> None:
        """Write the line of one request."""
        failed = exchange.status >= FAULT or exchange.fault is not None
        if not (failed or self._every):
            return
        line = {
            "timestamp": datetime.fromtimestamp(self._now() / 1e6, UTC).isoformat(timespec="milliseconds"),
            "level": "error" if failed else "info",
            "event": "request",
            **_facts(exchange),
            **(_failure(exchange) if failed else {}),
        }
        if not self._lines:
            asyncio.get_running_loop().call_later(GATHERED, self.flush)
        self._lines.append(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    def flush(self) -> None:
        """Write what was gathered."""
        lines, self._lines = self._lines, []
        self._stream.write(b"".join(lines))
        self._stream.flush()


def _facts(exchange: Exchange) -> dict[str, Any]:
    facts = {
        "request_id": exchange.id,
        "method": exchange.method,
        "route": exchange.route,
        "status": exchange.status,
        "seconds": round(exchange.seconds, 6),
    }
    if exchange.caller.key is not None:
        facts["key"] = exchange.caller.key  # the id, which opens nothing
    if exchange.code is not None:
        facts["code"] = exchange.code
    answered = exchange.answered
    if answered is not None:
        facts |= {
            "model": answered.model,
            "provider": answered.provider,
            "space": answered.space[:8],
            "inputs": len(answered.vectors),
            "cached": answered.cached,
            "tokens": answered.tokens,
        }
    elif exchange.model:
        facts["model"] = exchange.model[:NAME]
    return facts


def _failure(exchange: Exchange) -> dict[str, Any]:
    """Say what went wrong. Of an error nobody expected only the kind and the place: its words may quote a text."""
    if exchange.fault is None:
        return {"reason": exchange.reason}
    frames = traceback.extract_tb(exchange.fault.__traceback__)
    return {
        "fault": type(exchange.fault).__qualname__,
        "at": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }
