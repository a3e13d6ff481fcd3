"""Items that one worker at a time holds: submissions and jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbed.ledger.items.table import update

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowbed.ledger.items.table import Item, Key, Table


async def hold(table: Table, key: Key, *, worker: str, now: int, until: int) -> Item | None:
    """Hold an item that has not ended for `worker` until `until`; None while another worker holds it."""

    def change(item: Item) -> Mapping[str, Any] | None:
        is_others = item["worker"] not in {"", worker} and item["until"] >= now
        return None if item["ended"] or is_others else {"worker": worker, "until": until}

    return await update(table, key, change)


async def save(table: Table, key: Key, values: Mapping[str, Any], *, worker: str | None = None) -> bool:
    """Change fields of an item that has not ended, and that `worker` holds if one is named."""

    def change(item: Item) -> Mapping[str, Any] | None:
        is_held = worker is None or (worker and item["worker"] == worker)
        return values if is_held and not item["ended"] else None

    return await update(table, key, change) is not None
