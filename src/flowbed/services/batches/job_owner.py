"""For whom jobs are done: the owner of each, asked after for as long as the work lasts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.records.serving import Caller

if TYPE_CHECKING:
    from flowbed.ledger import KeyRow, Keys


class Owner:
    """The owner of one job: a key, or whoever asks where none is needed."""

    def __init__(self, keys: Keys, id: str) -> None:  # noqa: A002 - the record's own field
        """Take the ledger's rows, and the id of the key, or empty."""
        self._keys, self._id = keys, id
        self._hash = ""  # by which one row is read, and not all of them

    async def caller(self) -> Caller | None:
        """Tell who asks for the lines; None where the key is revoked, or not known any more.

        Raises:
            Transient: the ledger cannot be reached.
        """
        if not self._id:
            return Caller(name="anyone", admin=True, background=True)
        key = await self._key()
        if key is None or key.revoked:
            return None
        self._hash = key.hash
        return Caller(
            key=key.id,
            name=key.name,
            tier=key.tier,
            admin=key.admin,
            models=frozenset(key.models),
            background=True,
        )

    async def _key(self) -> KeyRow | None:
        if self._hash:
            return await self._keys.find(self._hash)
        return next((key for key in await self._keys.all() if key.id == self._id), None)
