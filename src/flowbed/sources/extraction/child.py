"""The process that parses files: parsers may crash, hang or swell on damaged and hostile ones.

It reads requests from standard input, one JSON object per line, and writes responses to standard output: a length of
eight bytes, a letter, and an extract or the reason why there is none. It ends when its standard input does.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowbed.sources.extraction.writer import RefusedError, Room

if TYPE_CHECKING:
    from flowbed.records.extracts import Extract

LENGTH = struct.Struct("<Q")
FOUND, REFUSED, OUT_OF_MEMORY = b"F", b"R", b"M"
EXTRACTORS = {
    "code": "flowbed.sources.extraction.code:extract_code",
    "html": "flowbed.sources.extraction.html:extract_html",
    "pdf": "flowbed.sources.extraction.pdf:extract_pdf",
    "sheets": "flowbed.sources.extraction.sheets:extract_sheets",
    "slides": "flowbed.sources.extraction.slides:extract_slides",
    "word": "flowbed.sources.extraction.word:extract_word",
}
# Seconds after the first signal for the end of its time: what ignores it is killed.
GRACE = 1
MESSAGE = 300  # characters of a parser's error


def main(memory_bytes: int) -> int:
    """Answer requests until there are no more."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl+C ends it in the middle of a file, without a word
    responses = os.fdopen(os.dup(1), "wb")
    # What libraries print must not come between the responses.
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # parsers write nothing
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    for line in sys.stdin.buffer:
        body = answer(json.loads(line))
        responses.write(LENGTH.pack(len(body)))
        responses.write(body)
        responses.flush()
    return 0


def answer(request: dict[str, Any]) -> bytes:
    """Return the response to a request: an extract, or why there is none."""
    _limit_time(request["seconds"])
    try:
        return FOUND + _extracted(request)
    except MemoryError:
        return OUT_OF_MEMORY
    except BaseException as error:  # noqa: BLE001 - parsers fail on odd files in any way, those in Rust by a panic
        return _refusal(error)


def _refusal(error: BaseException) -> bytes:
    match error:
        case RefusedError():
            reason = str(error)
        case RecursionError():
            reason = "its elements are nested too deeply"
        case ImportError():
            reason = f"its parser cannot be loaded, install it again: {error}"
        case OSError():
            reason = f"it cannot be read: {error.strerror or error}"
        case _:
            reason = f"it is damaged: {type(error).__name__}: {error}"
    words = " ".join(reason.split())
    return REFUSED + (words if len(words) <= MESSAGE else f"{words[:MESSAGE]}...").encode("utf-8", "replace")


def _extracted(request: dict[str, Any]) -> bytes:
    module, _, attribute = EXTRACTORS[request["parser"]].partition(":")
    extract = getattr(import_module(module), attribute)
    language = [request["language"]] if request["language"] else []
    found: Extract = extract(Path(request["path"]), Room(request["characters"]), *language)
    return found.to_json().encode()


def _limit_time(seconds: float) -> None:
    """Limit the processor time of the next request: on a busy machine the same file takes no more of it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    spent = int(used.ru_utime + used.ru_stime)
    resource.setrlimit(resource.RLIMIT_CPU, (spent + max(int(seconds), 1) + GRACE, resource.RLIM_INFINITY))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
