"""What the vector stores of every ledger must do."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flowbed.ledger.vector_stores import (
    DAY,
    FileBatchRow,
    Tally,
    VectorStoreFileRow,
    VectorStoreRow,
    Window,
)
from flowbed.testing.ledger.rows import settle

if TYPE_CHECKING:
    from flowbed.ledger import Ledger

AT = 1_790_000_000_000_000
ALL = Window(limit=100)


def store(id: str = "vs_1", **fields: Any) -> VectorStoreRow:  # noqa: A002 - the record's own field
    """Make a vector store."""
    given: dict[str, Any] = {"id": id, "owner": "o", "name": "", "created": AT, "active": AT}
    return VectorStoreRow(**given | fields)


def attached(file: str = "file-1", **fields: Any) -> VectorStoreFileRow:
    """Make a file of a vector store."""
    given: dict[str, Any] = {
        "store": "vs_1",
        "file": file,
        "filename": "a.txt",
        "key": f"files/{file}",
        "created": AT,
    }
    return VectorStoreFileRow(**given | fields)


async def listed(ledger: Ledger, owner: str = "o", **window: Any) -> list[str]:
    """List the ids of an owner's stores."""
    found = await ledger.vector_stores.list(owner, Window(**{"limit": 100, "descending": False} | window))
    return [row.id for row in found]


async def only(ledger: Ledger, file: str = "file-1", of: str = "vs_1") -> VectorStoreFileRow:
    """Return the row of a file."""
    return (await ledger.vector_store_files.get(of, [file]))[file]


async def done(ledger: Ledger, file: str = "file-1") -> None:
    """Settle a file as completed."""
    row = await only(ledger, file)
    assert await ledger.vector_store_files.settle(replace(row, status="completed", work="", usage=7))


class VectorStoresContract:
    """Tests of `VectorStores` and `VectorStoreFiles`."""

    async def test_create_again_changes_nothing(self, ledger: Ledger) -> None:
        """A store is returned as recorded, with any characters in its name; recording its id again changes nothing."""
        await ledger.vector_stores.create(store(name="a\0b ü", metadata='{"a": "b"}', days=3))
        await ledger.vector_stores.create(store(owner="another"))
        found = await ledger.vector_stores.get("vs_1")
        assert found == store(name="a\\u0000b ü", metadata='{"a": "b"}', days=3)
        assert found.expires() == AT + 3 * DAY
        assert store().expires() == 0
        assert await ledger.vector_stores.get("vs_2") is None
        assert await ledger.vector_stores.get("odd\0") is None

    async def test_list_is_per_owner_in_both_directions(self, ledger: Ledger) -> None:
        """Stores are listed by time and id, after or before one of them; after an unknown one there are none."""
        for id_, at in (("d", 0), ("b", 2), ("a", 2), ("c", 1)):
            await ledger.vector_stores.create(store(id_, created=AT + at))
        await ledger.vector_stores.create(store("other", owner=""))
        assert await listed(ledger) == ["d", "c", "a", "b"]
        assert await listed(ledger, "") == ["other"]
        assert await listed(ledger, descending=True, limit=3) == ["b", "a", "c"]
        assert await listed(ledger, after="c") == ["a", "b"]
        assert await listed(ledger, after="a", descending=True) == ["c", "d"]
        assert await listed(ledger, before="b", limit=2) == ["c", "a"]
        assert await listed(ledger, before="d", descending=True, limit=2) == ["a", "c"]
        assert await listed(ledger, after="d", before="b") == ["c", "a"]
        assert await listed(ledger, after="b", before="d", descending=True) == ["a", "c"]
        for unknown in ("unknown", "other", "odd\0"):
            assert await listed(ledger, after=unknown) == []
            assert await listed(ledger, before=unknown) == []

    async def test_describe_keeps_what_is_not_described(self, ledger: Ledger) -> None:
        """What is said of a store changes, and its owner and holder do not; a deleted one does not change."""
        await ledger.vector_stores.create(store(model="m"))
        await ledger.vector_stores.hold("vs_1", worker="w", now=AT, until=AT + 5)
        changed = store(name="new", metadata="{}", days=4, active=AT + 1)
        assert await ledger.vector_stores.describe(replace(changed, owner="p", model="other", worker=""))
        found = await ledger.vector_stores.get("vs_1")
        assert found == replace(changed, model="m", worker="w", until=AT + 5)
        assert await ledger.vector_stores.delete("vs_1", at=AT + 2)
        assert not await ledger.vector_stores.describe(store(name="newer"))
        assert not await ledger.vector_stores.describe(store("vs_2"))

    async def test_touch_never_goes_back(self, ledger: Ledger) -> None:
        """The time of the last use only grows."""
        await ledger.vector_stores.create(store())
        for at in (AT + 5, AT + 3):
            await ledger.vector_stores.touch("vs_1", at=at)
        await ledger.vector_stores.touch("vs_2", at=AT)
        found = await ledger.vector_stores.get("vs_1")
        assert found is not None
        assert found.active == AT + 5

    async def test_delete_hides_a_store_until_nothing_is_left(self, ledger: Ledger) -> None:
        """A deleted store is listed no more and is due; once ended, its files and batches are gone."""
        await ledger.vector_stores.create(store())
        await ledger.vector_store_files.attach([attached()])
        await ledger.vector_store_files.create_batch(
            FileBatchRow(id="b", store="vs_1", created=AT, files="[]")
        )
        assert await ledger.vector_stores.delete("vs_1", at=AT + 1)
        assert not await ledger.vector_stores.delete("vs_1", at=AT + 2)
        assert not await ledger.vector_stores.delete("vs_2", at=AT)
        assert await listed(ledger) == []
        await settle(ledger)
        assert [row.id for row in await ledger.vector_stores.due(now=AT)] == ["vs_1"]
        assert await ledger.vector_stores.hold("vs_1", worker="w", now=AT, until=AT + 9)
        await ledger.vector_stores.release("vs_1", worker="another", ended=AT + 3)
        assert await ledger.vector_store_files.get("vs_1", ["file-1"])
        await ledger.vector_stores.release("vs_1", worker="w", ended=AT + 3)
        await settle(ledger)
        assert [row.id for row in await ledger.vector_stores.due(now=AT)] == []
        assert await ledger.vector_store_files.get("vs_1", ["file-1"]) == {}
        assert await ledger.vector_store_files.batch("b") is None
        assert await ledger.vector_stores.hold("vs_1", worker="w", now=AT, until=AT + 9) is None

    async def test_due_names_stores_with_work_and_expired_ones(self, ledger: Ledger) -> None:
        """Due are stores with files that have work, and expired ones that have files."""
        for number, days in enumerate((0, 1, 1)):
            await ledger.vector_stores.create(store(f"vs_{number}", days=days, created=AT + number))
        await ledger.vector_store_files.attach([attached(store="vs_0"), attached()])
        await done(ledger)
        await settle(ledger)
        assert [row.id for row in await ledger.vector_stores.due(now=AT)] == ["vs_0"]
        assert [row.id for row in await ledger.vector_stores.due(now=AT + DAY)] == ["vs_0", "vs_1"]

    async def test_hold_excludes_others_until_it_is_released_or_over(self, ledger: Ledger) -> None:
        """One worker holds a store; another may when it is released, or its time is over."""
        await ledger.vector_stores.create(store())
        held = await ledger.vector_stores.hold("vs_1", worker="w", now=AT, until=AT + 5)
        assert held == store(worker="w", until=AT + 5)
        assert await ledger.vector_stores.hold("vs_1", worker="x", now=AT + 4, until=AT + 9) is None
        assert await ledger.vector_stores.hold("vs_1", worker="w", now=AT + 4, until=AT + 6)
        assert await ledger.vector_stores.hold("vs_1", worker="x", now=AT + 7, until=AT + 9)
        await ledger.vector_stores.release("vs_1", worker="w")
        assert await ledger.vector_stores.hold("vs_1", worker="w", now=AT + 8, until=AT + 9) is None
        await ledger.vector_stores.release("vs_1", worker="x")
        assert await ledger.vector_stores.hold("vs_1", worker="w", now=AT + 8, until=AT + 9)

    async def test_attach_again_keeps_what_is_there_unless_it_failed(self, ledger: Ledger) -> None:
        """A file in progress or completed stays; one that failed, was cancelled or is being removed begins again."""
        files = ledger.vector_store_files
        first = attached(attributes='{"a": 1}', batch="b")
        await files.attach([first, attached("file-2")])
        await files.attach([attached(created=AT + 1)])
        assert await only(ledger) == first
        await done(ledger)
        await files.attach([attached(created=AT + 1)])
        assert (await only(ledger)).status == "completed"
        await files.remove("vs_1", file="file-1")
        await files.attach([attached(created=AT + 2)])
        again = await only(ledger)
        assert again == attached(created=AT + 2, revision=again.revision)
        assert again.revision > first.revision
        assert await files.cancel("vs_1") == 2
        await files.attach([attached(created=AT + 3), attached(created=AT + 3, store="vs_2")])
        assert (await only(ledger)).status == "in_progress"
        assert (await only(ledger, "file-2")).status == "cancelled"
        assert (await only(ledger, of="vs_2")).created == AT + 3
        assert await files.get("vs_1", ["unknown", "odd\0"]) == {}

    async def test_list_and_counts_leave_out_what_is_being_removed(self, ledger: Ledger) -> None:
        """Files are listed and counted by status, among some; those being removed are neither."""
        files = ledger.vector_store_files
        await files.attach([attached(f"file-{n}", created=AT + n) for n in range(5)])
        await files.attach([attached("file-9", store="vs_2")])
        await done(ledger, "file-1")
        await done(ledger, "file-2")
        assert await files.remove("vs_1", file="file-4") == 1
        assert await files.remove("vs_1", file="file-4") == 0
        assert await files.remove("vs_1", file="odd\0") == 0
        assert [row.file for row in await files.list("vs_1", ALL)] == ["file-3", "file-2", "file-1", "file-0"]
        window = Window(limit=1, descending=False, after="file-1")
        assert [row.file for row in await files.list("vs_1", window, status="completed")] == ["file-2"]
        some = await files.list("vs_1", ALL, among=["file-0", "file-2", "file-9"])
        assert [row.file for row in some] == ["file-2", "file-0"]
        assert await files.list("vs_1", Window(limit=5, after="file-9")) == []
        assert await files.counts("vs_1") == {"in_progress": Tally(2, 0), "completed": Tally(2, 14)}
        assert await files.counts("vs_1", among=["file-1", "file-9"]) == {"completed": Tally(1, 7)}
        assert await files.counts("vs_3") == {}

    async def test_working_returns_the_oldest_files_with_work(self, ledger: Ledger) -> None:
        """Files with work are returned oldest first, those being removed among them."""
        files = ledger.vector_store_files
        await files.attach([attached(f"file-{n}", created=AT - n) for n in range(4)])
        await done(ledger, "file-3")
        await files.remove("vs_1", file="file-2")
        assert [row.file for row in await files.working("vs_1", limit=2)] == ["file-2", "file-1"]
        assert [row.work for row in await files.working("vs_1")] == ["remove", "attach", "attach"]

    async def test_settle_of_an_older_revision_changes_nothing(self, ledger: Ledger) -> None:
        """What a worker found is not written where the file was changed meanwhile."""
        files = ledger.vector_store_files
        await files.attach([attached()])
        before = await only(ledger)
        changed = await files.describe("vs_1", "file-1", '{"b": 2}')
        assert changed == await only(ledger) == replace(before, attributes='{"b": 2}', revision=1)
        assert not await files.settle(replace(before, status="completed", work=""))
        assert await files.settle(
            replace(changed, status="failed", work="clean", code="invalid_file", error="why\0")
        )
        assert (await only(ledger)).error == "why\\u0000"
        await files.settle(replace(changed, status="completed", work=""))
        updated = await files.describe("vs_1", "file-1", "{}")
        assert updated is not None
        assert (updated.status, updated.work) == ("completed", "update")
        await files.remove("vs_1", file="file-1")
        assert await files.describe("vs_1", "file-1", "{}") is None
        assert await files.describe("vs_1", "unknown", "{}") is None

    async def test_cancel_ends_what_is_in_progress(self, ledger: Ledger) -> None:
        """The files of a batch that are in progress are cancelled, or fail with a reason; others stay."""
        files = ledger.vector_store_files
        await files.attach([attached("file-1", batch="b"), attached("file-2", batch="b")])
        await files.attach([attached("file-3", batch="c"), attached("file-4")])
        await done(ledger)
        assert await files.cancel("vs_1", batch="b") == 1
        assert await files.cancel("vs_1", batch="b") == 0
        assert {file: (await only(ledger, f"file-{file}")).status for file in range(1, 5)} == {
            1: "completed",
            2: "cancelled",
            3: "in_progress",
            4: "in_progress",
        }
        assert (await only(ledger, "file-2")).work == "clean"
        assert await files.cancel("vs_1", code="server_error", error="revoked") == 2
        row = await only(ledger, "file-4")
        assert (row.status, row.code, row.error) == ("failed", "server_error", "revoked")

    async def test_detach_removes_a_file_from_every_store(self, ledger: Ledger) -> None:
        """A file is removed from each store; its row goes when its worker drops it, unless it was attached again."""
        files = ledger.vector_store_files
        await files.attach([attached(), attached("file-2"), attached(store="vs_2")])
        await settle(ledger)
        assert list(await files.detach("file-1")) == ["vs_1", "vs_2"]
        assert list(await files.detach("file-1")) == []
        rows = [await only(ledger, of=each) for each in ("vs_1", "vs_2")]
        assert {row.work for row in rows} == {"remove"}
        await files.attach([attached(store="vs_2")])
        await files.drop([*rows, await only(ledger, "file-2")])
        assert await files.get("vs_1", ["file-1"]) == {}
        assert (await only(ledger, of="vs_2")).work == "attach"
        assert (await only(ledger, "file-2")).work == "attach"
        assert await files.remove("vs_1") == 1

    async def test_batch_is_cancelled_once(self, ledger: Ledger) -> None:
        """A batch is returned as recorded; the first time of its cancellation counts."""
        files = ledger.vector_store_files
        row = FileBatchRow(id="b", store="vs_1", created=AT, files='["file-1"]')
        await files.create_batch(row)
        await files.create_batch(replace(row, files="[]"))
        assert await files.batch("b") == row
        for at in (AT + 1, AT + 2):
            await files.cancel_batch("b", at=at)
        assert await files.batch("b") == replace(row, cancelled=AT + 1)
        assert await files.batch("c") is None
        assert await files.batch("odd\0") is None
