"""The files of vector stores and their batches: one partition of each per store."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from flowbed.ledger.items.rows import item_of, row_of
from flowbed.ledger.items.table import (
    ABSENT,
    ConditionFailed,
    Delete,
    Put,
    Unanswered,
    all_of,
    create,
    read_all,
    update,
)
from flowbed.ledger.items.windows import window_of
from flowbed.ledger.text import escaped, is_unstorable
from flowbed.ledger.vector_stores import (
    CANCELLED,
    COMPLETED,
    FAILED,
    IN_PROGRESS,
    FileBatchRow,
    Tally,
    VectorStoreFileRow,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from flowbed.ledger.items.table import Item, Key, Table
    from flowbed.ledger.vector_stores import Window

# What a worker writes of a file that it has worked on.
SETTLED = ("status", "work", "usage", "code", "error")


class ItemVectorStoreFiles:
    """`VectorStoreFiles` in a table."""

    def __init__(self, table: Table) -> None:
        """Take the table."""
        self._table = table

    async def attach(self, rows: Sequence[VectorStoreFileRow]) -> None:
        """Record files. One that is there stays, unless it failed, was cancelled or is being removed."""
        for row in rows:
            await self._attach(_storable(row))

    async def get(self, store: str, files: Collection[str]) -> Mapping[str, VectorStoreFileRow]:
        """Return rows by file id, those being removed too."""
        if is_unstorable(store):
            return {}
        keys = [_key(store, file) for file in dict.fromkeys(files) if not is_unstorable(file)]
        rows = [row_of(VectorStoreFileRow, item) for item in await read_all(self._table, keys)]
        return {row.file: row for row in rows}

    async def list(
        self, store: str, window: Window, *, status: str = "", among: Collection[str] | None = None
    ) -> Sequence[VectorStoreFileRow]:
        """Return files of a store that are not being removed."""
        rows = [row for row in await self._of(store, among) if status in {"", row.status}]
        return window_of(rows, window, place=lambda row: (row.created, row.file))

    async def counts(self, store: str, *, among: Collection[str] | None = None) -> Mapping[str, Tally]:
        """Count the files of a store by status."""
        found: dict[str, Tally] = {}
        for row in await self._of(store, among):
            before = found.get(row.status, Tally(0, 0))
            found[row.status] = Tally(before.files + 1, before.usage + row.usage)
        return found

    async def working(self, store: str, *, limit: int | None = None) -> Sequence[VectorStoreFileRow]:
        """Return the files of a store with work, oldest first."""
        rows = [row for row in await self._all(store) if row.work]
        return sorted(rows, key=lambda row: (row.created, row.file))[:limit]

    async def describe(self, store: str, file: str, attributes: str) -> VectorStoreFileRow | None:
        """Replace the attributes of a file; a completed one has work then."""

        def change(row: VectorStoreFileRow) -> Mapping[str, object] | None:
            if row.work == "remove":
                return None
            work = "update" if row.status == COMPLETED and not row.work else row.work
            return {"attributes": escaped(attributes), "work": work}

        return None if is_unstorable(file) else await self._change(store, file, change)

    async def settle(self, row: VectorStoreFileRow) -> bool:
        """Write what a worker found; return False if the row has changed."""
        said = vars(_storable(row))
        values = {name: said[name] for name in SETTLED}
        changed = await update(
            self._table,
            _key(row.store, row.file),
            lambda item: values if item["revision"] == row.revision else None,
        )
        return changed is not None

    async def cancel(self, store: str, *, batch: str = "", code: str = "", error: str = "") -> int:
        """Cancel, or fail, the files that are in progress."""
        status = FAILED if code else CANCELLED
        values = {"status": status, "work": "clean", "code": code, "error": escaped(error)}

        def change(row: VectorStoreFileRow) -> Mapping[str, object] | None:
            is_one = row.status == IN_PROGRESS and row.work != "remove" and batch in {"", row.batch}
            return values if is_one else None

        return len(await self._change_each(await self._all(store), change))

    async def remove(self, store: str, *, file: str = "") -> int:
        """Begin to remove a file, or all files of a store."""
        if is_unstorable(file):
            return 0
        rows = (await self.get(store, [file])).values() if file else await self._all(store)
        return len(await self._change_each(rows, _removing))

    async def detach(self, file: str) -> Sequence[str]:
        """Begin to remove a file from every store."""
        if is_unstorable(file):
            return []
        names = await all_of(self._table.query, f"file#{file}#stores")
        items = await read_all(self._table, [_key(name["store"], file) for name in names])
        rows = [row_of(VectorStoreFileRow, item) for item in items]
        return sorted({row.store for row in await self._change_each(rows, _removing)})

    async def drop(self, rows: Sequence[VectorStoreFileRow]) -> None:
        """Delete the rows of files that are being removed."""
        for row in rows:
            await self._drop(row)

    async def create_batch(self, batch: FileBatchRow) -> None:
        """Record a batch."""
        name = Put(
            (f"vector_store#{batch.store}#batches", batch.id),
            {"record": "member", "id": batch.id},
            expected=None,
        )
        await create(self._table, _batch_key(batch.id), item_of(batch), name)

    async def batch(self, batch: str) -> FileBatchRow | None:
        """Return a batch, or None."""
        item = None if is_unstorable(batch) else await self._table.get(_batch_key(batch))
        return row_of(FileBatchRow, item) if item else None

    async def cancel_batch(self, batch: str, *, at: int) -> None:
        """Mark a batch cancelled."""
        await update(
            self._table, _batch_key(batch), lambda item: None if item["cancelled"] else {"cancelled": at}
        )

    async def _all(self, store: str) -> Sequence[VectorStoreFileRow]:
        items = await all_of(self._table.query, f"vector_store#{store}#files")
        return [row_of(VectorStoreFileRow, item) for item in items]

    async def _of(self, store: str, among: Collection[str] | None) -> Sequence[VectorStoreFileRow]:
        """Return the files of a store that are not being removed."""
        rows = await self._all(store) if among is None else (await self.get(store, among)).values()
        return [row for row in rows if row.work != "remove"]

    async def _attach(self, row: VectorStoreFileRow) -> None:
        key, mark = _key(row.store, row.file), self._table.mark()
        while True:
            item = await self._table.get(key)
            if item is not None:
                there = row_of(VectorStoreFileRow, item)
                if item["mark"] == mark or not (
                    there.status in {FAILED, CANCELLED} or there.work == "remove"
                ):
                    return None
                row = replace(row, revision=there.revision + 1)
            put = Put(key, item_of(row) | {"mark": mark}, expected=item["stamp"] if item else ABSENT)
            try:
                return await self._table.transact([put, _name(row)])
            except (ConditionFailed, Unanswered):
                continue

    async def _change(
        self, store: str, file: str, change: Callable[[VectorStoreFileRow], Mapping[str, object] | None]
    ) -> VectorStoreFileRow | None:
        """Change a row, and give it the next revision."""

        def changed(item: Item) -> Mapping[str, object] | None:
            values = change(row_of(VectorStoreFileRow, item))
            return None if values is None else {**values, "revision": item["revision"] + 1}

        item = await update(self._table, _key(store, file), changed)
        return row_of(VectorStoreFileRow, item) if item else None

    async def _change_each(
        self,
        rows: Iterable[VectorStoreFileRow],
        change: Callable[[VectorStoreFileRow], Mapping[str, object] | None],
    ) -> Sequence[VectorStoreFileRow]:
        done = [await self._change(row.store, row.file, change) for row in rows]
        return [row for row in done if row is not None]

    async def _drop(self, row: VectorStoreFileRow) -> None:
        key = _key(row.store, row.file)
        while item := await self._table.get(key):
            if item["revision"] != row.revision or item["work"] != "remove":
                return
            try:
                await self._table.transact([Delete(key, expected=item["stamp"]), Delete(_name(row).key)])
            except (ConditionFailed, Unanswered):
                continue


def _removing(row: VectorStoreFileRow) -> Mapping[str, object] | None:
    return None if row.work == "remove" else {"work": "remove"}


def _storable(row: VectorStoreFileRow) -> VectorStoreFileRow:
    return replace(
        row,
        filename=escaped(row.filename),
        attributes=escaped(row.attributes),
        error=escaped(row.error),
    )


def _key(store: str, file: str) -> Key:
    return f"vector_store#{store}#files", file


def _name(row: VectorStoreFileRow) -> Put:
    """Return the write that names a store below its file: an item is in one index at a time."""
    return Put(
        (f"file#{row.file}#stores", row.store), {"record": "member", "store": row.store}, expected=None
    )


def _batch_key(batch: str) -> Key:
    return f"vector_store_batch#{batch}", "-"
