"""A source that the project has no more: a complete fetch of it lists nothing, so that all it held is deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.records import Page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Removed:
    """What is left of a source."""

    location = "nowhere"

    async def fetch(self, cursor: str) -> AsyncIterator[Page]:
        """List nothing, completely."""
        yield Page(cursor=cursor, complete=True)
