"""Other windows of chats than those that Flowbed makes, to compare what they find."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from semantic_text_splitter import TextSplitter

from flowbed.records.conversations import Conversation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from flowbed.records import Document

MINUTE = 60_000_000  # µs
# As in Flowbed's own windows: the longest silence inside one, that before which nothing is repeated, and the most
# tokens that are.
LONGEST, GAP, OVERLAP_TOKENS = 120 * MINUTE, 20 * MINUTE, 60


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Messages of a day, joined over the shortest silences first (or in order, if `greedy`), while they fit together.

    What is sent begins with the `head`: nothing, the channel, or the channel and the date. `overlap` repeats the
    message before, `limit` joins over no silence of more than two hours, and `filled` repeats as much of what is before
    as fits.
    """

    greedy: bool = False
    head: str = ""
    overlap: bool = False
    limit: bool = False
    filled: bool = False


# Each is the first one with one thing more.
TRIED = {
    "joined over the shortest silences": Windows(),
    "... with the channel": Windows(head="channel"),
    "... with the channel and the date": Windows(head="date"),
    "... with the message before": Windows(overlap=True),
    "... over two hours at most": Windows(limit=True),
    "... filled with what is before": Windows(filled=True),
    "in order until they are full": Windows(greedy=True),
    "... both": Windows(greedy=True, filled=True),
}


class Unit(NamedTuple):
    """A line, or a piece of a long one: its text, its tokens, and its message's id and time."""

    text: str
    tokens: int
    id: str
    time: int


def cut(
    document: Document, windows: Windows, capacity: int, count: Callable[[str], int]
) -> Iterator[tuple[str, frozenset[str]]]:
    """Yield what is sent for each window of a day or thread, and the ids of its own messages."""
    talk = Conversation.from_json(document.text)
    units = [*_units(talk, capacity, count)]
    if not units:
        return
    head = _head(talk, windows.head)
    room = capacity - count(head)
    bounds = _in_order(units, room) if windows.greedy else _joined(units, room, limit=windows.limit)
    for first, last in zip([0, *bounds], [*bounds, len(units)], strict=True):
        sent = "\n".join(each.text for each in units[_begin(units, first, last, windows, room) : last])
        yield head + sent, frozenset(each.id for each in units[first:last])


def _units(talk: Conversation, capacity: int, count: Callable[[str], int]) -> Iterator[Unit]:
    for each in talk.messages:
        line = f"{each.author}: {each.text.strip()}"
        whole = count(line) <= capacity
        for piece in [line] if whole else TextSplitter.from_callback(count, capacity).chunks(line):
            yield Unit(piece, count(piece), each.id, each.time)


def _head(talk: Conversation, head: str) -> str:
    day = datetime.fromtimestamp(talk.messages[0].time / 1_000_000, UTC)
    return {"": "", "channel": f"{talk.channel}\n", "date": f"{talk.channel}, {day.day} {day:%b %Y}\n"}[head]


def _in_order(units: Sequence[Unit], room: int) -> list[int]:
    bounds, tokens = [], 0
    for place, each in enumerate(units):
        if place and tokens + each.tokens > room:
            bounds.append(place)
            tokens = 0
        tokens += each.tokens
    return bounds


def _joined(units: Sequence[Unit], room: int, *, limit: bool) -> list[int]:
    silences = [0, *(after.time - before.time for before, after in pairwise(units))]
    order = sorted(
        (place for place in range(1, len(units)) if not limit or silences[place] <= LONGEST),
        key=lambda place: (silences[place], -place),
    )
    # At the first line of each window its end, at the last its begin.
    ends, begins, sizes = [*range(1, len(units) + 1)], [*range(len(units))], [each.tokens for each in units]
    bounds = set(range(1, len(units)))
    for place in order:
        first, last = begins[place - 1], ends[place]
        if sizes[first] + sizes[place] <= room:
            sizes[first] += sizes[place]
            ends[first], begins[last - 1] = last, first
            bounds.discard(place)
    return sorted(bounds)


def _begin(units: Sequence[Unit], first: int, last: int, windows: Windows, room: int) -> int:
    """Return the unit with which a window begins that has some of what is before it."""
    left = room - sum(each.tokens for each in units[first:last])
    if windows.overlap and first and units[first].time - units[first - 1].time <= GAP:
        return first - (units[first - 1].tokens <= min(left, OVERLAP_TOKENS))
    while windows.filled and first and units[first - 1].tokens <= left:
        first -= 1
        left -= units[first].tokens
    return first
