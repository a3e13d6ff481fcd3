"""The mark in a store that its project has had API keys: the ledger that holds them may be lost."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from flowbed.errors import Conflict, NotFound
from flowbed.records import canonical

if TYPE_CHECKING:
    from flowbed.ledger import Keys
    from flowbed.storage import Store

MARK = "keys.json"


async def mark_keys(store: Store, *, now: int) -> None:
    """Write the mark if it is missing; `now` is µs since 1970."""
    if not await had_keys(store):
        with contextlib.suppress(Conflict):  # another process has just written it
            await store.create(MARK, canonical({"since": now}))


async def had_keys(store: Store) -> bool:
    """Return whether the mark is there, damaged or not."""
    try:
        await store.get(MARK)
    except NotFound:
        return False
    return True


async def lost_keys(store: Store, keys: Keys) -> bool:
    """Return whether the project has had keys that its ledger does not know."""
    return await had_keys(store) and not await keys.exist()
