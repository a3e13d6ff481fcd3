"""How far each channel was read: the cursor of a server."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from flowbed.sources.apis import cursors
from flowbed.sources.discord.messages import day_key

Thread = tuple[int, int, int]


@dataclass(kw_only=True)
class Position:
    """How far one channel was read, in days since 1970 and seconds since 1970.

    Everything from the day `filled` (None before the first listing) to the second `listed` was read. `swept` is the day
    below which the next check of old days goes on. `whole` says that nothing older than `filled` was there. `days` has
    the days with a document. `archived` is when all archived threads were listed last, and `threads_listed` when those
    were that had been archived since. `threads` has of each thread a
    hash of what the listing says of it, when it was read, and a hash of the message that it was begun on, or 0. `name`
    is what the channel was called then.
    """

    filled: int | None = None
    listed: int = 0
    swept: int | None = None
    whole: bool = False
    archived: int = 0
    threads_listed: int = 0
    name: str = ""
    days: set[int] = field(default_factory=set)
    threads: dict[str, Thread] = field(default_factory=dict)

    def copy(self) -> Position:
        """Return a copy that further reading does not change."""
        return replace(self, days=set(self.days), threads=dict(self.threads))


def announced(before: dict[str, Position], after: dict[str, Position]) -> dict[str, Position]:
    """Return a copy of positions `before`, with the documents of those `after` as if they had changed since."""
    found = {name: each.copy() for name, each in before.items()}
    for name, each in after.items():
        own = found.setdefault(name, Position(name=each.name))
        own.days |= each.days
        own.threads = {**dict.fromkeys(each.threads, (0, 0, 0)), **own.threads}
    return found


def written(positions: dict[str, Position]) -> str:
    """Return positions as a cursor."""
    return cursors.written(
        {
            name: [
                *(each.filled, each.listed, each.swept, each.whole, each.archived, each.threads_listed),
                *(*cursors.packed(each.days), each.threads, each.name),
            ]
            for name, each in positions.items()
        }
    )


def read(cursor: str) -> dict[str, Position]:
    """Parse a cursor; one that is empty or no cursor of a server begins from the start."""
    try:
        return {
            name: Position(
                filled=filled,
                listed=listed,
                swept=swept,
                whole=whole,
                archived=archived,
                threads_listed=threads_listed,
                name=label[0] if label else "",
                days=cursors.unpacked(first, bits),
                threads={thread: (state, at, mark) for thread, (state, at, mark) in threads.items()},
            )
            for name, fields in cursors.read(cursor).items()
            for filled, listed, swept, whole, archived, threads_listed, first, bits, threads, *label in [
                fields
            ]
        }
    except (ValueError, TypeError, AttributeError):
        return {}


def documents(positions: dict[str, Position]) -> set[str]:
    """Return the ids of all documents that were found so far, with threads that have no text."""
    days = {f"{name}/{day_key(day)}" for name, each in positions.items() for day in each.days}
    return days | {f"{name}/t/{thread}" for name, each in positions.items() for thread in each.threads}


def places(positions: dict[str, Position]) -> set[str]:
    """Return the ids of the channels."""
    return set(positions)
