"""Dumps whose records have addresses at their vendor, for links to them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowbed.errors import Misconfigured, Rejected
from flowbed.records import Linked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from flowbed.records import Page
    from flowbed.sources.lines import Lines


@dataclass(frozen=True)
class Address:
    """What an address names: a record of a `site`, and an `item` of it, such as a note, or an empty string."""

    site: str
    record: str
    item: str = ""


@dataclass(frozen=True, kw_only=True)
class LinkedLines:
    """A source of the records of `lines`.

    `address` parses a link, and returns None if it is of another kind. `own` returns the address of a record, None if
    it has none; it raises `Rejected` for an invalid record.
    """

    lines: Lines
    address: Callable[[str], Address | None]
    own: Callable[[Mapping[str, Any]], Address | None]

    @property
    def location(self) -> str:
        """Return where the dumps are."""
        return self.lines.location

    def fetch(self, cursor: str) -> AsyncIterator[Page]:
        """List every record, or nothing if no file was touched since `cursor`."""
        return self.lines.fetch(cursor)

    def require_place(self) -> None:
        """Check that the dumps are there.

        Raises:
            Misconfigured: they are not, or cannot be read.
        """
        self.lines.require_place()

    def linked(self, link: str, cursor: str) -> Linked | None:  # noqa: ARG002 - a dump is read as a whole
        """Return what a link points to: the dumps are read up to its record, and whole if they do not have it."""
        wanted = self.address(link)
        if wanted is None:
            return None
        is_known = False
        with suppress(Misconfigured):
            for record in self.lines.records():
                with suppress(Rejected):
                    own = self.own(record)
                    is_known |= own is not None and own.site == wanted.site
                    if own is not None and (own.site, own.record) == (wanted.site, wanted.record):
                        return self._found(self.lines.identity(record), wanted.item)
        absent = f"{self.location} does not have it: it was made before, or without what the link is of"
        return Linked(documents=(), item=wanted.item, absent=absent) if is_known else None

    def _found(self, name: str, item: str) -> Linked:
        absent = (
            f"{item} is not in {name}: {self.location} was made before it was written, or it is hidden or has no text"
            if item
            else ""
        )
        return Linked(documents=(name,), item=item, absent=absent)
