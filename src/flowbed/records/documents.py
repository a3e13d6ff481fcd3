"""What a source lists, and the chunks made of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from flowbed.records import canonical, row_hash, text_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from flowbed.records import Scalar


@dataclass(frozen=True, kw_only=True)
class Document:
    """One unit of a source: a file, a record, a receipt.

    `text` is the input of the chunker of `kind`: prose for `text` and `markdown`, the receipt's JSON for `receipt`,
    the JSON of a `Conversation` for `conversation`, that of an `Issue` for `issue`, that of an `Extract` for `extract`
    and `code`, comma-separated values for `table`, and the chunks that another program has cut, as JSON, for
    `prepared`.
    """

    id: str
    kind: str
    text: str
    title: str = ""
    metadata: Mapping[str, Scalar] = field(default_factory=dict)

    @cached_property
    def hash(self) -> str:
        """Return 64 hex digits over everything that affects the chunks."""
        return hashlib.sha256(
            canonical([self.id, self.kind, self.text, self.title, dict(self.metadata)])
        ).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One document as listed by its source: cheap to list, and read only if its `etag` has changed.

    `read` raises `Rejected` if the document cannot be read as text.
    """

    document: str
    etag: str
    read: Callable[[], Document]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something in a source that could not become a document.

    `skipped` marks what is not a failure (such as a picture in a folder of texts); anything else becomes a dead letter.
    `document` is the document concerned, if known: what was indexed of it is kept. `folder`, which ends in `/`, says
    that all documents whose ids begin with it may be concerned. Without either, any document may be concerned, and
    nothing of the source is treated as deleted.
    """

    subject: str
    reason: str
    skipped: bool = False
    document: str = ""
    folder: str = ""


@dataclass(frozen=True, kw_only=True)
class Page:
    """One page of a fetch.

    `cursor` is the position after this page. `complete` on the last page says that the fetch covered the whole source,
    so that documents it listed neither as entry nor as problem are gone. `empty` on the last page says why nothing at
    all was listed, such as a pattern that no file fits.

    For sources that go on from fetch to fetch: `present` on the last page are documents that are there and were listed
    by an earlier fetch. `within` restricts what a complete fetch covers to documents whose ids begin with one of these;
    the others are kept, unless they are `gone`. So are those whose ids begin with one of `kept`: the options choose
    them, and this fetch does not say which of them are there.
    """

    entries: Sequence[Entry] = ()
    gone: Sequence[str] = ()
    problems: Sequence[Problem] = ()
    cursor: str = ""
    complete: bool = False
    empty: str = ""
    present: Collection[str] = ()
    within: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Linked:
    """What a link points to in one source: `documents` may have it, the likeliest first.

    `item` is the id of a message or note in them, empty for a document itself. `absent` says, judging by how far the
    source was read, why none of them may have it.
    """

    documents: tuple[str, ...]
    item: str = ""
    absent: str = ""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A passage of a document: `text` is shown to readers, `sent` is embedded (title, context and text).

    `lost` characters of what is sent are unknown to the model.
    """

    id: str
    collection: str
    document: str
    ordinal: int
    text: str
    sent: str
    metadata: Mapping[str, Scalar]
    tokens: int = 0
    lost: int = 0

    @cached_property
    def text_hash(self) -> str:
        """Return 64 hex digits of the exact text that is embedded."""
        return text_hash(self.sent)

    @cached_property
    def row_hash(self) -> str:
        """Return 32 hex digits over everything that the index stores of this chunk except its vector."""
        return row_hash(self.text_hash, self.text, self.metadata)
