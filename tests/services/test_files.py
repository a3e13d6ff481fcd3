"""Files of many owners, in a store and a ledger."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from flowbed.errors import NotFound, Rejected
from flowbed.ledger import FileRow
from flowbed.services import files as module
from flowbed.services.files import FileDescription, FileService

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tests.services.conftest import Project


DAY = 86_400


@pytest.fixture
def files(project: Project) -> FileService:
    return FileService(
        project.store, project.ledger.files, clock=project.clock, secret=lambda: f"{project.secret()}x"
    )


async def pieces(*parts: bytes, failure: Exception | None = None) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
    if failure is not None:
        raise failure


async def send(
    files: FileService,
    *parts: bytes,
    owner: str = "",
    purpose: str = "batch",
    seconds: int | None = None,
    most: int | None = None,
) -> FileRow:
    message = FileDescription(purpose=purpose, filename="in.jsonl", seconds=seconds)
    return await files.create(owner, pieces(*parts), described=lambda: message, most=most)


async def stored(project: Project) -> list[str]:
    return [listed.key async for listed in project.store.list("")]


async def read(files: FileService, row: FileRow) -> bytes:
    return b"".join([piece async for piece in files.content(row)])


async def ids(files: FileService, owner: str = "", **how: object) -> tuple[Sequence[str], bool]:
    rows, more = await files.list(owner, **{"limit": 10, "descending": True, **how})  # type: ignore[arg-type]
    return [row.id for row in rows], more


async def test_create_file_keeps_bytes_and_description_until_deleted(
    files: FileService, project: Project
) -> None:
    row = await send(files, b"one", b"", b"two")
    assert await files.get("", row.id) == row
    assert (row.bytes, row.filename, row.purpose) == (6, "in.jsonl", "batch")
    assert await read(files, row) == b"onetwo"
    await files.delete("", row.id)
    assert await stored(project) == []
    with pytest.raises(NotFound):
        await files.get("", row.id)


async def test_file_of_another_owner_is_not_found(files: FileService) -> None:
    row = await send(files, b"mine", owner="me")
    for other in ("", "you"):
        with pytest.raises(NotFound):
            await files.get(other, row.id)
        with pytest.raises(NotFound):
            await files.delete(other, row.id)
        with pytest.raises(NotFound):
            await files.list(other, after=row.id, limit=10, descending=True)
        assert await ids(files, other) == ([], False)
    assert await ids(files, "me") == ([row.id], False)


@pytest.mark.parametrize("id", ["", "file-\0", "file-\ud800", "../x", "x" * 1000])
async def test_get_invalid_id_is_not_found(files: FileService, id: str) -> None:
    with pytest.raises(NotFound):
        await files.get("", id)


async def test_create_file_interrupted_leaves_nothing(files: FileService, project: Project) -> None:
    """The sender's own error is raised."""
    message = FileDescription(purpose="batch", filename="")
    with pytest.raises(ZeroDivisionError):
        await files.create("", pieces(b"x" * 2**20, failure=ZeroDivisionError()), described=lambda: message)
    assert await stored(project) == []
    assert await ids(files) == ([], False)


async def test_create_file_rejected_at_the_end_leaves_nothing(files: FileService, project: Project) -> None:
    def refuse() -> FileDescription:
        raise Rejected("no")

    with pytest.raises(Rejected, match="no"):
        await files.create("", pieces(b"text"), described=refuse)
    assert await stored(project) == []


async def test_create_file_too_large_for_batches_is_refused_for_that_purpose_only(
    files: FileService, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_BYTES", 3)
    with pytest.raises(Rejected, match="has 4 bytes"):
        await send(files, b"four")
    assert await stored(project) == []
    assert (await send(files, b"four", purpose="user_data")).bytes == 4


@pytest.mark.parametrize(
    ("purpose", "message", "kept"),
    [("batch", None, 30 * DAY), ("batch", 3600, 3600), ("user_data", 7200, 7200)],
)
async def test_file_expires_after_its_time_or_30_days_for_batches(
    files: FileService, project: Project, purpose: str, message: int | None, kept: int
) -> None:
    row = await send(files, b"text", purpose=purpose, seconds=message)
    project.now.advance(seconds=kept - 1)
    assert await files.sweep() == 0
    assert await files.get("", row.id) == row
    project.now.advance(seconds=1)
    assert await ids(files) == ([], False)
    with pytest.raises(NotFound):
        await files.get("", row.id)
    assert await files.sweep() == 1
    assert await stored(project) == []


async def test_file_for_other_purposes_does_not_expire_by_default(
    files: FileService, project: Project
) -> None:
    row = await send(files, b"text", purpose="user_data")
    project.now.advance(seconds=10_000 * DAY)
    await files.sweep()
    assert await read(files, await files.get("", row.id)) == b"text"


async def test_sweep_deletes_orphaned_bytes_after_a_day(files: FileService, project: Project) -> None:
    kept = await send(files, b"text", purpose="user_data")
    await project.store.put("files/file-left/content", b"left")
    await project.store.put("elsewhere/left", b"kept")
    (listed,) = [each async for each in project.store.list("files/file-left")]
    project.now.now = listed.modified + DAY * 1_000_000
    assert await files.sweep() == 0
    project.now.advance(seconds=1)
    assert await files.sweep() == 1
    assert sorted(await stored(project)) == ["elsewhere/left", kept.key]


async def test_list_files_pages_in_both_orders_by_purpose(files: FileService, project: Project) -> None:
    sent = []
    for number in range(5):
        project.now.advance(seconds=1)
        purpose = "batch" if number % 2 else "user_data"
        sent.append((await send(files, b"text", purpose=purpose)).id)
    assert await ids(files, limit=2) == (sent[:2:-1], True)
    assert await ids(files, limit=3, after=sent[3]) == (sent[2::-1], False)
    assert await ids(files, limit=3, after=sent[1], descending=False) == (sent[2:], False)
    assert await ids(files, purpose="batch") == ([sent[3], sent[1]], False)


async def test_list_files_expired_ones_do_not_shorten_pages(files: FileService, project: Project) -> None:
    kept = []
    for seconds in (None, 3600, 3600, 3600, None, 3600):
        project.now.advance(seconds=1)
        row = await send(files, b"text", purpose="user_data", seconds=seconds)
        kept += [row.id] if seconds is None else []
    project.now.advance(seconds=3600)
    for order, descending in ((kept, False), (kept[::-1], True)):
        assert await ids(files, limit=1, descending=descending) == (order[:1], True)
        assert await ids(files, limit=1, after=order[0], descending=descending) == (order[1:], False)


async def test_create_file_beyond_the_owners_storage_is_refused(files: FileService, project: Project) -> None:
    """Deleted and expired files free their bytes."""
    first = await send(files, b"four", owner="me", seconds=3600, most=8)
    await send(files, b"many more", owner="you", most=9)
    second = await send(files, b"four", owner="me", most=8)
    before = await stored(project)
    for parts in ((b"x",), (b"five5", b"more"), (b"x" * 9,)):
        with pytest.raises(Rejected, match="may have 8 bytes in total") as refused:
            await send(files, *parts, owner="me", most=8)
        assert (refused.value.param, refused.value.code) == ("file", "storage_limit_exceeded")
    assert await stored(project) == before
    assert (await ids(files, "me"))[0] == [second.id, first.id]
    await files.delete("me", second.id)
    await send(files, b"1", owner="me", most=8)
    project.now.advance(seconds=3600)
    await send(files, b"1234567", owner="me", most=8)


async def test_create_file_stops_reading_at_the_owners_limit(files: FileService, project: Project) -> None:
    read = 0

    async def long() -> AsyncIterator[bytes]:
        nonlocal read
        while read < 100:
            read += 1
            yield b"x" * 1_000

    message = FileDescription(purpose="user_data", filename="")
    with pytest.raises(Rejected):
        await files.create("me", long(), described=lambda: message, most=5_000)
    assert read == 6
    assert await stored(project) == []


async def test_create_file_concurrently_keeps_only_what_fits(files: FileService, project: Project) -> None:
    found = await asyncio.gather(
        *(send(files, b"four", owner="me", most=9) for _ in range(5)), return_exceptions=True
    )
    assert sum(isinstance(each, Rejected) for each in found) == 3
    assert len(await stored(project)) == 2


async def test_write_result_beyond_the_owners_storage_is_kept(files: FileService) -> None:
    """But no further upload is."""
    await files.write("me", id="file-1", filename="out", pieces=pieces(b"many bytes"), expires=0)
    with pytest.raises(Rejected):
        await send(files, b"x", owner="me", most=5)


async def test_write_result_again_leaves_it_unchanged(files: FileService, project: Project) -> None:
    first = await files.write("me", id="file-1", filename="out", pieces=pieces(b"text"), expires=0)
    again = await files.write("me", id="file-1", filename="out", pieces=pieces(b"other"), expires=0)
    assert first == again == await files.get("me", "file-1")
    assert await read(files, again) == b"text"


async def test_create_file_beyond_the_number_of_an_owner_is_refused(
    files: FileService, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Empty files count; deleting one makes room."""
    monkeypatch.setattr(module, "FILES_MOST", 3)
    rows = [await send(files) for _ in range(3)]
    with pytest.raises(Rejected, match="may have 3 files") as refused:
        await send(files)
    assert refused.value.code == "too_many_files"
    assert len(await stored(project)) == 3
    await send(files, owner="other")
    await files.delete("", rows[0].id)
    await send(files)


async def test_create_files_at_once_stay_within_the_number_of_an_owner(
    files: FileService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FILES_MOST", 3)
    found = await asyncio.gather(*(send(files, b"text") for _ in range(9)), return_exceptions=True)
    assert 1 <= sum(isinstance(each, FileRow) for each in found) <= 3
    assert {type(each) for each in found} <= {FileRow, Rejected}


async def test_create_files_at_once_must_fit_together_while_they_arrive(
    files: FileService, project: Project
) -> None:
    """None of them may fill the disk before it is known to be too much."""
    go = asyncio.Event()
    arrived = 0

    async def slowly() -> AsyncIterator[bytes]:
        nonlocal arrived
        yield b"x" * 400
        arrived += 1
        await go.wait()
        yield b"x" * 100

    message = FileDescription(purpose="user_data", filename="a")
    tasks = [
        asyncio.create_task(files.create("", slowly(), described=lambda: message, most=1_000))
        for _ in range(5)
    ]
    async with asyncio.timeout(30):
        while arrived + sum(task.done() for task in tasks) < 5:  # noqa: ASYNC110 - nothing says when
            await asyncio.sleep(0.001)
    assert arrived <= 2
    go.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert {getattr(each, "code", None) for each in found if isinstance(each, Rejected)} == {
        "storage_limit_exceeded"
    }
    assert sum(isinstance(each, FileRow) for each in found) == arrived == len(await stored(project))
