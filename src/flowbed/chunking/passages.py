"""Split prose into passages so that an edit changes only the passages around it."""

from __future__ import annotations

import re
import zlib
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from flowbed.chunking.best_cuts import BestCuts
from flowbed.chunking.metadata import chunk_metadata, require_modest
from flowbed.chunking.pieces import bounded
from flowbed.records import Chunk

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.chunking import Rules
    from flowbed.records import Document, Scalar

# Line ends as Markdown defines them, so that line numbers agree with its parser's.
LINE_END = re.compile(r"\r\n?|\n")
WORD = re.compile(r"\S+")

# Ranks of cuts; lower is better. Headings have 1 to 6, blocks of Markdown 10 and more, by depth.
PARAGRAPH = 10
BLANK_LINE = 40
LINE = 50
PIECE = 60  # inside an overlong line

# The most characters of a chunk for each token of its capacity. Tokenizers count white space and long words without
# letters that they know as little or nothing, yet a chunk has to fit into a request and on a page of results. English
# has 4 or 5 characters per token; indented tables and drawings up to CHARACTERS_MEASURED.
CHARACTERS_PER_TOKEN = 16

# Parts that take at most this share of the capacity fit together: no tokenizer makes a third more of a text than of its
# lines, with a token for each end of a line.
AMPLE = 0.75

# A cut should leave at least 1/4 of the capacity on both sides: shorter passages say too little to be found.
LEAST_SHARE = 4

# A title may take up to 1/4 of what is sent; otherwise every chunk would be more title than text.
TITLE_SHARE = 4

# Token counts cached per document: all of a short one, and little memory for a long one.
REMEMBERED = 1_024


@dataclass(frozen=True, slots=True)
class Cut:
    """A place where a passage may begin: a character offset and its rank.

    The `lead` characters after it are headings, which stay with the text that follows.
    """

    offset: int
    rank: int
    lead: int = 0


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a document's text."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text: what readers see, and `context`, which is sent in front of it, such as the header of a table.

    `place` says as metadata where it is, besides its offsets.
    """

    start: int
    end: int
    text: str
    headings: str = ""
    context: str = ""
    place: Mapping[str, Scalar] = field(default_factory=dict)


# Splits a text without cuts into (character offset, part), each of at most the given size by the given measure.
Measure = Callable[[str], int]
Split = Callable[[str, int, Measure], list[tuple[int, str]]]


def passages(
    text: str, cuts: Sequence[Cut], capacity: int, count: Callable[[str], int], split: Split
) -> list[Passage]:
    """Divide `text` into passages of at most `capacity` tokens, in order, leaving out only white space.

    A stretch that fits is a passage; it may have CHARACTERS_PER_TOKEN characters for each token of the capacity. One
    that does not fit is cut in two at its best place, and both parts are divided the same way. The best place is the
    highest heading, then the outermost block, then a line; among equal ones, the one whose following text has the
    highest hash. No choice depends on distant text, so an edit moves only the cuts next to it, whereas packing from the
    front would move all later ones. A stretch without cuts is split into sentences.
    """
    cuts = bounded(text, cuts, rank=PIECE)
    longest = capacity * CHARACTERS_PER_TOKEN
    offsets = [*(cut.offset for cut in cuts), len(text)]
    blocks = [text[start:end] for start, end in pairwise(offsets)]
    ranks = [cut.rank for cut in cuts]
    hashes = [zlib.crc32(block.strip().encode(errors="surrogatepass")) for block in blocks]
    before = [0, *accumulate(count(block.strip()) for block in blocks)]
    cutting = BestCuts(ranks, hashes, before, line=LINE, least=capacity // LEAST_SHARE)
    found: list[Passage] = []
    stretches = [(0, len(blocks))]
    while stretches:
        first, last = stretches.pop()
        start, end = trim(text, offsets[first], offsets[last])
        # The sum of the parts' tokens may differ from that of the whole, so count again, unless there is ample room.
        parts = before[last] - before[first]
        fits = parts <= capacity and end - start <= longest
        if fits and (parts + last - first <= capacity * AMPLE or count(text[start:end]) <= capacity):
            if start < end:
                found.append(Passage(start, end))
        elif last - first > 1:
            best = cutting.best(first, last)
            stretches += [(best, last), (first, best)]
        else:
            found += _split(text, start, end, cuts[first].lead, capacity, count, split)
    return found


def _split(
    text: str, start: int, end: int, lead: int, capacity: int, count: Callable[[str], int], split: Split
) -> list[Passage]:
    """Split a stretch without cuts; its headings stay with the first part."""
    longest = capacity * CHARACTERS_PER_TOKEN
    room = capacity - count(text[start : start + lead])
    # Headings that would crowd out their text are split as well.
    if room < capacity // 2 or lead > longest // 2:
        room, lead = capacity, 0
    body = start + lead
    parts = [
        Passage(body + offset, body + offset + len(part))
        for offset, part in split(text[body:end], room, measured(count, room, longest - lead))
        if part.strip()
    ]
    # The indent of the first line stays, unless it is longer than a chunk.
    if parts[0].end - start > longest:
        start = parts[0].start
    return [Passage(start, parts[0].end), *parts[1:]]


def measured(count: Callable[[str], int], capacity: int, longest: int) -> Measure:
    """Return a measure that is above `capacity` for texts of more tokens and for texts of more characters."""
    return lambda text: max(count(text), -(-len(text) * capacity // longest))


def trim(text: str, start: int, end: int) -> tuple[int, int]:
    """Trim blank lines before and white space after; the indent of the first line stays."""
    end = start + len(text[start:end].rstrip())
    lead = len(text[start:end]) - len(text[start:end].lstrip())
    ends = [match.end() for match in LINE_END.finditer(text, start, start + lead)]
    return (ends[-1] if ends else start), end


def line_starts(text: str) -> list[int]:
    """Return the character offsets at which lines begin."""
    return [0, *(match.end() for match in LINE_END.finditer(text))]


def assemble(
    document: Document,
    rules: Rules,
    count: Callable[[str], int],
    divide: Callable[[int, Callable[[str], int]], list[Piece]],
) -> list[Chunk]:
    """Build the chunks of a prose document: the pieces found by `divide`, each with the title in front.

    `divide` gets the capacity and a function that counts the tokens sent for a text. A title longer than its share is
    shortened in what is sent, never in the metadata. A document without text becomes a chunk of its title; one with
    neither has no chunks.
    """
    # Tokenizing is nearly all of the work, and a text may be counted as a block, as a stretch and as a chunk.
    count = lru_cache(maxsize=REMEMBERED)(count)
    title = " ".join(document.title.split())
    front = shortened(title, rules.capacity // TITLE_SHARE, count) + "\n\n" if title else ""
    shared = rules.overlap + 1 if rules.overlap else 0  # and the end of a line
    capacity = rules.capacity - (count(front) if front else 0) - shared
    divided = divide(capacity, count) if document.text.strip() else []
    if rules.overlap:
        divided = overlapped(divided, rules.overlap, count)
    if not divided and title:
        sent = shortened(title, rules.capacity, count)
        metadata = chunk_metadata(document, rules, {"title": title})
        return [_chunk(document, rules, 0, title, sent, metadata, count)]
    require_modest([title, *document.metadata.values()], len(divided))
    chunks = []
    for ordinal, piece in enumerate(divided):
        own: dict[str, Scalar] = {"start": piece.start, "end": piece.end}
        if piece.headings:
            own["headings"] = piece.headings
        own.update(piece.place)
        if title:
            own["title"] = title
        metadata = chunk_metadata(document, rules, own)
        sent = front + piece.context + piece.text
        chunks.append(_chunk(document, rules, ordinal, piece.text, sent, metadata, count))
    return chunks


def overlapped(pieces: Sequence[Piece], overlap: int, count: Callable[[str], int]) -> list[Piece]:
    """Let each piece begin with the last words of the one before, of at most `overlap` tokens; places stay."""
    found = list(pieces[:1])
    for before, piece in pairwise(pieces):
        tail = _last_words(before.text, overlap, count)
        found.append(replace(piece, text=f"{tail}\n{piece.text}") if tail else piece)
    return found


def _last_words(text: str, most: int, count: Callable[[str], int]) -> str:
    """Return the longest end of a text that begins with a word and has at most `most` tokens."""
    starts = [match.start() for match in WORD.finditer(text)]
    first = bisect_left(starts, True, key=lambda start: count(text[start:]) <= most)
    return text[starts[first] :] if first < len(starts) else ""


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


def shortened(title: str, capacity: int, count: Callable[[str], int]) -> str:
    """Shorten a title to at most `capacity` tokens, at a word or inside its only word."""
    longest = capacity * CHARACTERS_PER_TOKEN
    if len(title) <= longest and count(title) <= capacity:
        return title
    from semantic_text_splitter import TextSplitter  # heavy; most titles are short

    # One character more than fits, so that a title is still cut at a word.
    return TextSplitter.from_callback(measured(count, capacity, longest), capacity).chunks(
        title[: longest + 1]
    )[0]
