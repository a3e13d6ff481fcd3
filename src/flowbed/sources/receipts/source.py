"""Lists receipts with their merchants: by the record, else by its neighbours, else by Google Places."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured
from flowbed.records import Entry, Page, Problem
from flowbed.records.values import count
from flowbed.sources.receipts.neighbours import Neighbours
from flowbed.sources.receipts.reading import NEIGHBOUR, NONE, PLACES, Receipt

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from flowbed.sources.lines import Lines
    from flowbed.sources.receipts.places import Asking, Places


@dataclass(frozen=True, kw_only=True)
class Receipts:
    """The receipts of some files; `places` is asked for merchants that nothing else names."""

    lines: Lines
    places: Places | None

    @property
    def location(self) -> str:
        """Return where the receipts are, for messages."""
        return self.lines.location

    def require_place(self) -> None:
        """Check that the files are there.

        Raises:
            Misconfigured: they are not, or cannot be read.
        """
        self.lines.require_place()

    async def fetch(self, cursor: str) -> AsyncIterator[Page]:
        """List every receipt, or nothing if no file was touched since `cursor` and no receipt waits for Places.

        The merchant is part of the etag, so a receipt whose merchant is found later is read again.
        """
        # Other options may name merchants that these could not.
        mark = "places:" if self.places else "records:"
        async with AsyncExitStack() as stack:
            found = stack.enter_context(closing(_Merchants(lines=self.lines)))
            begin = cursor.removeprefix(mark) if cursor.startswith(mark) else ""
            async for page in self.lines.fetch(begin):
                if page.entries and self.places and not found.opened:
                    await found.open(self.places, stack)
                entries = await found.resolved(page.entries)
                if page.cursor or page.complete:
                    kept = f"{mark}{page.cursor}" if page.cursor and not found.waiting else ""
                    yield replace(
                        page, entries=entries, cursor=kept, problems=(*page.problems, *found.problems())
                    )
                else:
                    yield replace(page, entries=entries)


@dataclass(kw_only=True)
class _Merchants:
    """Finds the merchants of one fetch; neighbours are gathered when the first receipt needs them."""

    lines: Lines
    opened: bool = False
    asking: Asking | None = None
    refusal: str = ""
    unasked: int = 0
    neighbours: Neighbours | None = None

    def close(self) -> None:
        if self.neighbours:
            self.neighbours.close()

    async def open(self, places: Places, stack: AsyncExitStack) -> None:
        self.opened = True
        try:
            self.asking = places.open()
        except Misconfigured as error:
            self.refusal = str(error)
        else:
            stack.push_async_callback(self.asking.aclose)

    @property
    def waiting(self) -> int:
        """How many receipts a later fetch has to ask for."""
        return self.asking.waiting if self.asking else self.unasked

    def problems(self) -> tuple[Problem, ...]:
        """Say why receipts wait; they are indexed all the same."""
        if not self.waiting:
            return ()
        reason = (self.asking.stopped or self.asking.failure) if self.asking else self.refusal
        waiting = count(self.waiting, "receipt")
        return (
            Problem(
                subject="Google Places",
                reason=f"{waiting} without a merchant: {reason}; the next run asks again",
                skipped=True,
            ),
        )

    async def resolved(self, entries: Sequence[Entry]) -> list[Entry]:
        """Return the entries with their merchants."""
        found = []
        for entry in entries:
            receipt = entry.read
            if not isinstance(receipt, Receipt) or not receipt.lacks_merchant:
                found.append(entry)
                continue
            if self.neighbours is None:
                await self._gather()
            resolved = await self._resolved(receipt)
            named = f"{entry.etag}:{resolved.merchant_by}:{resolved.merchant}"
            etag = hashlib.sha256(named.encode()).hexdigest()[:32]
            found.append(Entry(document=entry.document, etag=etag, read=resolved))
        return found

    async def _resolved(self, receipt: Receipt) -> Receipt:
        if self.neighbours and (merchant := await asyncio.to_thread(self.neighbours.merchant, receipt)):
            return replace(receipt, merchant=merchant, merchant_by=NEIGHBOUR)
        merchant = await self._asked(receipt)
        return replace(receipt, merchant=merchant, merchant_by=PLACES if merchant else NONE)

    async def _asked(self, receipt: Receipt) -> str:
        if self.asking:
            return await self.asking.merchant(receipt) or ""
        self.unasked += bool(self.refusal)
        return ""

    async def _gather(self) -> None:
        """Read all receipts once more, for the identifiers of those that name their merchant."""
        self.neighbours = Neighbours()
        async for page in self.lines.fetch(""):
            receipts = [entry.read for entry in page.entries if isinstance(entry.read, Receipt)]
            await asyncio.to_thread(self.neighbours.add, receipts)
