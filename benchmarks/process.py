"""One side of a comparison in its own process, controlled over pipes, with its memory sampled."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psutil

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / ".bench"
PEERS = BENCH / "peers" / "chroma" / "bin" / "python"
SAMPLED = 0.05  # seconds between memory samples


class Side:
    """One process that runs a module of `benchmarks.sides`; closing it ends the process."""

    def __init__(
        self, module: str, *, python: Path | str = sys.executable, options: Sequence[str] = ()
    ) -> None:
        """Start it; its human-readable output is kept in .bench/logs."""
        if not Path(python).exists():
            raise FileNotFoundError(f"{python} is missing: `make peers` installs what is compared")
        logs = BENCH / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        self._log = (logs / f"{module}.log").open("a", encoding="utf-8")
        self._process = subprocess.Popen(
            [str(python), *options, "-m", f"benchmarks.sides.{module}"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.memory = Memory(self._process.pid)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self.close()

    def ask(self, what: str, **details: Any) -> Any:  # any JSON value
        """Send one question and wait for its answer.

        Raises:
            RuntimeError: with the other process's traceback.
        """
        assert self._process.stdin is not None  # noqa: S101 - started with pipes
        assert self._process.stdout is not None  # noqa: S101
        self._process.stdin.write(json.dumps({"do": what, **details}, default=str) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{what}: the process ended ({self._process.wait()}); see {self._log.name}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["answer"]

    def close(self) -> None:
        """Let it end, and wait for it."""
        self.memory.stop()
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()


class Memory:
    """The peak resident memory of a process and all its descendants together, in bytes."""

    def __init__(self, process: int) -> None:
        """Sample it until stopped, 20 times a second."""
        self.peak = 0
        self._process = psutil.Process(process)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def reset(self) -> None:
        """Reset the peak."""
        self.peak = 0

    def stop(self) -> None:
        """Stop sampling."""
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLED):
            held = 0
            try:
                for each in (self._process, *self._process.children(recursive=True)):
                    held += each.memory_info().rss
            except psutil.NoSuchProcess:
                continue  # a child has just ended; the next sample counts the others
            self.peak = max(self.peak, held)
