"""Whose turn it is: owners of vector stores take turns, however many stores and files each of them has."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from flowbed.ledger.vector_stores import VectorStoreRow


class StoreTurns:
    """The turns of stores in one process; what other processes hold counts too."""

    def __init__(self) -> None:
        """Start with nobody's turn."""
        self._taken: set[str] = set()
        self._turns = 0
        self._of_owners: dict[str, int] = {}  # the number of the last turn of each
        self._of_stores: dict[str, int] = {}

    def next(
        self, due: Sequence[VectorStoreRow], is_free: Callable[[VectorStoreRow], bool]
    ) -> VectorStoreRow | None:
        """Choose among stores with work, oldest first; None if all are worked on.

        The next one is of the owner with the fewest stores that are worked on, of those the one who waited longest for
        a turn, and of its stores the one that did.
        """
        free = [row for row in due if row.id not in self._taken and is_free(row)]
        working = Counter(row.owner for row in due)
        working.subtract(row.owner for row in free)
        owners, stores = {row.owner for row in due}, {row.id for row in due}
        self._of_owners = {owner: at for owner, at in self._of_owners.items() if owner in owners}
        self._of_stores = {store: at for store, at in self._of_stores.items() if store in stores}

        def place(row: VectorStoreRow) -> tuple[int, int, int]:
            return working[row.owner], self._of_owners.get(row.owner, 0), self._of_stores.get(row.id, 0)

        return min(free, key=place, default=None)

    @contextmanager
    def taken(self, row: VectorStoreRow) -> Iterator[None]:
        """Give a store its turn: within the block no other task of this process takes it."""
        self._turns += 1
        self._of_owners[row.owner] = self._of_stores[row.id] = self._turns
        self._taken.add(row.id)
        try:
            yield
        finally:
            self._taken.discard(row.id)
