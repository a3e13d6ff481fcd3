"""What the files of every ledger must do."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from flowbed.testing.ledger.rows import LATE, file, settle

if TYPE_CHECKING:
    from flowbed.ledger import Ledger


class FilesContract:
    """Tests of `Files`."""

    async def test_create_again_changes_nothing(self, ledger: Ledger) -> None:
        """A file is returned as recorded, with any characters in its name; recording its id again changes nothing."""
        row = file(filename="a\0b ü.jsonl", expires=5)
        await ledger.files.create(row)
        await ledger.files.create(replace(row, owner="another", bytes=1))
        kept = replace(row, filename="a\\u0000b ü.jsonl")
        assert await ledger.files.get("file-1") == kept
        assert await listed(ledger, "o") == ["file-1"]
        assert await listed(ledger, "another") == []
        assert await ledger.files.get("file-2") is None

    async def test_list_is_per_owner(self, ledger: Ledger) -> None:
        """Each owner's files are listed, and no others; files without a key have an owner too."""
        for id_, owner in (("a", "o"), ("b", ""), ("c", "p")):
            await ledger.files.create(file(id_, owner=owner))
        assert await listed(ledger, "o") == ["a"]
        assert await listed(ledger, "") == ["b"]
        assert await listed(ledger, "nobody") == []

    async def test_list_orders_by_time_and_id(self, ledger: Ledger) -> None:
        """Files are listed by time and then id, in either direction, up to a limit."""
        at = file().created
        for id_, created in (("d", at), ("b", at + 2), ("a", at + 2), ("c", at + 1)):
            await ledger.files.create(file(id_, created=created))
        assert await listed(ledger, "o") == ["d", "c", "a", "b"]
        assert await listed(ledger, "o", descending=True) == ["b", "a", "c", "d"]
        assert await listed(ledger, "o", limit=3) == ["d", "c", "a"]
        assert await listed(ledger, "o", limit=1, descending=True) == ["b"]

    async def test_list_continues_after_a_file(self, ledger: Ledger) -> None:
        """A listing continues after a file, without it; after an unknown file or another owner's it is empty."""
        at = file().created
        for id_, created in (("d", at), ("b", at + 2), ("a", at + 2), ("c", at + 1)):
            await ledger.files.create(file(id_, created=created))
        await ledger.files.create(file("other", owner="p", created=at - 1))
        assert await listed(ledger, "o", after="c") == ["a", "b"]
        assert await listed(ledger, "o", after="a") == ["b"]
        assert await listed(ledger, "o", after="a", descending=True) == ["c", "d"]
        assert await listed(ledger, "o", after="b", limit=2, descending=True) == ["a", "c"]
        for unknown in ("unknown", "other", "odd\0"):
            assert await listed(ledger, "o", after=unknown) == []

    async def test_list_filters_by_purpose(self, ledger: Ledger) -> None:
        """With a purpose, only its files are listed, and the limit counts only these."""
        at = file().created
        for number, purpose in enumerate(["batch", "batch_output", "batch", "batch_output"]):
            await ledger.files.create(file(f"f{number}", created=at + number, purpose=purpose))
        assert await listed(ledger, "o", purpose="batch_output", limit=2) == ["f1", "f3"]
        assert await listed(ledger, "o", purpose="batch_output", after="f2") == ["f3"]
        assert await listed(ledger, "o", purpose="batch", descending=True) == ["f2", "f0"]
        for none in ("vision", "odd\0"):
            assert await listed(ledger, "o", purpose=none) == []

    async def test_list_leaves_out_expired_files(self, ledger: Ledger) -> None:
        """With a given time, expired files are neither listed nor counted by the limit."""
        at = file().created
        for number, expires in enumerate([0, at + 30, at + 10, 0, at + 20]):
            await ledger.files.create(file(f"f{number}", created=at + number, expires=expires))
        assert await listed(ledger, "o") == ["f0", "f1", "f2", "f3", "f4"]
        assert await listed(ledger, "o", now=at + 10) == ["f0", "f1", "f3", "f4"]
        assert await listed(ledger, "o", now=at + 20, limit=2, descending=True) == ["f3", "f1"]
        assert await listed(ledger, "o", now=at + 20, limit=1, after="f1") == ["f3"]
        assert await listed(ledger, "o", now=LATE, limit=1, after="f2") == ["f3"]
        assert await listed(ledger, "o", now=LATE) == ["f0", "f3"]

    async def test_stored_sums_bytes_of_owner(self, ledger: Ledger) -> None:
        """The bytes and the number of an owner's files are those of all that have not expired."""
        at = file().created
        assert await ledger.files.count("o", now=at) == 0
        assert await ledger.files.stored("o", now=at) == 0
        for id_, owner, expires in (("a", "o", 0), ("b", "o", at + 10), ("c", "", 0), ("d", "o", at + 20)):
            await ledger.files.create(file(id_, owner=owner, expires=expires))
        each = file().bytes
        assert await ledger.files.stored("o", now=at) == 3 * each
        assert await ledger.files.count("o", now=at) == 3
        assert await ledger.files.count("o", now=at + 10) == 2
        assert await ledger.files.count("", now=LATE) == 1
        assert await ledger.files.stored("o", now=at + 10) == 2 * each
        assert await ledger.files.stored("", now=LATE) == each
        await ledger.files.remove("a")
        assert await ledger.files.stored("o", now=at + 10) == each
        assert await ledger.files.stored("o", now=LATE) == 0

    async def test_list_returns_up_to_the_limit(self, ledger: Ledger) -> None:
        """One listing returns as many files as requested."""
        names = [f"f{number:04d}" for number in range(300)]
        for name in reversed(names):
            await ledger.files.create(file(name))
        assert await listed(ledger, "o", limit=10_000) == names

    async def test_remove_succeeds_once(self, ledger: Ledger) -> None:
        """A removed file is gone everywhere; if several workers remove it, one succeeds; other files stay."""
        await ledger.files.create(file(expires=5))
        await ledger.files.create(file("file-2"))
        assert sum(await asyncio.gather(*(ledger.files.remove("file-1") for _ in range(4)))) == 1
        assert await ledger.files.get("file-1") is None
        assert await listed(ledger, "o") == ["file-2"]
        assert await listed(ledger, "o", after="file-1") == []
        await settle(ledger)
        assert await ledger.files.expired(now=LATE, limit=9) == []
        for unknown in ("file-1", "odd\0"):
            assert not await ledger.files.remove(unknown)

    async def test_expired_finds_files_of_all_owners(self, ledger: Ledger) -> None:
        """Expired files of all owners are found, the oldest first, up to a limit; files without expiry never."""
        for id_, owner, expires in (("a", "o", 30), ("b", "p", 10), ("c", "", 20), ("d", "o", 0)):
            await ledger.files.create(file(id_, owner=owner, expires=expires))
        await settle(ledger)
        assert await ledger.files.expired(now=9, limit=9) == []
        assert [row.id for row in await ledger.files.expired(now=10, limit=9)] == ["b"]
        assert [row.id for row in await ledger.files.expired(now=LATE, limit=2)] == ["b", "c"]
        assert len(await ledger.files.expired(now=LATE, limit=9)) == 3
        await ledger.files.remove("b")
        assert [row.id for row in await ledger.files.expired(now=LATE, limit=9)] == ["c", "a"]


async def listed(
    ledger: Ledger,
    owner: str,
    *,
    purpose: str | None = None,
    after: str | None = None,
    limit: int = 20,
    descending: bool = False,
    now: int = 0,
) -> list[str]:
    """List the ids of an owner's files."""
    rows = await ledger.files.list(
        owner, purpose=purpose, after=after, limit=limit, descending=descending, now=now
    )
    assert {row.owner for row in rows} <= {owner}
    return [row.id for row in rows]
