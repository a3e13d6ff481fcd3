"""The owner of a job, looked up again for as long as the job runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.records.serving import Caller

if TYPE_CHECKING:
    from flowbed.ledger import KeyRow, Keys


class JobOwner:
    """The owner of one job: an API key, or anyone where no key is needed."""

    def __init__(self, keys: Keys, id: str) -> None:  # noqa: A002 - the record's own field
        """Use the ledger's keys and the id of the owner's key, or ""."""
        self._keys, self._id = keys, id
        self._hash = ""  # lets later lookups read one row instead of all

    async def caller(self) -> Caller | None:
        """Return the caller for the job's lines, or None if the key is revoked or unknown.

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
