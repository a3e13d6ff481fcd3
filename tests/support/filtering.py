"""Lance's answers to filters, from a process of its own: a filter that ends it fails a test, and not all of pytest.

The process reads one JSON line for each question, {"dataset", "sql"}, and answers {"rows"} or {"error"}.
"""

from __future__ import annotations

import atexit
import json
import select
import subprocess
import sys
from functools import cache
from typing import Any

PATIENCE = 60.0  # seconds: a filter takes milliseconds


class Asked:
    """A process that asks Lance."""

    def __init__(self) -> None:
        """Start it with the first question."""
        self._process: subprocess.Popen[str] | None = None

    def rows(self, dataset: str, sql: str) -> list[int]:
        """Return the values of the column `at` in the rows that fit; fails if that ends the process."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.filtering"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"dataset": dataset, "sql": sql}) + "\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
        line = process.stdout.readline() if ready else ""
        if not line:
            self.close()
            how = f"ended with status {process.returncode}" if ready else f"took more than {PATIENCE} s"
            raise AssertionError(f"Lance {how} over {len(sql):,} characters of SQL: {sql[:2_000]}")
        answer: dict[str, Any] = json.loads(line)
        assert "rows" in answer, answer
        found: list[int] = answer["rows"]
        return found

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


@cache
def asked() -> Asked:
    """Return the one process that all tests here share."""
    shared = Asked()
    atexit.register(shared.close)
    return shared


def _answer() -> None:
    import lance

    for line in sys.stdin:
        question = json.loads(line)
        try:
            scanner = lance.dataset(question["dataset"]).scanner(columns=["at"], filter=question["sql"])
            answer: dict[str, Any] = {"rows": scanner.to_table()["at"].to_pylist()}
        except (OSError, RuntimeError, ValueError) as error:
            answer = {"error": str(error)[:500]}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _answer()
