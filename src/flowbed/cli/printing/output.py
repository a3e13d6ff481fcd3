"""What a command prints: results on standard output, everything else on standard error."""

from __future__ import annotations

import errno
import json
import os
import sys
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any

from flowbed.errors import OutOfSpace, Transient
from flowbed.escaping import escape_json, visible, visible_lines
from flowbed.records.plain import plain

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO


def prepare() -> None:
    """Let standard output and error take every text: what their encoding lacks is written as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # None where it was closed before the start
            stream.reconfigure(errors="backslashreplace")


def say(text: str = "") -> None:
    """Print a line of a result; what in it would control a terminal is made visible."""
    _write(sys.stdout, f"{visible(text)}\n")


def note(text: str) -> None:
    """Print what is not part of the result: a line, or the lines of a message, made visible."""
    _write(sys.stderr, f"{visible_lines(text)}\n")
    flush(sys.stderr)


def say_json(value: Any) -> None:  # anything that plain() converts
    """Print a result as one line of JSON."""
    unicode = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "").startswith("utf")
    text = json.dumps(plain(value), ensure_ascii=not unicode)
    _write(sys.stdout, f"{escape_json(text)}\n")
    flush(sys.stdout)


def flush(stream: TextIO | None) -> None:
    """Send on what was written to a stream.

    Raises:
        OutOfSpace: the disk is full.
        Transient: it cannot be written.
    """
    _guarded(stream, lambda stream: stream.flush())


def _write(stream: TextIO | None, text: str) -> None:
    _guarded(stream, lambda stream: stream.write(text))


def _guarded(stream: TextIO | None, work: Callable[[TextIO], object]) -> None:
    """Write to a stream, if there is one and somebody reads it."""
    if stream is None:
        return
    try:
        work(stream)
    except BrokenPipeError:
        _discard(stream)  # as of `| head`, which has read enough: the work goes on
    except OSError as error:
        name = "standard output" if stream is sys.stdout else "standard error"
        _discard(stream)
        kind = OutOfSpace if error.errno == errno.ENOSPC else Transient
        raise kind(f"{name} cannot be written: {error.strerror}") from error


def _discard(stream: TextIO) -> None:
    """Drop what is written to a stream from now on, also what it holds still."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
