"""What processes report to each other while they work: tables of whole numbers in shared files, one writer per column.

Numbers only grow. A reader takes the largest of a row: it was true when the reader began to look.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Table:
    """Rows of numbers, a column for each process that writes."""

    numbers: NDArray[np.int64]

    @classmethod
    def open(cls, file: Path, rows: int, columns: int) -> Self:
        """Open the table in a file; a new one is all 0."""
        if not file.exists():
            np.zeros((rows, columns), np.int64).tofile(file)
        return cls(np.memmap(file, np.int64, "r+", shape=(rows, columns)))

    def raise_to(self, row: int, column: int, number: int) -> None:
        """Write a number, unless a larger one is stored."""
        self.numbers[row, column] = max(int(self.numbers[row, column]), number)

    def now(self) -> NDArray[np.int64]:
        """Return the largest number of each row."""
        return np.asarray(self.numbers.max(axis=1))


@dataclass(frozen=True)
class Tables:
    """What is known of keys (records that change) and of groups (rows that change together).

    For each: the highest revision `written`, the highest `acknowledged` as committed, and the highest `seen`. For
    groups also `gone`, the latest revision that deletes, and for collections the highest `version` seen.
    """

    written: Table
    acknowledged: Table
    seen: Table
    group_written: Table
    group_gone: Table
    group_acknowledged: Table
    group_seen: Table
    version: Table

    @classmethod
    def open(cls, folder: Path, *, keys: int, groups: int, collections: int, processes: int) -> Self:
        """Open the tables in a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        rows = {"version": collections}
        names = cls.__dataclass_fields__
        return cls(
            **{
                name: Table.open(
                    folder / name, rows.get(name, groups if name.startswith("group") else keys), processes
                )
                for name in names
            }
        )
