"""Results of a benchmark, stored as JSON, so that the page can be written from the newest of each."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.machine import Load

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a benchmark should do: `scale` 1 is the published size, `work` an empty folder on a real disk."""

    data: Path
    work: Path
    scale: float
    rounds: int
    rows: int
    rows_384: int

    def scaled(self, count: int, *, fewest: int = 1) -> int:
        """Scale a number of rows or queries."""
        return max(fewest, round(count * self.scale))


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure with a target: `form` formats a number, such as `{:.1f}x`."""

    what: str
    value: float
    target: float
    at_most: bool = False
    form: str = "{:.1f}x"

    @property
    def reached(self) -> bool:
        """Whether the target is met."""
        return self.value <= self.target if self.at_most else self.value >= self.target

    @property
    def line(self) -> str:
        """Format it as a line of a table."""
        aim = f"{'at most' if self.at_most else 'at least'} {self.form.format(self.target)}"
        met = "met" if self.reached else "**missed**"
        return f"| {self.what} | {self.form.format(self.value)} | {aim} | {met} |"


@dataclass(frozen=True, kw_only=True)
class Result:
    """One benchmark's results, and what they were measured with."""

    name: str
    command: str
    day: str
    seconds: float
    machine: list[str]
    load: Load
    found: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Store it, replacing the previous one."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(asdict(self), indent=1)
        (folder / f"{self.name}.json").write_text(text, encoding="utf-8")


def read_result(folder: Path, name: str) -> Result | None:
    """Return the newest results of a benchmark; None if it was never run."""
    path = folder / f"{name}.json"
    if not path.exists():
        return None
    fields = json.loads(path.read_text("utf-8"))
    return Result(**{**fields, "load": Load(**fields["load"])})


def table(heads: list[str], rows: list[list[object]]) -> str:
    """Write a table: the first column is text, the others numbers."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
