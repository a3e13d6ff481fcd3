"""How far each channel was read: the cursor of a workspace."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from flowbed.sources.apis import cursors
from flowbed.sources.slack.messages import day_of

DAY = 86_400  # seconds

Thread = tuple[str, int, int, int]
# When a thread was read that is only announced.
NEVER = 0


@dataclass(kw_only=True)
class Position:
    """How far one channel was read, in seconds since 1970; days are whole.

    Everything from `filled` (the start of a day; None before the first listing) to `listed` was read. `swept` is where
    the next check of old days goes on, downwards. `whole` says that nothing older than `filled` was there. `days`
    has the days with a document, counted from 1970. `threads` has of each thread the newest reply, the number of
    replies, when it was read, and a hash of its parent.

    `rest` is the part before `listed`, from and up to the start of a day, that was to be listed again when a fetch
    ended; None if there is none. `cut` counts the last fetches that ended before the channel was read. `name` is what
    the channel was called then.
    """

    filled: int | None = None
    listed: int = 0
    swept: int | None = None
    whole: bool = False
    rest: tuple[int, int] | None = None
    cut: int = 0
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
        own.threads = {**{thread: (thread, 0, NEVER, 0) for thread in each.threads}, **own.threads}
    return found


def written(positions: dict[str, Position]) -> str:
    """Return positions as a cursor."""
    value = {
        name: [
            *(each.filled, each.listed, each.swept, each.whole, *cursors.packed(each.days), each.threads),
            *(each.rest, each.cut, each.name),
        ]
        for name, each in positions.items()
    }
    return cursors.written(value)


def read(cursor: str) -> dict[str, Position]:
    """Parse a cursor; one that is empty or no cursor of a workspace begins from the start."""
    try:
        return {
            name: Position(
                filled=filled,
                listed=listed,
                swept=swept,
                whole=whole,
                rest=tuple(rest) if rest else None,
                cut=cut,
                name=label[0] if label else "",
                days=cursors.unpacked(first, bits),
                threads={
                    thread: (newest, count, read_at, parent)
                    for thread, (newest, count, read_at, parent) in threads.items()
                },
            )
            for name, fields in cursors.read(cursor).items()
            for filled, listed, swept, whole, first, bits, threads, rest, cut, *label in [fields]
        }
    except (ValueError, TypeError, AttributeError):
        return {}


def documents(positions: dict[str, Position]) -> set[str]:
    """Return the ids of all documents that were found so far, with threads that have no text."""
    days = {f"{name}/d/{day_of(day * DAY)}" for name, each in positions.items() for day in each.days}
    return days | {f"{name}/t/{thread}" for name, each in positions.items() for thread in each.threads}


def places(positions: dict[str, Position]) -> set[str]:
    """Return the ids of the channels."""
    return set(positions)
