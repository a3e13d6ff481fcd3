"""Prose to passages, such that an edit changes only the passages around it."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from flowbed.records import Chunk

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.chunking import Rules
    from flowbed.records import Document, Scalar

# Line ends as Markdown has them, so that line numbers agree with its parser's.
LINE_END = re.compile(r"\r\n?|\n")

# Ranks of cuts: lower is better. Headings have 1 to 6, blocks of Markdown 10 and more by their depth.
PARAGRAPH = 10
BLANK_LINE = 40
LINE = 50

# A cut should leave at least this share of the capacity on both sides: shorter passages say too little to be found.
LEAST_SHARE = 4

# A title may take this share of what is sent; past it, there would be more title than text in every chunk.
TITLE_SHARE = 4

# Texts whose count is remembered within one document: enough for all of a short one, little memory for a long one.
REMEMBERED = 1_024


@dataclass(frozen=True, slots=True)
class Cut:
    """A place where a passage may begin: a character offset, and how good a place it is.

    The first `lead` characters behind it are headings, which stay with what follows them.
    """

    offset: int
    rank: int
    lead: int = 0


@dataclass(frozen=True, slots=True)
class Passage:
    """A stretch of a document's text."""

    start: int
    end: int


# Splits a text that has no place to cut into (character offset, part), each of at most so many tokens.
Split = Callable[[str, int], list[tuple[int, str]]]


def passages(
    text: str, cuts: Sequence[Cut], capacity: int, count: Callable[[str], int], split: Split
) -> list[Passage]:
    """Divide `text` into passages of at most `capacity` tokens, in order, leaving out nothing but white space.

    A stretch that fits is a passage. One that does not is cut in two at its best place, and both parts are treated
    alike: the best place is the highest heading, then the outermost block, then a line; among equals the one whose
    following text has the highest hash. No choice depends on text far away, so an edit moves the cuts beside it and
    no others, where packing from the front would move all that follow. A stretch without a place to cut is split at
    its sentences.
    """
    offsets = [*(cut.offset for cut in cuts), len(text)]
    blocks = [text[start:end] for start, end in pairwise(offsets)]
    ranks = [cut.rank for cut in cuts]
    hashes = [zlib.crc32(block.strip().encode(errors="surrogatepass")) for block in blocks]
    before = [0, *accumulate(count(block.strip()) for block in blocks)]
    found: list[Passage] = []
    stretches = [(0, len(blocks))]
    while stretches:
        first, last = stretches.pop()
        start, end = trimmed(text, offsets[first], offsets[last])
        # The sum of the parts' tokens is not always that of the whole, so what seems to fit is counted once more.
        if before[last] - before[first] <= capacity and count(text[start:end]) <= capacity:
            if start < end:
                found.append(Passage(start, end))
        elif last - first > 1:
            best = _best_cut(first, last, ranks, hashes, before, capacity)
            stretches += [(best, last), (first, best)]
        else:
            found += _split(text, start, end, cuts[first].lead, capacity, count, split)
    return found


def _split(
    text: str, start: int, end: int, lead: int, capacity: int, count: Callable[[str], int], split: Split
) -> list[Passage]:
    """Split a stretch without a place to cut, leaving its headings with the first part."""
    room = capacity - count(text[start : start + lead])
    # Headings that would crowd out their text are split like any other.
    body = start + lead if room >= capacity // 2 else start
    parts = [
        Passage(body + offset, body + offset + len(part))
        for offset, part in split(text[body:end], room if body > start else capacity)
        if part.strip()
    ]
    return [Passage(start, parts[0].end), *parts[1:]]


def _best_cut(
    first: int, last: int, ranks: Sequence[int], hashes: Sequence[int], before: Sequence[int], capacity: int
) -> int:
    """Choose the block before which blocks `first` to `last` are cut."""
    least = capacity // LEAST_SHARE
    middle = (first + last) // 2

    def preference(block: int) -> tuple[bool, int, int, int, int]:
        # As long as both sides are long enough their lengths do not matter; where none is, the shorter counts.
        length = min(before[block] - before[first], before[last] - before[block], least)
        # Of equal blocks (a thousand equal lines of a log) the middle one, so that the work stays n log n.
        return ranks[block] < LINE, length, -ranks[block], hashes[block], -abs(block - middle)

    return max(range(first + 1, last), key=preference)


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """Leave out blank lines before and white space after; the indent of the first line is part of it."""
    end = start + len(text[start:end].rstrip())
    lead = len(text[start:end]) - len(text[start:end].lstrip())
    ends = [match.end() for match in LINE_END.finditer(text, start, start + lead)]
    return (ends[-1] if ends else start), end


def line_starts(text: str) -> list[int]:
    """Character offsets at which lines begin."""
    return [0, *(match.end() for match in LINE_END.finditer(text))]


def assemble(
    document: Document,
    rules: Rules,
    count: Callable[[str], int],
    divide: Callable[[int, Callable[[str], int]], list[tuple[Passage, str]]],
) -> list[Chunk]:
    """Make the chunks of a document of prose: the passages that `divide` finds, each with the title in front.

    `divide` is given the capacity and the count of what is sent for a text, and returns passages and their headings.
    A title longer than its share is cut short in what is sent, never in the metadata. A document without text is its
    title; one without either has no chunks.
    """
    # Tokenizing is nearly all of the work, and a passage is met as a block, as a stretch and as a chunk.
    count = lru_cache(maxsize=REMEMBERED)(count)
    title = " ".join(document.title.split())
    if not document.text.strip():
        if not title:
            return []
        sent = _shortened(title, rules.capacity, count)
        metadata = described(document, rules, {"title": title})
        return [_chunk(document, rules, 0, title, sent, metadata, count)]
    front = _shortened(title, rules.capacity // TITLE_SHARE, count) + "\n\n" if title else ""
    capacity = rules.capacity - (count(front) if front else 0)
    chunks = []
    for ordinal, (passage, headings) in enumerate(divide(capacity, count)):
        text = document.text[passage.start : passage.end]
        own: dict[str, Scalar] = {"start": passage.start, "end": passage.end}
        if headings:
            own["headings"] = headings
        if title:
            own["title"] = title
        metadata = described(document, rules, own)
        chunks.append(_chunk(document, rules, ordinal, text, front + text, metadata, count))
    return chunks


def _chunk(
    document: Document,
    rules: Rules,
    ordinal: int,
    text: str,
    sent: str,
    metadata: Mapping[str, Scalar],
    count: Callable[[str], int],
) -> Chunk:
    return Chunk(
        id=f"{rules.source}#{document.id}#{ordinal:05d}",
        collection=rules.collections[0],
        document=document.id,
        ordinal=ordinal,
        text=text,
        sent=sent,
        metadata=metadata,
        tokens=count(sent),
    )


def described(document: Document, rules: Rules, own: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Join what Flowbed says of a chunk with the document's own metadata, neither hiding the other."""
    ours: dict[str, Scalar] = {"source": rules.source, "document": document.id, **own}
    for name, value in document.metadata.items():
        ours.setdefault(name if name not in ours else f"document_{name}", value)
    return ours


def _shortened(title: str, capacity: int, count: Callable[[str], int]) -> str:
    """Cut a title at a word, or inside its only word, so that it has at most `capacity` tokens."""
    if count(title) <= capacity:
        return title
    from semantic_text_splitter import TextSplitter  # heavy; most titles are short

    return TextSplitter.from_callback(count, capacity).chunks(title)[0]
