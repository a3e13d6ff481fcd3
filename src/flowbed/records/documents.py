"""What a source lists, and what it is cut into."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from flowbed.records import canonical, row_hash, text_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flowbed.records import Scalar


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
