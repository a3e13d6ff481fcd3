"""Parts of a list in order of time and id, before or after one of its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from flowbed.ledger.vector_stores import Window

Row = TypeVar("Row")


def window_of(rows: Iterable[Row], window: Window, *, place: Callable[[Row], tuple[int, str]]) -> list[Row]:
    """Return the rows in a window; `place` is the time and id of a row."""
    found = sorted(rows, key=place, reverse=window.descending)
    ids = [place(row)[1] for row in found]
    first, last = 0, len(found)
    if window.after is not None:
        first = ids.index(window.after) + 1 if window.after in ids else last
    if window.before is not None:
        last = ids.index(window.before) if window.before in ids else first
    chosen = found[first:last]
    if window.before is not None and window.after is None:
        return chosen[-window.limit :]
    return chosen[: window.limit]
