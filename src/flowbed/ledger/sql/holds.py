"""Rows that one worker at a time holds: submissions and jobs.

Such a table has the columns `id`, `worker`, `until` (µs) and `ended` (µs, 0 while there is work left).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa

from flowbed.ledger.sql.database import Database, records
from flowbed.ledger.text import is_unstorable

if TYPE_CHECKING:
    from collections.abc import Mapping

Value = TypeVar("Value")


async def read(database: Database, kind: type[Value], table: sa.Table, id_: str) -> Value | None:
    """Return one row, or None."""
    if is_unstorable(id_):
        return None
    return await database.fetch_one(kind, sa.select(table).where(table.c.id == id_))


async def hold(
    database: Database, kind: type[Value], table: sa.Table, id_: str, *, worker: str, now: int, until: int
) -> Value | None:
    """Hold a row that has not ended for `worker` until `until`; None while another worker holds it."""
    row = table.c
    statement = (
        sa.update(table)
        .where(row.id == id_, row.ended == 0, sa.or_(row.worker.in_(("", worker)), row.until < now))
        .values(worker=worker, until=until)
        .returning(*row)
    )
    held = await database.write(lambda connection: records(kind, connection.execute(statement)))
    return held[0] if held else None


async def save(
    database: Database, table: sa.Table, id_: str, values: Mapping[str, Any], *, worker: str
) -> bool:
    """Write columns of a row that `worker` holds; return False, and change nothing, if it does not."""
    row = table.c
    statement = sa.update(table).where(row.id == id_, row.worker == worker, row.worker != "", row.ended == 0)
    return await database.execute(statement.values(values)) > 0
