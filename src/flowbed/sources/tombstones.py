"""A source removed from the project: its fetch is complete and empty, so that all its documents are deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.records import Page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class RemovedSource:
    """A removed source."""

    location = "nowhere"

    async def fetch(self, cursor: str) -> AsyncIterator[Page]:
        """List nothing, as a complete fetch."""
        yield Page(cursor=cursor, complete=True)
