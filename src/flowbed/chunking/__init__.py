"""Split documents into chunks: pure functions, one module per kind of document."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from importlib import import_module
from typing import TYPE_CHECKING

from flowbed.chunking.metadata import require_scalar
from flowbed.errors import Misconfigured
from flowbed.records import canonical
from flowbed.records.values import shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbed.records import Chunk, Document, Reading

# Increase it whenever the same document and rules would yield other chunks, so that stored chunks are rebuilt.
REVISION = 4

# Fewer tokens are only a few words, which search cannot find, and a title would get less than a word.
LEAST_CAPACITY = 16

# No model takes a hundredth of it; a splitter counts in native integers, which have limits.
MOST_CAPACITY = 10_000_000

# Readings kept while a document is chunked: what is sent of a chunk was read before, when its tokens were counted.
REMEMBERED = 1_024

# The router, by kind of document. Loaded by name, so that listing and submitting never import a splitter or a parser.
KINDS = {
    "code": "flowbed.chunking.code:chunk_code",
    "conversation": "flowbed.chunking.conversation:chunk_conversation",
    "extract": "flowbed.chunking.extract:chunk_extract",
    "issue": "flowbed.chunking.issue:chunk_issue",
    "markdown": "flowbed.chunking.markdown:chunk_markdown",
    "prepared": "flowbed.chunking.prepared:chunk_prepared",
    "receipt": "flowbed.chunking.receipt:chunk_receipt",
    "table": "flowbed.chunking.table:chunk_table",
    "text": "flowbed.chunking.text:chunk_text",
}


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How the documents of a source are chunked.

    `collections` names where chunks go, by position: one for prose, two for receipts (lines, then words). `capacity` is
    the most tokens sent per chunk of prose: by default the window of the default model without its two special tokens.
    `neighbours` is how many words on each side are sent along with a receipt's word. `overlap` is the most tokens at
    the end of a chunk of prose that the next one begins with, up to half of the capacity.
    """

    source: str
    collections: tuple[str, ...]
    capacity: int = 254
    neighbours: int = 0
    overlap: int = 0

    def __post_init__(self) -> None:
        """Reject rules that cannot give sensible chunks."""
        if not LEAST_CAPACITY <= self.capacity <= MOST_CAPACITY:
            raise Misconfigured(
                f"capacity is {shown(self.capacity)} tokens; it must be {LEAST_CAPACITY} to {MOST_CAPACITY:,}"
            )
        if self.neighbours < 0:
            raise Misconfigured(f"neighbours is {shown(self.neighbours)}; it must be 0 or more")
        if not 0 <= self.overlap <= self.capacity // 2:
            raise Misconfigured(f"overlap is {shown(self.overlap)}; it must be 0 to half of the capacity")
        if not self.collections:
            raise Misconfigured(f"source {self.source!r} names no collection")

    @cached_property
    def fingerprint(self) -> str:
        """Return 16 hex digits that change when documents would be chunked differently."""
        said = asdict(self)
        if not self.overlap:
            del said["overlap"]  # as before there was one: stored chunks stay
        return hashlib.sha256(canonical([REVISION, said])).hexdigest()[:16]


def chunk(document: Document, rules: Rules, count: Callable[[str], int]) -> list[Chunk]:
    """Split a document into chunks; `count` returns the model's number of tokens of a text.

    Raises:
        Rejected: the document is malformed, or its metadata cannot be filtered by.
        Misconfigured: its kind is unknown, or the rules name too few collections for it.
    """
    for name, value in document.metadata.items():
        require_scalar(name, value)
    target = KINDS.get(document.kind)
    if target is None:
        raise Misconfigured(
            f"document {document.id!r} has the unknown kind {document.kind!r}; the kinds are: {', '.join(KINDS)}"
        )
    module, _, attribute = target.partition(":")
    chunker: Callable[[Document, Rules, Callable[[str], int]], list[Chunk]] = getattr(
        import_module(module), attribute
    )
    return chunker(document, rules, count)


def chunk_as_read(document: Document, rules: Rules, read: Callable[[str], Reading]) -> list[Chunk]:
    """Split a document into chunks that are sent as the model reads them; `read` breaks the words it does not know.

    Their tokens are those of what is sent; `text` has no breaks.

    Raises:
        Rejected, Misconfigured: as `chunk` does.
    """
    read = lru_cache(maxsize=REMEMBERED)(read)
    found = []
    for each in chunk(document, rules, lambda text: read(text).tokens):
        reading = read(each.sent)
        changed = reading.lost or reading.sent != each.sent
        found.append(replace(each, sent=reading.sent, lost=reading.lost) if changed else each)
    return found
