"""Documents and batch files in a ledger, and their erasure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping

    from flowbed.ledger.rows import (
        BatchEvent,
        BatchRow,
        Cursor,
        DocumentRow,
        Erasure,
        Progress,
        Swap,
    )


class Documents(Protocol):
    """The documents of each source, and the source's cursor."""

    async def cursor(self, source: str) -> Cursor:
        """Return the cursor of a source; one that was never fetched has token 0."""
        ...

    async def progress(self, sources: Collection[str]) -> Mapping[str, Progress]:
        """Read the cursor of each source and how many documents it has; one never fetched has token 0."""
        ...

    async def get(self, source: str, documents: Collection[str]) -> Mapping[str, DocumentRow]:
        """Return rows by document id; unknown documents are missing."""
        ...

    async def etags(self, source: str, documents: Collection[str]) -> Mapping[str, str]:
        """Return etags by document id; unknown documents are missing."""
        ...

    async def count(self, source: str) -> int:
        """Count the documents of a source."""
        ...

    def pages(self, source: str) -> AsyncIterator[list[DocumentRow]]:
        """Iterate over all documents of a source in order of id, in pages; concurrent changes may be missed."""
        ...

    async def swap(self, swap: Swap) -> Cursor:
        """Apply one page of a fetch and return the source's new cursor.

        Raises:
            Conflict: the cursor has moved; nothing was applied.
        """
        ...


class Batches(Protocol):
    """The batch files."""

    async def register(self, batch: BatchRow) -> BatchRow:
        """Record a batch file before it is written; if it is registered already, return the existing row."""
        ...

    async def get(self, batches: Collection[str]) -> Mapping[str, BatchRow]:
        """Return rows by batch id; unknown ids are missing."""
        ...

    async def positions(self) -> Mapping[str, int]:
        """Return the position of each source's newest batch file whose chunks are recorded."""
        ...

    async def events(self, source: str, *, after: int, limit: int) -> list[BatchEvent]:
        """Return the batch files of a source after a position, in the order in which a swap recorded their chunks.

        A position is the token of the source's cursor after that swap. None appears later before one that was returned.
        """
        ...


class Erasing(Protocol):
    """Removes rows from all tables without a trace."""

    async def erase(self, erasure: Erasure) -> int:
        """Remove the rows of chunks and documents, and their names in spending; return how many chunks and documents.

        What was spent is kept, under the document `FORGOTTEN`. A cursor, or the error of a run or submission, that
        contains one of the names is emptied. Dead letters stay.
        """
        ...

    async def scrub(self) -> str:
        """Overwrite on the disk what removed rows have left there; return why that was not possible, or ""."""
        ...
