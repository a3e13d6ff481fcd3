"""What the batch files of every ledger must do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flowbed.errors import Conflict
from flowbed.ledger import BatchEvent, Cursor, Swap
from flowbed.testing.ledger.rows import batch, chunk

if TYPE_CHECKING:
    from flowbed.ledger import Ledger


class BatchesContract:
    """Tests of `Batches`."""

    async def test_register_again_returns_first_row(self, ledger: Ledger) -> None:
        """A batch registered again is returned as it was first registered, with its first timestamp."""
        first = batch("x", timestamp=5)
        assert await ledger.batches.register(first) == first
        assert await ledger.batches.register(batch("x", timestamp=6, key="elsewhere")) == first
        assert await ledger.batches.get(["x", "unknown"]) == {"x": first}

    async def test_events_list_batches_in_the_order_of_their_swaps(self, ledger: Ledger) -> None:
        """Each source lists its own; a swap that did not apply, or wrote no batch file, leaves no event."""
        swap = ledger.documents.swap
        cursor = Cursor(source="s")
        for name in ("z", "a"):
            await ledger.batches.register(batch(name))
            rows = [chunk(f"{name}{number}", batch=name) for number in range(3)]
            cursor = await swap(Swap(cursor=cursor, value="", chunks=rows))
            cursor = await swap(Swap(cursor=cursor, value="", chunks=[chunk("gone", batch="", deleted=True)]))
        with pytest.raises(Conflict):
            await swap(Swap(cursor=Cursor(source="s"), value="", chunks=[chunk("late", batch="late")]))
        await swap(Swap(cursor=Cursor(source="t"), value="", chunks=[chunk("t1", source="t", batch="of t")]))
        events = [BatchEvent("s", 1, "z"), BatchEvent("s", 3, "a")]
        assert await ledger.batches.events("s", after=0, limit=9) == events
        assert await ledger.batches.events("s", after=0, limit=1) == events[:1]
        assert await ledger.batches.events("s", after=1, limit=9) == events[1:]
        assert await ledger.batches.events("s", after=3, limit=9) == []
        assert await ledger.batches.positions() == {"s": 3, "t": 1}
