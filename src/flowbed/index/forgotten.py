"""Which rows were forgotten and must not return: keyed digests in one small object, which name nobody by themselves.

forgotten/blocked.json     {"salt": ..., "blocked": {digest: the digest of what it was forgotten with, or ""},
                            "by": {digest: the id of the request}, "at": {the id of a request: µs since 1970}}
"""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flowbed.errors import Conflict, Damaged, NotFound
from flowbed.records import canonical

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from flowbed.storage import Store

FOLDER = "forgotten"
KEY = f"{FOLDER}/blocked.json"
DIGITS = 32  # hex digits of a digest: 128 bits, so that no two of any number of rows agree


@dataclass(frozen=True, kw_only=True)
class Blocked:
    """The documents and chunks that must not return.

    A document is named by source and id, a chunk by collection and id. A passage is the text of a forgotten chunk in
    its document, where an edit could give it the id of another chunk. `by` says which request blocked a digest, and
    `at` when that was (µs since 1970).
    """

    salt: str = ""
    owners: Mapping[str, str] = field(default_factory=dict)
    by: Mapping[str, str] = field(default_factory=dict)
    at: Mapping[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Return whether anything is blocked."""
        return bool(self.owners)

    def document(self, source: str, document: str) -> bool:
        """Return whether a document is blocked."""
        return self.of_document(source, document) in self.owners

    def chunk(self, collection: str, chunk: str) -> bool:
        """Return whether a chunk is blocked."""
        return self.of_chunk(collection, chunk) in self.owners

    def passage(self, source: str, document: str, text_hash: str) -> bool:
        """Return whether a text is blocked in its document."""
        return self.of_passage(source, document, text_hash) in self.owners

    def of_document(self, source: str, document: str) -> str:
        """Return the digest of a document."""
        return self._digest("document", source, document)

    def of_chunk(self, collection: str, chunk: str) -> str:
        """Return the digest of a chunk."""
        return self._digest("chunk", collection, chunk)

    def of_passage(self, source: str, document: str, text_hash: str) -> str:
        """Return the digest of a text in its document."""
        return self._digest("passage", source, document, text_hash)

    def _digest(self, *names: str) -> str:
        return hmac.digest(bytes.fromhex(self.salt), canonical(names), "sha256").hex()[:DIGITS]


async def read_blocked(store: Store) -> Blocked:
    """Read what must not return; nothing if nothing was ever forgotten.

    Raises:
        Damaged: the list cannot be read, so that nobody knows what was forgotten.
    """
    try:
        body = (await store.get(KEY)).body
    except NotFound:
        return Blocked()
    return _parsed(body)


async def change_blocked(
    store: Store,
    change: Callable[[Blocked], Iterable[tuple[str, str]]],
    *,
    salt: str,
    request: str = "",
    now: int = 0,
) -> Blocked:
    """Replace what must not return by what `change` makes of it: digests, each with that of its owner or "".

    New digests are noted as those of a `request` (an id), made `now`. `salt` is 64 random hex digits, used if there is
    no list yet.

    Raises:
        Damaged: the list cannot be read.
    """
    while True:
        try:
            stored = await store.get(KEY)
        except NotFound:
            stored = None
        before = Blocked(salt=salt) if stored is None else _parsed(stored.body)
        after = _noted(before, dict(change(before)), request, now)
        if stored is not None and after == before:
            return after
        body = canonical({"salt": after.salt, "blocked": after.owners, "by": after.by, "at": after.at})
        try:
            if stored is None:
                await store.create(KEY, body)
            else:
                await store.replace(KEY, body, etag=stored.etag)
        except Conflict:
            continue
        return after


def _noted(before: Blocked, owners: Mapping[str, str], request: str, now: int) -> Blocked:
    """Return what is blocked after a change, with the requests of the digests that are left and of new ones."""
    by = {digest: before.by[digest] for digest in owners if digest in before.by}
    if request:
        by |= {digest: request for digest in owners if digest not in before.owners}
    known = {request: now} | dict(before.at)
    return Blocked(
        salt=before.salt, owners=owners, by=by, at={each: known[each] for each in set(by.values())}
    )


def _parsed(body: bytes) -> Blocked:
    try:
        said = json.loads(body)
        salt, owners = said["salt"], said["blocked"]
        bytes.fromhex(salt)
        return Blocked(
            salt=salt,
            owners={str(key): str(owner) for key, owner in owners.items()},
            by={str(key): str(request) for key, request in said.get("by", {}).items()},
            at={str(request): int(at) for request, at in said.get("at", {}).items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(
            f"{KEY}, the list of what was forgotten, cannot be read ({error}): restore it from a backup; without it,"
            " forgotten rows could return"
        ) from error
