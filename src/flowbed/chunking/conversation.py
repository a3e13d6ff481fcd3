"""Conversations: a thread as a whole, a day cut into windows at its silences."""

from __future__ import annotations

import zlib
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

from flowbed.chunking.best_cuts import BestCuts
from flowbed.chunking.metadata import chunk_metadata
from flowbed.chunking.passages import LINE, PIECE, REMEMBERED, Cut, line_starts, passages, shortened
from flowbed.records import Chunk
from flowbed.records.conversations import Conversation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from flowbed.chunking import Rules
    from flowbed.chunking.passages import Measure, Passage
    from flowbed.records import Document, Scalar
    from flowbed.records.conversations import Message

MINUTE = 60_000_000  # µs

# After a longer silence another conversation begins.
GAP = 20 * MINUTE
# A longer window has several subjects, even if the talk never stopped.
LONGEST = 120 * MINUTE
# A cut for length leaves at least this on both sides.
LEAST = 30 * MINUTE
# A window of fewer messages, or of fewer tokens, says too little to be found: it joins its nearer neighbour.
FEW_MESSAGES, FEW_TOKENS = 3, 40

# The most tokens of the message before a window, and of the question of a thread, that are sent along as context.
OVERLAP_TOKENS, QUESTION_TOKENS = 60, 48
# The most tokens of the messages that replies of a chunk answer, if these are elsewhere.
QUOTES_TOKENS = 60
# Context takes at most this part of what is sent, for models with small windows.
CONTEXT_SHARE = 4

# Names in the metadata; a busy window may have more authors, whose names stand in its text.
MOST_AUTHORS = 20


@dataclass(frozen=True, slots=True)
class _Window:
    """Consecutive messages as one text, with the offset at which each begins; `question` goes with later pieces."""

    messages: Sequence[Message]
    text: str
    starts: Sequence[int]
    question: str = ""


def chunk_conversation(document: Document, rules: Rules, count: Callable[[str], int]) -> list[Chunk]:
    """Split a conversation into chunks of whole messages, each line `Name: text`.

    What is sent begins with the channel and the date, and the title of a thread that has one. A later piece of a thread
    repeats its question, and a window that continues another one begins with the last message of that, where it fits;
    so does a reply with what it answers. None of this is in `text`. The id of a chunk
    names its first message, so that messages elsewhere do not rename it.

    Raises:
        Rejected: the document's text is no conversation.
    """
    talk = Conversation.from_json(document.text)
    count = lru_cache(maxsize=REMEMBERED)(count)
    chunks: list[Chunk] = []
    for window in _windows(talk, count, rules.capacity):
        front = _front(talk, document.title, window.messages[0], rules.capacity, count)
        room = rules.capacity - count(front + window.question)
        found = passages(window.text, _cuts(window), room, count, _split)
        for number in range(len(found)):
            ordinal = len(chunks)
            chunks.append(
                _chunk(
                    document, rules, talk, window, found, number, front=front, ordinal=ordinal, count=count
                )
            )
    return chunks


def _front(talk: Conversation, title: str, first: Message, capacity: int, count: Callable[[str], int]) -> str:
    """Return the first lines of what is sent; a time of day would change with the first message of a window."""
    day = datetime.fromtimestamp(first.time / 1_000_000, UTC)
    lines = [f"{talk.channel}, {day.day} {day:%b %Y}", " ".join(title.split())]
    return "".join(f"{shortened(each, capacity // CONTEXT_SHARE, count)}\n" for each in lines if each)


def _windows(talk: Conversation, count: Callable[[str], int], capacity: int) -> Iterator[_Window]:
    messages = talk.messages
    if not messages:
        return
    if talk.thread:
        question = ""
        if messages[0].id == talk.thread:
            most = min(QUESTION_TOKENS, capacity // CONTEXT_SHARE)
            question = shortened(_line(messages[0]), most, count) + "\n"
        yield _window(messages, question)
        return
    bounds = sorted({0, len(messages), *_silences(messages, count)})
    for first, last in pairwise(bounds):
        for start, end in _of_bearable_length(messages, first, last):
            yield _window(messages[start:end])


def _window(messages: Sequence[Message], question: str = "") -> _Window:
    starts, lines, offset = [], [], 0
    for message in messages:
        starts.append(offset)
        lines.append(_line(message))
        offset += len(lines[-1]) + 1
    return _Window(messages, "\n".join(lines), starts, question)


def _line(message: Message) -> str:
    return f"{message.author}: {message.text.strip()}"


def _silences(messages: Sequence[Message], count: Callable[[str], int]) -> set[int]:
    """Return the messages before which a window begins because nobody had spoken for a while.

    A window that is too small drops the shorter of the silences around it. Each silence depends on the two windows
    beside it only, so a new message cannot move the windows of another hour.
    """
    gaps = [after.time - before.time for before, after in pairwise(messages)]
    bounds = [place for place, gap in enumerate(gaps, start=1) if gap > GAP]
    dropped = set()
    for first, last in pairwise([0, *bounds, len(messages)]):
        around = [place for place in (first, last) if 0 < place < len(messages) and gaps[place - 1] < LONGEST]
        if around and _is_small(messages[first:last], count):
            dropped.add(min(around, key=lambda place: gaps[place - 1]))
    return set(bounds) - dropped


def _is_small(messages: Sequence[Message], count: Callable[[str], int]) -> bool:
    if len(messages) < FEW_MESSAGES:
        return True
    tokens = 0
    for message in messages:
        tokens += count(_line(message))
        if tokens >= FEW_TOKENS:
            return False
    return True


def _of_bearable_length(messages: Sequence[Message], first: int, last: int) -> Iterator[tuple[int, int]]:
    """Cut a stretch that is too long at its longest silence, and both parts the same way."""
    if messages[last - 1].time - messages[first].time <= LONGEST:
        yield first, last
        return
    some = messages[first:last]
    times = [message.time - some[0].time for message in some]
    silences = [0, *(after - before for before, after in pairwise(times))]
    ranks = [LONGEST - min(silence, LONGEST) for silence in silences]
    cutting = BestCuts(ranks, [_hash(each) for each in some], [*times, times[-1]], line=0, least=LEAST)
    stretches = [(0, len(some))]
    while stretches:
        start, end = stretches.pop()
        if times[end - 1] - times[start] <= LONGEST:
            yield first + start, first + end
            continue
        best = cutting.best(start, end)
        stretches += [(best, end), (start, best)]


def _hash(message: Message) -> int:
    return zlib.crc32(message.text.encode(errors="surrogatepass"))


def _cuts(window: _Window) -> list[Cut]:
    """Return the places to cut a window: before messages, the longer the silence the better; then lines in them."""
    cuts = []
    ends = [*(start - 1 for start in window.starts[1:]), len(window.text)]
    before = window.messages[0].time
    for message, start, end in zip(window.messages, window.starts, ends, strict=True):
        minutes = max(0, min((message.time - before) // MINUTE, GAP // MINUTE))
        cuts.append(Cut(start, LINE - 1 - minutes))
        before = message.time
        fenced = False
        for line, past in pairwise([*line_starts(window.text[start:end]), end - start]):
            here = window.text[start + line : start + past]
            if line and here.strip():
                # A block of code is cut only where nothing else can be.
                cuts.append(Cut(start + line, PIECE if fenced else LINE))
            fenced ^= here.lstrip().startswith("```")
    return cuts


def _split(text: str, capacity: int, measure: Measure) -> list[tuple[int, str]]:
    from semantic_text_splitter import TextSplitter  # heavy; few messages are longer than a window

    return TextSplitter.from_callback(measure, capacity).chunk_indices(text)


def _chunk(
    document: Document,
    rules: Rules,
    talk: Conversation,
    window: _Window,
    found: Sequence[Passage],
    number: int,
    *,
    front: str,
    ordinal: int,
    count: Callable[[str], int],
) -> Chunk:
    passage = found[number]
    first = bisect_right(window.starts, passage.start) - 1
    last = bisect_right(window.starts, passage.end - 1)
    covered = window.messages[first:last]
    text = window.text[passage.start : passage.end]
    own: dict[str, Scalar] = {
        "channel": talk.channel,
        "channel_id": talk.channel_id,
        "authors": ", ".join(list(dict.fromkeys(each.author for each in covered))[:MOST_AUTHORS]),
        "first_ts": covered[0].time // 1_000_000,
        "last_ts": covered[-1].time // 1_000_000,
        "messages": " ".join(each.id for each in covered),
    }
    if talk.thread:
        own["thread"] = talk.thread
    if document.title:
        own["title"] = " ".join(document.title.split())
    if covered[0].url:
        own["url"] = covered[0].url
    part = number - bisect_left(found, window.starts[first], hi=number, key=lambda each: each.start)
    context = window.question if number else ""
    sent = front + context + text
    if passage.start > window.starts[first]:  # the middle of a message
        sent = _fitting([front + context + f"{covered[0].author}: {text}", sent, front + text], rules, count)
    elif number and not context:
        overlap = _line(window.messages[first - 1])
        if count(overlap) <= min(OVERLAP_TOKENS, rules.capacity // CONTEXT_SHARE):
            sent = _fitting([f"{front}{overlap}\n{text}", sent], rules, count)
    sent = _fitting([sent, front + text, text], rules, count)
    if sent.startswith(front) and (quotes := _quotes(covered, rules.capacity, count)):
        sent = _fitting([f"{front}{quotes}\n{sent.removeprefix(front)}", sent], rules, count)
    return Chunk(
        id=f"{rules.source}#{document.id}#{covered[0].id}" + (f"#{part:05d}" if part else ""),
        collection=rules.collections[0],
        document=document.id,
        ordinal=ordinal,
        text=text,
        sent=sent,
        metadata=chunk_metadata(document, rules, own),
        tokens=count(sent),
    )


def _quotes(covered: Sequence[Message], capacity: int, count: Callable[[str], int]) -> str:
    """Return what the replies of a chunk answer, one a line, where the chunk does not have it itself."""
    here = {each.id for each in covered}
    quotes = dict.fromkeys(each.quote for each in covered if each.quote and each.answers not in here)
    lines: list[str] = []
    most = min(QUOTES_TOKENS, capacity // CONTEXT_SHARE)
    for quote in quotes:
        if count("\n".join([*lines, f"> {quote}"])) > most:
            break
        lines.append(f"> {quote}")
    return "\n".join(lines)


def _fitting(candidates: Sequence[str], rules: Rules, count: Callable[[str], int]) -> str:
    """Return the first text that fits the model's window, or the last."""
    return next((each for each in candidates if count(each) <= rules.capacity), candidates[-1])
