"""Reads rows with their vectors from Chroma directories, Chroma servers and Parquet files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flowbed.records.precomputed import PrecomputedRows

# Rows of a page: a chromadb client reads 5,461 at most, and 4,096 have 6 MB of vectors at 384 dimensions.
PAGE = 4_096


class RowReader(Protocol):
    """Rows with their vectors, stored by another program."""

    async def count(self) -> int | None:
        """Return how many rows there are; None if that is not known."""
        ...

    def pages(self) -> AsyncIterator[PrecomputedRows]:
        """Iterate over the rows in pages of at most `PAGE` or so, always in the same order.

        Raises:
            Rejected: they cannot be read, with the reason.
            Transient: reading them may succeed later.
        """
        ...
