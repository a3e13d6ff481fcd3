"""Which submission gathers which text, so that no two of them send the same: one item per text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from flowbed.ledger.dynamodb.packing import pack, unpack
from flowbed.ledger.dynamodb.statements import execute, insert, update
from flowbed.ledger.dynamodb.table import PARTITION, key_of
from flowbed.ledger.items.table import BATCH_ITEMS, groups
from flowbed.records import Status

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from flowbed.ledger import ChunkRow
    from flowbed.ledger.dynamodb.chunks.parts import Parts
    from flowbed.ledger.dynamodb.packing import Name

# Chunks that an item names. A text of more is gathered as long as one of these is in the submission.
_NAMED = 8
_MICROSECONDS, _LIFETIME = 1_000_000, 2 * 86_400  # s: a submission is recorded within minutes
_MARK = "q"


class _Held(NamedTuple):
    """The submission that gathers a text, chunks that contain it, and the item."""

    submission: str
    chunks: tuple[Name, ...]
    there: Mapping[str, Any]


class Texts:
    """The texts that submissions in the making will send."""

    def __init__(self, parts: Parts) -> None:
        """Use the parts of a ledger."""
        self._parts = parts
        self._client = parts.table.client

    async def gather(self, submission: str, rows: Sequence[ChunkRow], *, until: int) -> None:
        """Record that a submission gathers the texts of chunks, unless another one does.

        A text stays with the submission that has it, as long as that is live, or not recorded yet and a chunk of it
        waits there: of two that gather a text at once, only one is told that the other does.
        """
        chunks: dict[str, list[Name]] = {}
        for row in rows:
            some = chunks.setdefault(row.text_hash, [])
            if len(some) < _NAMED:
                some.append((row.collection, row.id))
        while chunks:
            held = await self._read(chunks)
            busy = {each.submission for each in held.values()} - {submission}
            live = await self._parts.submissions.live(busy)
            gathering = await self._gathering([each for each in held.values() if each.submission in busy])
            wanted = {
                text: some
                for text, some in chunks.items()
                if text not in gathering and (text not in held or held[text].submission not in live)
            }
            added = {text: _added(held.get(text), submission, some) for text, some in wanted.items()}
            statements = {
                text: self._statement(text, submission, named, held.get(text), until)
                for text, named in added.items()
                if named is not None
            }
            outcomes = await execute(self._client, list(statements.values()))
            chunks = {
                text: chunks[text]
                for text, happened in zip(statements, outcomes, strict=True)
                if not happened  # another process was first, or the answer was lost: look again
            }

    async def gathered(self, hashes: Collection[str], *, besides: Collection[str]) -> frozenset[str]:
        """Return those of the texts that an unrecorded submission, not one of `besides`, gathers."""
        held = await self._read(hashes)
        return frozenset(
            await self._gathering([each for each in held.values() if each.submission not in besides])
        )

    async def _gathering(self, held: Collection[_Held]) -> set[str]:
        """Return the texts that wait in a submission which is not recorded yet."""
        stored = await self._parts.items.read(name for each in held for name in each.chunks)
        waiting: dict[str, set[str]] = {}
        for one in stored:
            row = one.row
            if row.submission and row.status is Status.PENDING and not row.run:
                waiting.setdefault(row.text_hash, set()).add(row.submission)
        known = {row.id for row in await self._parts.submissions.read({each.submission for each in held})}
        return {
            _text_of(each)
            for each in held
            if each.submission not in known and each.submission in waiting.get(_text_of(each), ())
        }

    async def _read(self, hashes: Iterable[str]) -> dict[str, _Held]:
        keys = [_key(text) for text in sorted(set(hashes))]
        found: dict[str, _Held] = {}
        for some in groups(keys, BATCH_ITEMS):
            for raw in await self._parts.table.raw_many(some):
                held = _Held(raw["m"]["S"], tuple(map(tuple, unpack(raw["ids"]["B"]))), raw)
                found[_text_of(held)] = held
        return found

    def _statement(
        self, text: str, submission: str, chunks: Sequence[Name], held: _Held | None, until: int
    ) -> dict[str, Any]:
        table = self._client.place.table
        item = {
            **key_of(_key(text)),
            "m": {"S": submission},
            "ids": {"B": pack(chunks)},
            _MARK: {"S": self._parts.table.mark()},
            "ttl": {"N": str(until // _MICROSECONDS + _LIFETIME)},
        }
        if held is None:
            return insert(table, item)
        return update(table, _key(text), before=held.there, after=item, mark=_MARK)


def _added(held: _Held | None, submission: str, chunks: Sequence[Name]) -> Sequence[Name] | None:
    """Return the chunks to name; None if they are named already, or enough others are."""
    if held is None or held.submission != submission:
        return chunks
    missing = [each for each in chunks if each not in held.chunks]
    return [*held.chunks, *missing][:_NAMED] if missing and len(held.chunks) < _NAMED else None


def _key(text: str) -> tuple[str, str]:
    return f"T#{text}", "-"


def _text_of(held: _Held) -> str:
    text: str = held.there[PARTITION]["S"]
    return text[2:]
