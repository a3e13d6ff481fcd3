"""Frozen records that the stages exchange, and the identities made from them. No I/O."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

Purpose = Literal["document", "query"]
Scalar = str | int | float | bool


class Status(StrEnum):
    """What is known about one chunk."""

    NONE = "NONE"  # waiting to be embedded
    PENDING = "PENDING"  # claimed by a worker, or in a delta that no commit holds yet
    SUCCESS = "SUCCESS"  # in the index
    FAILED = "FAILED"  # refused, with its reason
    SKIPPED = "SKIPPED"  # nothing to embed
    REVERTED = "REVERTED"  # was in the index; a rollback took it out


@dataclass(frozen=True, kw_only=True)
class Space:
    """The identity of a vector space: two vectors may meet only when every field here agrees."""

    model: str
    dimensions: int
    revision: str = ""
    pooling: str = ""
    normalized: bool = True
    prompts: tuple[tuple[str, str], ...] = ()
    precision: str = "float32"

    @cached_property
    def fingerprint(self) -> str:
        """64 hex digits that stamp every delta, index, cache key and response."""
        return hashlib.sha256(canonical(asdict(self))).hexdigest()

    @property
    def space8(self) -> str:
        """The first 8 digits of the fingerprint, for names that people read."""
        return self.fingerprint[:8]

    def to_json(self) -> str:
        """Write this space as canonical JSON."""
        return canonical(asdict(self)).decode()

    @classmethod
    def from_json(cls, text: str) -> Space:
        """Read a space that `to_json` wrote."""
        fields = json.loads(text)
        fields["prompts"] = tuple((name, prompt) for name, prompt in fields["prompts"])
        return cls(**fields)


@dataclass(frozen=True, kw_only=True)
class Document:
    """One unit of a source: a file, a record, a receipt.

    `text` is what the chunker of `kind` reads: prose for `text` and `markdown`, the receipt's JSON for `receipt`.
    """

    id: str
    kind: str
    text: str
    title: str = ""
    metadata: Mapping[str, Scalar] = field(default_factory=dict)

    @cached_property
    def hash(self) -> str:
        """64 hex digits over everything that chunks are made from."""
        return hashlib.sha256(
            canonical([self.id, self.kind, self.text, self.title, dict(self.metadata)])
        ).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One document as its source lists it: cheap to list, read only when `etag` has moved.

    `read` raises `Rejected` when the document cannot be read as text.
    """

    document: str
    etag: str
    read: Callable[[], Document]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something of a source that could not become a document.

    `skipped` marks what is no failure (a picture in a folder of texts); anything else becomes a dead letter.
    `document` is the one it is about, where that can be told: what was indexed of it before is kept. Where it cannot,
    any document may be behind the problem, so that nothing of the source is taken for deleted.
    """

    subject: str
    reason: str
    skipped: bool = False
    document: str = ""


@dataclass(frozen=True, kw_only=True)
class Page:
    """A stretch of a fetch.

    `cursor` is where the source stands after this page. `complete` on the last page says that the pages together went
    through everything there is, so that what they listed neither as entry nor as problem is gone.
    """

    entries: Sequence[Entry] = ()
    gone: Sequence[str] = ()
    problems: Sequence[Problem] = ()
    cursor: str = ""
    complete: bool = False


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A passage of a document: `text` is shown to readers, `sent` is what is embedded (title, context and text)."""

    id: str
    collection: str
    document: str
    ordinal: int
    text: str
    sent: str
    metadata: Mapping[str, Scalar]
    tokens: int = 0

    @cached_property
    def text_hash(self) -> str:
        """64 hex digits of the exact text that is embedded."""
        return text_hash(self.sent)

    @cached_property
    def row_hash(self) -> str:
        """32 hex digits over what the index holds of this chunk beside its vector."""
        return row_hash(self.text_hash, self.text, self.metadata)


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """Vectors of one call, in the order of its texts.

    `vectors` is float32 of shape (texts, dimensions); `tokens` is what the provider counts for the call;
    `truncated` holds the positions of texts whose end was cut off. `counts` are the tokens of each text, also of those
    that came from a cache; empty where they are not told. `cached` is how many texts did. `provider` names who answered
    the others, where there are several that might have.
    """

    vectors: NDArray[np.float32]
    tokens: int = 0
    truncated: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()
    cached: int = 0
    provider: str = ""


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One answer of a search; `score` is the cosine similarity, in [-1, 1], higher is better."""

    id: str
    score: float
    document: str
    metadata: Mapping[str, Scalar]
    collection: str


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search found, best first, and the version of each collection that was asked."""

    hits: tuple[Hit, ...]
    versions: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Lane:
    """What a plan expects of one way to embed: US dollars, and seconds until the index has it."""

    cost_usd: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would do. All counts are chunks; `problems` and `withheld` name what it would not do.

    `new` and `changed` chunks would be written, and with them the `waiting` ones of runs that did not finish; `reused`
    of these need no embedding, and `tokens` are those of the others. `reuse` says why: their text is `repeated` in the
    plan, a live submission carries it (`submitted`), or its vector is `cached` or `indexed`. `documents` is how many
    differ. `plan_id` is None where there is nothing to do. `timed_runs` is how many earlier runs the realtime lane's
    time was taken from, and `timed_submissions` how many submissions the batch lane's; with 0 it is a guess. `lane` is
    the one that a run would take, and `lane_why` says why. `tokens_exact` says that tokens are counted as the provider
    bills them; `error_seen` is by which part earlier runs were billed more (or less), None where there were none.
    """

    plan_id: str | None
    new: int
    changed: int
    reused: int
    deleted: int
    tokens: int
    lanes: Mapping[str, Lane | None]
    documents: int = 0
    waiting: int = 0
    reuse: Mapping[str, int] = field(default_factory=dict)
    timed_runs: int = 0
    timed_submissions: int = 0
    lane: str = "realtime"
    lane_why: str = ""
    tokens_exact: bool = False
    error_seen: float | None = None
    problems: tuple[Problem, ...] = ()
    withheld: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What a plan said of the run that carries it out, to be held against what the run did.

    `seconds` are those of embedding. `already` says that nothing of the plan was left to do.
    """

    plan_id: str
    chunks: int
    deleted: int
    tokens: int
    cost_usd: float
    seconds: float
    already: bool = False


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a run did. `fetched` counts documents that were new or changed; the other counts are chunks.

    `embedded` counts the distinct texts that a provider was sent; `reused` the chunks that needed none. `seconds` are
    those of the whole run, `embedding_seconds` those in which vectors were found or made. `waiting` chunks of its
    collections are left for another run. `lane` is the way that texts went, and `lane_why` says why; `submitted` texts
    were gathered for the provider's Batch API, and `submissions` names all that are live there. `failures` names what
    failed (source, chunk or delta) and why; `skipped` what is not text. `planned` is what the plan said, and `drift`
    what of it was left undone, by source.
    """

    fetched: int
    chunks: int
    embedded: int
    reused: int
    deleted: int
    failed: int
    tokens: int
    cost_usd: float
    seconds: float
    versions: Mapping[str, int]
    truncated: int = 0
    embedding_seconds: float = 0.0
    waiting: int = 0
    lane: str = "realtime"
    lane_why: str = ""
    submitted: int = 0
    submissions: tuple[str, ...] = ()
    planned: Planned | None = None
    drift: Mapping[str, str] = field(default_factory=dict)
    failures: tuple[Problem, ...] = ()
    skipped: tuple[Problem, ...] = ()
    withheld: Mapping[str, str] = field(default_factory=dict)


def text_hash(text: str) -> str:
    """64 hex digits of the UTF-8 bytes of `text`."""
    return hashlib.sha256(text.encode()).hexdigest()


def vector_key(space: Space, purpose: Purpose, text: str) -> bytes:
    """Make the 32 bytes under which the vector of exactly this text, in this space, for this purpose, is kept."""
    return hashlib.sha256(b"\0".join((space.fingerprint.encode(), purpose.encode(), text.encode()))).digest()


def run_id(collection: str, space: Space, rows: Iterable[tuple[str, int, bool, str]]) -> str:
    """Name a run by its content: the collection, the space and its (id, version, deleted, text_hash) in order."""
    return hashlib.sha256(canonical([collection, space.fingerprint, sorted(rows)])).hexdigest()


def row_hash(text_hash: str, text: str, metadata: Mapping[str, Scalar]) -> str:
    """32 hex digits over what the index holds of a chunk beside its vector."""
    return hashlib.sha256(canonical([text_hash, text, dict(metadata)])).hexdigest()[:32]


def batch_id(source: str, rows: Iterable[tuple[str, str, int]]) -> str:
    """Name a batch file by its content: its source and its (chunk id, text_hash, version) in order."""
    return hashlib.sha256(canonical([source, sorted(rows)])).hexdigest()


def canonical(value: Any) -> bytes:  # noqa: ANN401 - whatever JSON can hold
    """Write JSON that is the same bytes for the same value: sorted keys, no spaces, UTF-8."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # a whole number of more than 64 bits, which Python's own writer takes
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
