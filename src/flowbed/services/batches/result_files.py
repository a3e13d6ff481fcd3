"""The result files of a job that has ended: output and errors."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

from flowbed.services.batches.output import unanswered_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flowbed.ledger import JobRow
    from flowbed.services.batches.input_lines import LocalCopy
    from flowbed.services.batches.output import OutputParts
    from flowbed.services.files import FileService

PAGE = 1_000  # lines that are read and written together


class ResultFiles:
    """Writes the output and error files of one job; writing again gives the same files."""

    def __init__(self, files: FileService, parts: OutputParts) -> None:
        """Write to `files` what `parts` hold."""
        self._files, self._parts = files, parts

    async def write(
        self, row: JobRow, copy: LocalCopy | None, *, reason: tuple[str, str] | None, since: int
    ) -> tuple[str, str]:
        """Write the files, and return the id of each, or "" for a file without lines.

        Lines of `copy` that were not answered get `reason`, a code and a message; without a copy they are left out. The
        files expire `row.keep` seconds after `since` (in µs since 1970).
        """
        output = errors = ""
        if row.completed:
            output = await self._file(row, "output", self._parts.output(row.line), since)
        left = copy is not None and reason is not None and row.line < row.total
        if row.failed or left:
            errors = await self._file(row, "error", self._errors(row, copy, reason), since)
        return output, errors

    async def _file(self, row: JobRow, kind: str, pieces: AsyncIterator[bytes], since: int) -> str:
        id = f"file-{hashlib.sha256(f'{row.id}/{kind}'.encode()).hexdigest()[:24]}"  # noqa: A001 - the record's field
        await self._files.write(
            row.owner,
            id=id,
            filename=f"{row.id}_{kind}.jsonl",
            pieces=pieces,
            expires=since + row.keep * 1_000_000 if row.keep else 0,
        )
        return id

    async def _errors(
        self, row: JobRow, copy: LocalCopy | None, reason: tuple[str, str] | None
    ) -> AsyncIterator[bytes]:
        """Read the lines that failed, then those that were not answered."""
        async for piece in self._parts.errors(row.line):
            yield piece
        if copy is None or reason is None:
            return
        code, message = reason
        for first in range(row.line, row.total, PAGE):
            last = min(first + PAGE, row.total)
            names = await asyncio.to_thread(copy.names, first, last)
            yield b"".join(
                unanswered_line(row.id, first + number, name, code=code, message=message)
                for number, name in enumerate(names)
            )
