"""Vector stores of the server's API: their rows, and the protocols of a ledger that keeps them.

A store is a collection; the files attached to it are its documents. What waits to be done is on the rows themselves:
a worker needs no other queue. Times are microseconds since 1970.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

IN_PROGRESS, COMPLETED, FAILED, CANCELLED = "in_progress", "completed", "failed", "cancelled"

# What a worker has still to do for a file: index it, write its attributes to its rows, delete its rows, or delete its
# rows and then its own row.
Work = Literal["", "attach", "update", "clean", "remove"]

DAY = 86_400_000_000


@dataclass(frozen=True, kw_only=True)
class VectorStoreRow:
    """One vector store of `owner`, the id of an API key, empty where the server needs none.

    `metadata` is JSON. A store without use for `days` days after `active` has expired; 0 days is never. `request` is
    the digest of the body that created it. `deleted` says when it was deleted, 0 while it is there, and `ended` when
    nothing was left of it. `worker` works on it until `until`.
    """

    id: str
    owner: str
    name: str
    created: int
    active: int
    description: str = ""
    metadata: str = "{}"
    days: int = 0
    model: str = ""
    request: str = ""
    deleted: int = 0
    worker: str = ""
    until: int = 0
    ended: int = 0

    def expires(self) -> int:
        """Return when the store expires, 0 for never."""
        return self.active + self.days * DAY if self.days else 0


@dataclass(frozen=True, kw_only=True)
class VectorStoreFileRow:
    """One file of a vector store: `status` is OpenAI's, `work` is what a worker has still to do.

    `key` is where the bytes of the file are. `batch` is the file batch that attached it last. `attributes` and
    `chunking` (the strategy, as it was sent) are JSON. `usage` is the bytes of its texts and vectors. `code` and
    `error` say why it failed. `revision` grows with every change that a worker must not overwrite.
    """

    store: str
    file: str
    filename: str
    key: str
    created: int
    status: str = IN_PROGRESS
    work: Work = "attach"
    batch: str = ""
    attributes: str = "{}"
    chunking: str = "{}"
    usage: int = 0
    code: str = ""
    error: str = ""
    revision: int = 0


@dataclass(frozen=True, kw_only=True)
class FileBatchRow:
    """The files that one request attached to a store; `files` is a JSON array of their ids."""

    id: str
    store: str
    created: int
    files: str
    cancelled: int = 0


class Tally(NamedTuple):
    """How many files have a status, and the bytes of their texts and vectors."""

    files: int
    usage: int


@dataclass(frozen=True, kw_only=True)
class Window:
    """A part of a list in order of time and id: up to `limit` rows that follow `after`, or precede `before`.

    Both are ids. Rows that precede are those nearest to it, in the order of the list.
    """

    limit: int
    descending: bool = True
    after: str | None = None
    before: str | None = None


class VectorStores(Protocol):
    """The vector stores. Each belongs to its owner: nobody else learns that it exists."""

    async def create(self, store: VectorStoreRow) -> None:
        """Record a store; an existing id changes nothing."""
        ...

    async def get(self, store: str) -> VectorStoreRow | None:
        """Return one store of any owner, deleted or not, or None."""
        ...

    async def list(self, owner: str, window: Window) -> Sequence[VectorStoreRow]:
        """Return an owner's stores that are not deleted; none after, or before, an unknown one."""
        ...

    async def describe(self, store: VectorStoreRow) -> bool:
        """Write name, description, metadata, days and activity of a store that is not deleted; return whether."""
        ...

    async def touch(self, store: str, *, at: int) -> None:
        """Record that a store was used; the time never goes back."""
        ...

    async def delete(self, store: str, *, at: int) -> bool:
        """Mark a store deleted; return whether it was there."""
        ...

    async def due(self, *, now: int) -> Sequence[VectorStoreRow]:
        """Return stores with work, the oldest first: deleted with remains, expired with files, files with work."""
        ...

    async def hold(self, store: str, *, worker: str, now: int, until: int) -> VectorStoreRow | None:
        """Hold a store for `worker` until `until`; None if it has ended or another worker holds it."""
        ...

    async def release(self, store: str, *, worker: str, ended: int = 0) -> None:
        """Release a store that `worker` holds; with `ended`, it has no remains."""
        ...


class VectorStoreFiles(Protocol):
    """The files of the vector stores, and the batches in which they were attached."""

    async def attach(self, rows: Sequence[VectorStoreFileRow]) -> None:
        """Record files. One that is there stays, unless it failed, was cancelled or is being removed."""
        ...

    async def get(self, store: str, files: Collection[str]) -> Mapping[str, VectorStoreFileRow]:
        """Return rows by file id, those being removed too; unknown ids are missing."""
        ...

    async def list(
        self, store: str, window: Window, *, status: str = "", among: Collection[str] | None = None
    ) -> Sequence[VectorStoreFileRow]:
        """Return files of a store that are not being removed, of a status, `among` these."""
        ...

    async def counts(self, store: str, *, among: Collection[str] | None = None) -> Mapping[str, Tally]:
        """Count the files of a store that are not being removed by status, `among` these."""
        ...

    async def working(self, store: str, *, limit: int | None = None) -> Sequence[VectorStoreFileRow]:
        """Return the files of a store with work, oldest first."""
        ...

    async def describe(self, store: str, file: str, attributes: str) -> VectorStoreFileRow | None:
        """Replace the attributes of a file that is not being removed, and return it; a completed one has work then."""
        ...

    async def settle(self, row: VectorStoreFileRow) -> bool:
        """Write status, work, usage, code and error of a file; return False if its revision is another by now."""
        ...

    async def cancel(self, store: str, *, batch: str = "", code: str = "", error: str = "") -> int:
        """Cancel the files of a store, or of a batch, that are in progress, and return how many.

        With a reason they have failed instead. What is indexed of them is deleted later.
        """
        ...

    async def remove(self, store: str, *, file: str = "") -> int:
        """Begin to remove a file, or all files of a store; return how many are being removed that were not before."""
        ...

    async def detach(self, file: str) -> Sequence[str]:
        """Begin to remove a file from every store; return the stores."""
        ...

    async def drop(self, rows: Sequence[VectorStoreFileRow]) -> None:
        """Delete the rows of files that are being removed; those of another revision by now stay."""
        ...

    async def create_batch(self, batch: FileBatchRow) -> None:
        """Record a batch; an existing id changes nothing."""
        ...

    async def batch(self, batch: str) -> FileBatchRow | None:
        """Return a batch, or None."""
        ...

    async def cancel_batch(self, batch: str, *, at: int) -> None:
        """Mark a batch cancelled; the first time counts."""
        ...
