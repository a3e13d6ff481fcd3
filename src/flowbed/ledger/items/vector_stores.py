"""Vector stores: one item each, and its name in a partition per owner."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from flowbed.ledger.items import holds
from flowbed.ledger.items.rows import item_of, row_of
from flowbed.ledger.items.table import Delete, Put, all_of, create, read_all, until_answered, update
from flowbed.ledger.items.windows import window_of
from flowbed.ledger.text import escaped, is_unstorable
from flowbed.ledger.vector_stores import VectorStoreRow

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flowbed.ledger.items.table import Item, Key, Table
    from flowbed.ledger.vector_stores import Window

# What a description of a store may change.
DESCRIBED = ("name", "description", "metadata", "days", "active")


class ItemVectorStores:
    """`VectorStores` in a table."""

    def __init__(self, table: Table) -> None:
        """Take the table."""
        self._table = table

    async def create(self, store: VectorStoreRow) -> None:
        """Record a store."""
        row = _storable(store)
        place = (f"vector_stores#{row.owner}", f"{row.created:020}#{row.id}")
        name = Put(place, {"record": "member", "id": row.id}, expected=None)
        await create(self._table, _key(row.id), item_of(row), name)

    async def get(self, store: str) -> VectorStoreRow | None:
        """Return one store of any owner, deleted or not, or None."""
        item = None if is_unstorable(store) else await self._table.get(_key(store))
        return row_of(VectorStoreRow, item) if item else None

    async def list(self, owner: str, window: Window) -> Sequence[VectorStoreRow]:
        """Return an owner's stores that are not deleted."""
        names = await all_of(self._table.query, f"vector_stores#{owner}")
        items = await read_all(self._table, [_key(name["id"]) for name in names])
        rows = [row_of(VectorStoreRow, item) for item in items if not item["deleted"]]
        return window_of(rows, window, place=lambda row: (row.created, row.id))

    async def describe(self, store: VectorStoreRow) -> bool:
        """Write what may be changed of a store that is not deleted."""
        said = vars(_storable(store))
        values = {name: said[name] for name in DESCRIBED}
        return await self._change(store.id, values, lambda item: not item["deleted"])

    async def touch(self, store: str, *, at: int) -> None:
        """Record that a store was used."""
        await self._change(store, {"active": at}, lambda item: item["active"] < at)

    async def delete(self, store: str, *, at: int) -> bool:
        """Mark a store deleted."""
        if is_unstorable(store):
            return False
        return await self._change(store, {"deleted": at}, lambda item: not item["deleted"])

    async def due(self, *, now: int) -> Sequence[VectorStoreRow]:
        """Return the stores with work, oldest first."""
        busy = {item["store"] for item in await all_of(self._table.look_up, "store_files_by_work", "-")}
        found = []
        for item in await all_of(self._table.look_up, "vector_stores_by_age", "-"):
            store = row_of(VectorStoreRow, item)
            over = 0 < store.expires() <= now and await self._is_used(store.id)
            if store.deleted or store.id in busy or over:
                found.append(store)
        return found

    async def hold(self, store: str, *, worker: str, now: int, until: int) -> VectorStoreRow | None:
        """Hold a store for `worker` until `until`."""
        item = await holds.hold(self._table, _key(store), worker=worker, now=now, until=until)
        return row_of(VectorStoreRow, item) if item else None

    async def release(self, store: str, *, worker: str, ended: int = 0) -> None:
        """Release a store that `worker` holds; with `ended`, it has no remains."""
        held = await self.get(store)
        if held is None or held.worker != worker or held.ended:
            return
        if ended:
            files = await all_of(self._table.query, f"vector_store#{store}#files")
            batches = await all_of(self._table.query, f"vector_store#{store}#batches")
            names = [(f"vector_store_batch#{item['id']}", "-") for item in batches]
            for key in [*names, *(item["place"] for item in (*files, *batches))]:
                await until_answered(self._table, Delete(key))
        await holds.save(self._table, _key(store), {"worker": "", "until": 0, "ended": ended}, worker=worker)

    async def _is_used(self, store: str) -> bool:
        files = await all_of(self._table.query, f"vector_store#{store}#files")
        return any(item["work"] != "remove" for item in files)

    async def _change(
        self, store: str, values: Mapping[str, object], holds_for: Callable[[Item], bool]
    ) -> bool:
        changed = await update(self._table, _key(store), lambda item: values if holds_for(item) else None)
        return changed is not None


def _storable(store: VectorStoreRow) -> VectorStoreRow:
    return replace(
        store,
        name=escaped(store.name),
        description=escaped(store.description),
        metadata=escaped(store.metadata),
    )


def _key(store: str) -> Key:
    return f"vector_store#{store}", "-"
