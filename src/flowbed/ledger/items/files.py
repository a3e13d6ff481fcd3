"""The files of the server: one item each, and its name in a partition per owner."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from flowbed.ledger import FileRow
from flowbed.ledger.items.rows import item_of, row_of
from flowbed.ledger.items.table import (
    ConditionFailed,
    Delete,
    Put,
    Unanswered,
    all_of,
    create,
    read_all,
)
from flowbed.ledger.text import escaped, is_unstorable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.ledger.items.table import Key, Table


class ItemFiles:
    """`Files` in a table."""

    def __init__(self, table: Table) -> None:
        """Take the table."""
        self._table = table

    async def create(self, file: FileRow) -> None:
        """Record a file."""
        row = replace(file, filename=escaped(file.filename))
        name = Put(_name(row), {"record": "member", "id": row.id}, expected=None)
        await create(self._table, _key(row.id), item_of(row), name)

    async def get(self, file: str) -> FileRow | None:
        """Return one file of any owner, or None."""
        item = None if is_unstorable(file) else await self._table.get(_key(file))
        return row_of(FileRow, item) if item else None

    async def list(
        self,
        owner: str,
        *,
        purpose: str | None,
        after: str | None,
        limit: int,
        descending: bool,
        now: int = 0,
    ) -> Sequence[FileRow]:
        """Return an owner's files in order of time and id, those that follow the id `after`."""
        ids = await self._of(owner)
        if descending:
            ids = ids[::-1]
        if after is not None:
            ids = ids[ids.index(after) + 1 :] if after in ids else []
        rows = await self._read(ids)
        return [row for row in rows if purpose in {None, row.purpose} and _is_kept(row, now)][:limit]

    async def stored(self, owner: str, *, now: int) -> int:
        """Sum the bytes of an owner's files that have not expired."""
        rows = await self._read(await self._of(owner))
        return sum(row.bytes for row in rows if _is_kept(row, now))

    async def count(self, owner: str, *, now: int) -> int:
        """Count an owner's files that have not expired."""
        rows = await self._read(await self._of(owner))
        return sum(_is_kept(row, now) for row in rows)

    async def remove(self, file: str) -> bool:
        """Remove a file."""
        unanswered = False
        while not is_unstorable(file) and (item := await self._table.get(_key(file))):
            name = _name(row_of(FileRow, item))
            try:
                await self._table.transact([Delete(_key(file), expected=item["stamp"]), Delete(name)])
            except ConditionFailed:
                continue
            except Unanswered:
                unanswered = True
                continue
            return True
        return unanswered

    async def expired(self, *, now: int, limit: int) -> Sequence[FileRow]:
        """Return expired files of any owner."""
        listed = await all_of(self._table.look_up, "files_by_expiry", "-")
        over = [item["id"] for item in listed if item["expires"] <= now]
        return (await self._read(over))[:limit]

    async def _of(self, owner: str) -> Sequence[str]:
        return [name["id"] for name in await all_of(self._table.query, f"files#{owner}")]

    async def _read(self, ids: Sequence[str]) -> Sequence[FileRow]:
        return [row_of(FileRow, item) for item in await read_all(self._table, map(_key, ids))]


def _is_kept(row: FileRow, now: int) -> bool:
    return row.expires == 0 or row.expires > now


def _key(file: str) -> Key:
    return f"file#{file}", "-"


def _name(row: FileRow) -> Key:
    return f"files#{row.owner}", f"{row.created:020}#{row.id}"
