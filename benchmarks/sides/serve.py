"""Answer a benchmark's questions in this process: one JSON object per line in, one out. Standard library only."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def serve(answers: Mapping[str, Callable[..., Any]]) -> None:
    """Answer questions by name until input ends; output of libraries goes to standard error."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        question = json.loads(line)
        try:
            answer = {"answer": answers[question.pop("do")](**question)}
        except Exception:  # noqa: BLE001 - the asking process raises it
            answer = {"error": traceback.format_exc()}
        out.write(json.dumps(answer) + "\n")
        out.flush()


def seconds(work: Callable[[], object]) -> float:
    """Time one piece of work."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
