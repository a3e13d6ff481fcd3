"""Documents to chunks: pure functions, one module for each kind of document."""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured, Rejected
from flowbed.records import canonical

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbed.records import Chunk, Document

# Raised whenever the same document and rules would give other chunks than before, so that stored ones are made anew.
REVISION = 1

# Below this a chunk is a few words, which finds nothing, and a title's share of it is less than a word.
LEAST_CAPACITY = 16

# Whole numbers from here on have no type in the index, and would come back as others.
LARGEST = 2**63

# Loaded by name, so that listing and submitting work never imports a splitter or a parser.
KINDS = {
    "text": "flowbed.chunking.text:chunk_text",
    "markdown": "flowbed.chunking.markdown:chunk_markdown",
    "receipt": "flowbed.chunking.receipt:chunk_receipt",
}


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How the documents of one source are chunked.

    `collections` names where chunks go by position: one for prose, two for receipts (lines, then words).
    `capacity` is the most tokens that are sent for one chunk of prose: the window of the default model without its two
    special tokens. `neighbours` is how many words on each side are sent with a receipt's word.
    """

    source: str
    collections: tuple[str, ...]
    capacity: int = 254
    neighbours: int = 0

    def __post_init__(self) -> None:
        """Refuse rules under which nothing sensible can be chunked."""
        if self.capacity < LEAST_CAPACITY:
            raise Misconfigured(f"capacity is {self.capacity} tokens; it has to be {LEAST_CAPACITY} or more")
        if self.neighbours < 0:
            raise Misconfigured(f"neighbours is {self.neighbours}; it has to be 0 or more")
        if not self.collections:
            raise Misconfigured(f"source {self.source!r} names no collection")

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change when a document would be chunked otherwise than before."""
        return hashlib.sha256(canonical([REVISION, asdict(self)])).hexdigest()[:16]


def chunk(document: Document, rules: Rules, count: Callable[[str], int]) -> list[Chunk]:
    """Cut a document into chunks; `count` is the model's own count of the tokens of a text.

    Fields of the document's own metadata whose names Flowbed uses itself are kept as `document_<name>`.

    Raises:
        Rejected: the document is malformed, or its metadata holds what no filter could ask for.
        Misconfigured: its kind is unknown, or the rules name too few collections for it.
    """
    for name, value in document.metadata.items():
        _check(name, value)
    target = KINDS.get(document.kind)
    if target is None:
        raise Misconfigured(
            f"document {document.id!r} is of kind {document.kind!r}; the kinds are: {', '.join(KINDS)}"
        )
    module, _, attribute = target.partition(":")
    chunker: Callable[[Document, Rules, Callable[[str], int]], list[Chunk]] = getattr(
        import_module(module), attribute
    )
    return chunker(document, rules, count)


def _check(name: str, value: object) -> None:
    match value:
        case str():
            return
        case int() if abs(value) < LARGEST:
            return
        case float() if math.isfinite(value):
            return
        case int():
            message = f"metadata {name!r} is {value}, more than 64 bits hold: give it as text"
        case _:
            message = f"metadata {name!r} is {value!r}: it can be text, a number, true or false"
    raise Rejected(message)
