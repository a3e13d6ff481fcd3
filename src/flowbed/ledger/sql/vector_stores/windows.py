"""Parts of a list in order of time and id, before or after one of its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa

from flowbed.ledger.text import is_unstorable

if TYPE_CHECKING:
    from flowbed.ledger.sql.database import Database
    from flowbed.ledger.vector_stores import Window

Value = TypeVar("Value")


async def read_window(
    database: Database,
    kind: type[Value],
    query: sa.Select[Any],
    window: Window,
    *,
    created: sa.ColumnElement[int],
    id_: sa.ColumnElement[str],
) -> list[Value]:
    """Return the rows of `query` in a window; none if the row after or before which it lies is not among them."""
    backwards = window.before is not None and window.after is None
    descending = window.descending != backwards
    ordered = query.order_by(*(each.desc() if descending else each.asc() for each in (created, id_)))
    for cursor, follows in ((window.after, True), (window.before, False)):
        if cursor is None:
            continue
        if is_unstorable(cursor):
            return []
        place = query.with_only_columns(created, id_).where(id_ == cursor).subquery()
        at = sa.select(place.c[0]).scalar_subquery()
        known = sa.select(place.c[1]).scalar_subquery()
        lies_later = sa.or_(created > at, sa.and_(created == at, id_ > known))
        lies_earlier = sa.or_(created < at, sa.and_(created == at, id_ < known))
        ordered = ordered.where(lies_earlier if follows == window.descending else lies_later)
    found = await database.fetch(kind, ordered.limit(window.limit))
    return found[::-1] if backwards else found
