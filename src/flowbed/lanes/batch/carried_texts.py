"""Which texts live submissions carry: none is paid for again, whatever becomes of the chunks it was sent for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.errors import NotFound
from flowbed.lanes.batch.input import texts_key

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from flowbed.ledger import Ledger
    from flowbed.records import Space
    from flowbed.storage import Store

HASH = 32  # bytes of a text_hash
KNOWN = 16  # bytes of it that are kept in memory: enough that no two texts of one ledger share them


class CarriedTexts:
    """The texts of all live submissions of one space: about 110 bytes each, so 110 MB for a million texts."""

    def __init__(self, store: Store, ledger: Ledger, space: Space) -> None:
        """Know of none yet."""
        self._store, self._ledger = store, ledger
        self._space = space.to_json()
        self._owners: dict[bytes, str] = {}
        self._names: set[str] = set()

    @property
    def names(self) -> Collection[str]:
        """The ids of the live submissions, as of the last `refresh`."""
        return self._names

    async def refresh(self) -> None:
        """Read the submissions recorded since, and forget those that have ended."""
        pages = self._ledger.submissions.pages(live=True)
        await self.keep([row.id async for page in pages for row in page if row.space == self._space])

    async def keep(self, live: Sequence[str]) -> None:
        """Make `live` the submissions that are known."""
        if self._names - set(live):  # a text of one that ended may also be carried by another
            self._names, self._owners = set(), {}
        for name in live:
            if name not in self._names:
                for key in await self._read(name):
                    self._owners.setdefault(key, name)
                self._names.add(name)

    def find(self, hashes: Collection[str]) -> Mapping[str, str]:
        """Return the submission that carries each of the texts; those that none carries are absent."""
        if not self._owners:
            return {}
        found = ((name, self._owners.get(bytes.fromhex(name[: 2 * KNOWN]))) for name in hashes)
        return {name: owner for name, owner in found if owner is not None}

    async def _read(self, submission: str) -> list[bytes]:
        try:
            body = (await self._store.get(texts_key(submission))).body
        except NotFound:
            # Another version may have written it without its texts. The ledger still says which chunks it carries.
            return []
        return [body[start : start + KNOWN] for start in range(0, len(body), HASH)]
