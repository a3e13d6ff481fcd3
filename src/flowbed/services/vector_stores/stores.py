"""Vector stores as their owners see them; `processing` does what takes time."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import orjson

from flowbed.errors import NotFound, Rejected
from flowbed.ledger.vector_stores import CANCELLED, COMPLETED, FAILED, IN_PROGRESS, VectorStoreRow
from flowbed.records.names import new_store_id
from flowbed.services.files import IDS
from flowbed.services.jobs.requests import KeyReused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flowbed.ledger.vector_stores import Tally, VectorStoreFiles, VectorStores, Window

Row = TypeVar("Row")

# µs between two records of the same store's use: a store that is searched all the time is not written all the time.
TOUCHED_US = 60_000_000


class Counts(NamedTuple):
    """How many files of a store or a batch are in each state, and the bytes of their texts and vectors."""

    in_progress: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    usage: int = 0

    @property
    def total(self) -> int:
        """Count all files."""
        return self.in_progress + self.completed + self.failed + self.cancelled


def counted(tallies: Mapping[str, Tally]) -> Counts:
    """Sum what the ledger counted by status."""
    files = {status: tally.files for status, tally in tallies.items()}
    return Counts(
        in_progress=files.get(IN_PROGRESS, 0),
        completed=files.get(COMPLETED, 0),
        failed=files.get(FAILED, 0),
        cancelled=files.get(CANCELLED, 0),
        usage=sum(tally.usage for tally in tallies.values()),
    )


@dataclass(frozen=True, kw_only=True)
class StoreDescription:
    """What a caller says of a store; `days` without use until it expires, 0 for never."""

    name: str = ""
    description: str = ""
    metadata: Mapping[str, str] | None = None
    days: int = 0


@dataclass(frozen=True, kw_only=True)
class StoreChange:
    """What a caller changes of a store; None stays."""

    name: str | None = None
    metadata: Mapping[str, str] | None = None
    days: int | None = None


class StoreService:
    """Stores of many owners; an owner is the id of an API key, or ""."""

    def __init__(
        self,
        rows: VectorStores,
        files: VectorStoreFiles,
        *,
        clock: Callable[[], int],
        secret: Callable[[], str],
        models: frozenset[str],
        model: str,
        tell: Callable[[str], None],
    ) -> None:
        """Keep stores in the ledger; `clock` returns µs since 1970, `secret` 32 random bytes as text.

        `tell` hears of stores that have new work.

        Stores are embedded with `model`, which callers may name as any of `models`.
        """
        self._rows, self._files = rows, files
        self._clock, self._secret = clock, secret
        self._models, self._model = models, model
        self.tell = tell

    async def create(
        self, owner: str, said: StoreDescription, *, model: str | None = None, request: str = ""
    ) -> VectorStoreRow:
        """Create a store. With an idempotency key `request`, the same request later returns the same store.

        Raises:
            Rejected: stores cannot be of that model.
            KeyReused: the key was used for another request.
        """
        self._require_model(model or (said.metadata or {}).get("embedding_model"))
        now = self._clock()
        digest = hashlib.sha256(
            orjson.dumps([said.name, said.description, said.metadata, said.days, model])
        ).hexdigest()
        row = VectorStoreRow(
            id=new_store_id(f"{owner}\n{request}" if request else self._secret()),
            owner=owner,
            name=said.name,
            description=said.description,
            metadata=_json(said.metadata),
            days=said.days,
            model=self._model,
            request=digest if request else "",
            created=now,
            active=now,
        )
        await self._rows.create(row)
        kept = await self._rows.get(row.id)
        if kept is None or kept.request != row.request or kept.deleted:
            raise KeyReused(
                "This Idempotency-Key was used for another request, or for a store that was deleted since: send another"
                " key.",
                param="Idempotency-Key",
                code="idempotency_key_reused",
            )
        return kept

    async def get(self, owner: str, id: str) -> VectorStoreRow:  # noqa: A002 - the record's own field
        """Return a store.

        Raises:
            NotFound: the owner has no store of that id.
        """
        row = await self._rows.get(id) if IDS.fullmatch(id) else None
        if row is None or row.owner != owner or row.deleted:
            raise NotFound(f"No vector store found with id '{id}'.", param="vector_store_id")
        return row

    def is_expired(self, row: VectorStoreRow) -> bool:
        """Tell whether a store has not been used for as long as its owner said."""
        return 0 < row.expires() <= self._clock()

    async def counts(self, row: VectorStoreRow) -> Counts:
        """Count the files of a store."""
        return counted(await self._files.counts(row.id))

    async def list(self, owner: str, window: Window) -> tuple[Sequence[VectorStoreRow], bool]:
        """List stores of an owner by creation time, and tell whether more follow.

        Raises:
            NotFound: the store after, or before, which to list does not exist.
        """
        for cursor in (window.after, window.before):
            if cursor is not None:
                await self.get(owner, cursor)
        rows = await self._rows.list(owner, replace(window, limit=window.limit + 1))
        return cut(rows, window)

    async def update(self, owner: str, id: str, change: StoreChange) -> VectorStoreRow:  # noqa: A002
        """Change what is said of a store.

        Raises:
            NotFound: the owner has no store of that id.
        """
        row = await self.get(owner, id)
        changed = replace(
            row,
            name=row.name if change.name is None else change.name,
            metadata=row.metadata if change.metadata is None else _json(change.metadata),
            days=row.days if change.days is None else change.days,
            active=self._clock(),
        )
        if not await self._rows.describe(changed):
            return await self.get(owner, id)  # deleted meanwhile
        return changed

    async def delete(self, owner: str, id: str) -> None:  # noqa: A002
        """Delete a store: it is gone at once, and what it held soon after. Its files stay.

        Raises:
            NotFound: the owner has no store of that id.
        """
        row = await self.get(owner, id)
        await self._rows.delete(row.id, at=self._clock())
        self.tell(row.id)

    async def touch(self, row: VectorStoreRow) -> None:
        """Record that a store was used, at most once a minute."""
        now = self._clock()
        if now - row.active >= TOUCHED_US:
            await self._rows.touch(row.id, at=now)

    def _require_model(self, model: str | None) -> None:
        if model is not None and model not in self._models:
            raise Rejected(
                f"Vector stores of this server are embedded with {self._model}; leave embedding_model out, or name"
                " that model.",
                param="embedding_model",
                code="model_not_found",
            )


def cut(rows: Sequence[Row], window: Window) -> tuple[Sequence[Row], bool]:
    """Leave out the row that was read to see whether there are more."""
    if len(rows) <= window.limit:
        return rows, False
    backwards = window.before is not None and window.after is None
    return (rows[1:] if backwards else rows[: window.limit]), True


def _json(metadata: Mapping[str, str] | None) -> str:
    return orjson.dumps(dict(metadata or {})).decode()
