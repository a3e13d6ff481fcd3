"""Lifts what was forgotten: rows may return, and the next run reads their documents again."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from flowbed.errors import Conflict, NotFound, Rejected
from flowbed.index.forgotten import Blocked, change_blocked, read_blocked
from flowbed.ledger import Swap
from flowbed.records.precomputed import precomputed_source

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flowbed.lanes.contexts import Context


async def lift(context: Context, *, ids: Sequence[str], documents: Sequence[str], salt: str) -> int:
    """Let chunks (by id) and documents (DOCUMENT or SOURCE#DOCUMENT) return; return how many were lifted.

    Raises:
        NotFound: one was not forgotten.
        Rejected: nothing was named.
    """
    if not ids and not documents:
        raise Rejected("name what may return: ids of chunks, or --document")
    blocked = await read_blocked(context.store)
    collections = [live.collection for live in await context.collections.all()]
    sources = {*context.sources, *map(precomputed_source, collections)}
    lifted: set[str] = set()
    again: set[tuple[str, str]] = set()  # sources, and the beginning of the documents to read again
    for each in ids:
        found = _digests(blocked, each, collections) & blocked.owners.keys()
        if not found:
            raise NotFound(f"no chunk {each!r} was forgotten")
        lifted |= found
        again |= {(source, each) for source in sources}
    for each in documents:
        source, _, rest = each.partition("#")
        places = {(name, each) for name in sources} | {(source, rest)}
        found_places = {place for place in places if blocked and blocked.document(*place)}
        if not found_places:
            raise NotFound(f"no document {each!r} was forgotten; write it as DOCUMENT or SOURCE#DOCUMENT")
        lifted |= {blocked.of_document(*place) for place in found_places}
        again |= found_places

    def change(before: Blocked) -> Iterable[tuple[str, str]]:
        return [
            (digest, owner)
            for digest, owner in before.owners.items()
            if digest not in lifted and owner not in lifted
        ]

    await change_blocked(context.store, change, salt=salt)
    for source in sorted({source for source, _ in again}):
        await _read_again(context, source, [name for place, name in again if place == source])
    return len({*ids}) + len({*documents})


def _digests(blocked: Blocked, chunk: str, collections: Sequence[str]) -> set[str]:
    """Return the digests that a chunk may be blocked by: a precomputed row is its own document."""
    if not blocked:
        return set()
    return {blocked.of_chunk(name, chunk) for name in collections} | {
        blocked.of_document(precomputed_source(name), chunk) for name in collections
    }


async def _read_again(context: Context, source: str, names: Sequence[str]) -> None:
    """Let the next run list a source from its beginning, and read the documents whose chunks may return."""
    ledger = context.ledger
    while True:
        cursor = await ledger.documents.cursor(source)
        if not cursor.token:
            return
        rows = [
            replace(row, etag="", hash="")
            async for page in ledger.documents.pages(source)
            for row in page
            if any(_is_in(name, source, row.id) for name in names)
        ]
        with contextlib.suppress(Conflict):
            await ledger.documents.swap(Swap(cursor=cursor, value="", documents=rows))
            return


def _is_in(name: str, source: str, document: str) -> bool:
    """Return whether a name is a document's, or the id of one of its chunks."""
    whole = f"{source}#{document}"
    return name in {document, whole} or name.startswith((f"{document}#", f"{whole}#"))
