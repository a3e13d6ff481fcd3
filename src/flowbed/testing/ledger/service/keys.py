"""What the API keys of every ledger must do."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from flowbed.errors import Conflict
from flowbed.testing.ledger.rows import key

if TYPE_CHECKING:
    from flowbed.ledger import KeyRow, Ledger


class KeysContract:
    """Tests of `Keys`."""

    async def test_find_by_hash_of_secret(self, ledger: Ledger) -> None:
        """A key is returned as created, by its hash and in the list; another hash finds nothing."""
        first = key(models=("small", "großes"), admin=True, tier="gold")
        assert not await ledger.keys.exist()
        await ledger.keys.create(first)
        assert await ledger.keys.exist()
        assert await ledger.keys.find(first.hash) == first
        assert await ledger.keys.find("another") is None
        await ledger.keys.create(key("k0", created=2))
        assert await ledger.keys.all() == [first, key("k0", created=2)]

    async def test_create_again_changes_nothing(self, ledger: Ledger) -> None:
        """Creating the same key again changes nothing; another key with its id or hash is refused and not stored."""
        await ledger.keys.create(key())
        await ledger.keys.create(key())
        await raises_conflict(ledger, key(hash="another"))
        await raises_conflict(ledger, key("k2", hash=key().hash))
        assert await ledger.keys.all() == [key()]

    async def test_revoke_keeps_first_time(self, ledger: Ledger) -> None:
        """A revocation is recorded once, with its time, and takes effect at once; an unknown key is not revoked."""
        await ledger.keys.create(key())
        revoked = replace(key(), revoked=5)
        assert await ledger.keys.revoke("k1", at=5) == revoked
        assert await ledger.keys.revoke("k1", at=9) == revoked
        assert await ledger.keys.find(key().hash) == revoked
        assert await ledger.keys.revoke("k9", at=5) is None
        assert await ledger.keys.exist()

    async def test_use_never_goes_back(self, ledger: Ledger) -> None:
        """The last use of each key is recorded, never goes back, and is ignored for unknown keys."""
        await ledger.keys.create(key())
        await ledger.keys.create(key("k2", created=2))
        await ledger.keys.use({"k1": 7, "k2": 8, "k9": 9})
        await ledger.keys.use({"k1": 6})
        await ledger.keys.use({})
        assert await ledger.keys.all() == [key(used=7), key("k2", created=2, used=8)]

    async def test_create_escapes_unstorable_names(self, ledger: Ledger) -> None:
        """A name with characters that ledgers cannot store is stored escaped."""
        await ledger.keys.create(key(name="a\0b"))
        assert [row.name for row in await ledger.keys.all()] == ["a\\u0000b"]


async def raises_conflict(ledger: Ledger, row: KeyRow) -> None:
    """Create a key that must be refused."""
    try:
        await ledger.keys.create(row)
    except Conflict:
        return
    raise AssertionError("a second key of one id or hash was created")
