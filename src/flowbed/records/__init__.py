"""Frozen records that stages exchange, and the ids derived from them. No I/O."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from flowbed.records.documents import Chunk, Document, Entry, Linked, Page, Problem
    from flowbed.records.reading import Reading
    from flowbed.records.reports import Lane, Plan, Planned, Report

__all__ = [
    "Chunk",
    "Document",
    "Embedded",
    "Entry",
    "Highlight",
    "Hit",
    "Lane",
    "Linked",
    "Page",
    "Plan",
    "Planned",
    "Problem",
    "Purpose",
    "Reading",
    "Report",
    "Scalar",
    "SearchResults",
    "Space",
    "Status",
    "batch_id",
    "canonical",
    "row_hash",
    "run_id",
    "text_hash",
    "vector_key",
]

# Resolved on first use: a search needs few of them, and creating such a class takes most of a millisecond.
_HOMES = {
    "Chunk": "flowbed.records.documents",
    "Document": "flowbed.records.documents",
    "Entry": "flowbed.records.documents",
    "Lane": "flowbed.records.reports",
    "Linked": "flowbed.records.documents",
    "Page": "flowbed.records.documents",
    "Plan": "flowbed.records.reports",
    "Planned": "flowbed.records.reports",
    "Problem": "flowbed.records.documents",
    "Reading": "flowbed.records.reading",
    "Report": "flowbed.records.reports",
}

Purpose = Literal["document", "query"]
Scalar = str | int | float | bool


class Status(StrEnum):
    """The state of a chunk."""

    NONE = "NONE"  # waiting to be embedded
    PENDING = "PENDING"  # claimed by a worker, or in a delta that is not committed yet
    SUCCESS = "SUCCESS"  # in the index
    FAILED = "FAILED"  # could not be embedded; the row says why
    SKIPPED = "SKIPPED"  # nothing to embed
    REVERTED = "REVERTED"  # was in the index until a rollback


@dataclass(frozen=True, kw_only=True)
class Space:
    """The identity of a vector space: only vectors whose spaces agree in every field may be compared."""

    model: str
    dimensions: int
    revision: str = ""
    pooling: str = ""
    normalized: bool = True
    prompts: tuple[tuple[str, str], ...] = ()
    precision: str = "float32"

    @cached_property
    def fingerprint(self) -> str:
        """Return 64 hex digits that stamp every delta, index, cache key and response."""
        return hashlib.sha256(canonical(asdict(self))).hexdigest()

    @property
    def space8(self) -> str:
        """Return the first 8 digits of the fingerprint, for readable names."""
        return self.fingerprint[:8]

    def to_json(self) -> str:
        """Return this space as canonical JSON."""
        return canonical(asdict(self)).decode()

    @classmethod
    def from_json(cls, text: str) -> Space:
        """Parse the result of `to_json`."""
        fields = json.loads(text)
        fields["prompts"] = tuple((name, prompt) for name, prompt in fields["prompts"])
        return cls(**fields)


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """The vectors of one call, in the order of its texts.

    `vectors` is float32 of shape (texts, dimensions). `tokens` is the provider's count for the call, and `counts` the
    tokens of each text, cached ones included; empty if unknown. `truncated` lists the positions of texts whose end was
    cut off. `cached` is how many texts came from a cache. `provider` names who embedded the others, if several could
    have, and `price` is then what a million tokens cost there, in US dollars; None for the price of the embedder.
    """

    vectors: NDArray[np.float32]
    tokens: int = 0
    truncated: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()
    cached: int = 0
    provider: str = ""
    price: float | None = None

    def cost(self, price: float) -> float:
        """Return what its tokens cost in US dollars; `price` is that of the embedder, for a million."""
        return self.tokens * (price if self.price is None else self.price) / 1e6


@dataclass(frozen=True, kw_only=True)
class Highlight:
    """A word of the query in the text of a hit: its characters from `start` to before `end`; `term` is the query's."""

    start: int
    end: int
    term: str


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One hit of a search; a higher `score` is better, and the mode says what it is.

    It is the cosine similarity, in [-1, 1], by vector; the BM25 score, above 0, by text; and in a hybrid search, what
    the ranks in both give, in (0, 1], where `scores` has the score of each list that the hit is in. In the last two,
    `matched` are the words of the query that the text has, and `highlights` where, in the order of the text.
    """

    id: str
    score: float
    document: str
    metadata: Mapping[str, Scalar]
    collection: str
    scores: Mapping[str, float] = field(default_factory=dict)
    matched: tuple[str, ...] = ()
    highlights: tuple[Highlight, ...] = ()


@dataclass(frozen=True, kw_only=True)
class IndexedText:
    """A row of the index as a reader sees it, without its vector."""

    id: str
    document: str
    metadata: Mapping[str, Scalar]
    collection: str


@dataclass(frozen=True, kw_only=True)
class SearchResults:
    """The hits of a search, best first, and the version of each collection that was searched.

    `reranked_tokens` are those that a reranker read.
    `warnings` say what was not searched, and why nothing may have been found, such as a key that no row has. `next` is
    the cursor of the next page; None if there is none.
    """

    hits: tuple[Hit, ...]
    versions: Mapping[str, int]
    warnings: tuple[str, ...] = ()
    next: str | None = None
    reranked_tokens: int = 0


def text_hash(text: str) -> str:
    """Return 64 hex digits of the SHA-256 of `text` in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def vector_key(space: Space, purpose: Purpose, text: str) -> bytes:
    """Return the 32-byte cache key of the vector of exactly this text, in this space, for this purpose."""
    return hashlib.sha256(b"\0".join((space.fingerprint.encode(), purpose.encode(), text.encode()))).digest()


def vector_keys(space: Space, purpose: Purpose, texts: Iterable[str]) -> list[bytes]:
    """Return the `vector_key` of many texts, in 70 % of the time."""
    before = b"%b\0%b\0" % (space.fingerprint.encode(), purpose.encode())
    return [hashlib.sha256(before + text.encode()).digest() for text in texts]


def run_id(collection: str, space: Space, rows: Iterable[tuple[str, int, bool, str]]) -> str:
    """Derive a run's id from the collection, the space, and its (id, version, deleted, text_hash) in order."""
    return hashlib.sha256(canonical([collection, space.fingerprint, sorted(rows)])).hexdigest()


def row_hash(text_hash: str, text: str, metadata: Mapping[str, Scalar]) -> str:
    """Return 32 hex digits over everything that the index stores of a chunk except its vector."""
    return hashlib.sha256(canonical([text_hash, text, dict(metadata)])).hexdigest()[:32]


def batch_id(source: str, rows: Iterable[tuple[str, str, int]]) -> str:
    """Derive a batch file's id from its source, and its (chunk id, text_hash, version) in order."""
    return hashlib.sha256(canonical([source, sorted(rows)])).hexdigest()


def canonical(value: Any) -> bytes:  # any JSON value
    """Return JSON with the same bytes for the same value: sorted keys, no spaces, UTF-8."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # an integer of more than 64 bits, which Python's own encoder supports
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
