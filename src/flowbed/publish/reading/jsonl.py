"""Reads rows with their vectors from JSON Lines, as exports write them, page by page."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import orjson

from flowbed.errors import Rejected
from flowbed.publish.reading import PAGE
from flowbed.records.precomputed import PrecomputedRows

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class JsonLines:
    """The rows of a file with one object a line: `id`, `vector`, and optionally `text` and `metadata`."""

    file: Path

    async def count(self) -> int | None:
        """Return how many lines there are.

        Raises:
            Rejected: the file cannot be read.
        """

        def count() -> int:
            try:
                with self.file.open("rb") as opened:
                    return sum(1 for line in opened if line.strip())
            except OSError as error:
                raise Rejected(f"{self.file} cannot be read: {error.strerror}") from error

        return await asyncio.to_thread(count)

    async def pages(self) -> AsyncIterator[PrecomputedRows]:
        """Iterate over the rows in pages.

        Raises:
            Rejected: a line is not a row with an id and a vector.
        """
        lines = self._lines()
        while page := await asyncio.to_thread(lambda: list(islice(lines, PAGE))):
            yield PrecomputedRows(
                ids=[row["id"] for row in page],
                vectors=[row["vector"] for row in page],
                texts=[row.get("text") for row in page],
                metadata=[row.get("metadata") for row in page],
            )

    def _lines(self) -> Iterator[dict[str, Any]]:
        length = 0
        try:
            with self.file.open("rb") as opened:
                for number, line in enumerate(opened, 1):
                    if line.strip():
                        row = _row(line, where := f"{self.file}, line {number:,}")
                        length = length or len(row["vector"])
                        if len(row["vector"]) != length:
                            raise Rejected(
                                f"{where}: its vector has {len(row['vector']):,} numbers, not {length:,}"
                            )
                        yield row
        except OSError as error:
            raise Rejected(f"{self.file} cannot be read: {error.strerror}") from error


def _row(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = orjson.loads(line)
    except ValueError as error:
        raise Rejected(f"{where} is no JSON: {error}") from error
    if not isinstance(row, dict) or not isinstance(row.get("id"), str | int):
        raise Rejected(f"{where} is no object with an id, a text or a whole number")
    row["id"] = str(row["id"])
    if not isinstance(row.get("vector"), list):
        raise Rejected(
            f"{where} has no vector: a file that was exported with --no-vectors has to be embedded again"
        )
    if not isinstance(row.get("metadata"), dict | None):
        raise Rejected(f"{where}: its metadata is not an object")
    return row
