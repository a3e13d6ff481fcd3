"""Which texts submissions gather, so that no two of them send the same: one item per text."""

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

# Chunks that an item names: the newest, and as many of others. A text of more is gathered as long as one of them waits.
_NAMED = 4
_LIFETIME = 2 * 86_400  # s: a submission is recorded within minutes
_MARK = "q"


class _Text(NamedTuple):
    """Chunks that contain a text, and the item that names them."""

    chunks: tuple[Name, ...]
    there: Mapping[str, Any]


class Texts:
    """The texts that submissions in the making will send."""

    def __init__(self, parts: Parts) -> None:
        """Use the parts of a ledger."""
        self._parts = parts
        self._client = parts.table.client

    async def gather(self, rows: Sequence[ChunkRow]) -> None:
        """Name chunks below their texts, before they enter a submission.

        A chunk is not named where another one of its text waits in a submission: whoever asks about the text finds that
        one. Of two submissions that gather a text at once, at least one is told of the other.
        """
        chunks: dict[str, list[Name]] = {}
        for row in rows:
            some = chunks.setdefault(row.text_hash, [])
            if len(some) < _NAMED:
                some.append((row.collection, row.id))
        moved = {(row.collection, row.id) for row in rows}
        while chunks:
            known = await self._read(chunks)
            waiting = await self._waiting(known, besides=moved)
            statements = {
                text: self._statement(text, named, known.get(text))
                for text, named in chunks.items()
                if text not in waiting and not (text in known and set(named) & set(known[text].chunks))
            }
            outcomes = await execute(self._client, list(statements.values()))
            chunks = {
                text: chunks[text]
                for text, happened in zip(statements, outcomes, strict=True)
                if not happened  # another process was first, or the answer was lost: look again
            }

    async def gathered(self, hashes: Collection[str], *, besides: Collection[str]) -> frozenset[str]:
        """Return those of the texts that an unrecorded submission, not one of `besides`, gathers."""
        waiting = await self._waiting(await self._read(hashes))
        submissions = {each for some in waiting.values() for each in some}
        known = {row.id for row in await self._parts.submissions.read(submissions)}
        return frozenset(text for text, some in waiting.items() if some - known - set(besides))

    async def _waiting(
        self, texts: Mapping[str, _Text], *, besides: Collection[Name] = ()
    ) -> dict[str, set[str]]:
        """Return for each text the submissions in which a chunk of it waits, other than the chunks `besides`."""
        names = {name: text for text, each in texts.items() for name in each.chunks if name not in besides}
        found: dict[str, set[str]] = {}
        for one in await self._parts.items.read(names):
            row = one.row
            if row.submission and row.status is Status.PENDING and not row.run and row.text_hash in texts:
                found.setdefault(row.text_hash, set()).add(row.submission)
        return found

    async def _read(self, hashes: Iterable[str]) -> dict[str, _Text]:
        keys = [_key(text) for text in sorted(set(hashes))]
        found: dict[str, _Text] = {}
        for some in groups(keys, BATCH_ITEMS):
            for raw in await self._parts.table.raw_many(some):
                chunks = tuple((first, second) for first, second in unpack(raw["ids"]["B"]))
                found[raw[PARTITION]["S"][2:]] = _Text(chunks, raw)
        return found

    def _statement(self, text: str, chunks: Sequence[Name], known: _Text | None) -> dict[str, Any]:
        table = self._client.place.table
        # The others may be about to wait, too.
        others = known.chunks[:_NAMED] if known else ()
        item = {
            **key_of(_key(text)),
            "ids": {"B": pack([*chunks, *others])},
            _MARK: {"S": self._parts.table.mark()},
            **self._parts.table.expiring(_LIFETIME),
        }
        if known is None:
            return insert(table, item)
        return update(table, _key(text), before=known.there, after=item, mark=_MARK)


def _key(text: str) -> tuple[str, str]:
    return f"T#{text}", "-"
