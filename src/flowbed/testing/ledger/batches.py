"""What the batch files of every ledger must do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.testing.ledger.rows import batch

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
