"""Archives and directories that nobody vouches for are refused with a reason, and write nothing outside."""

from __future__ import annotations

import asyncio
import gzip
import io
import os
import shutil
import sqlite3
import struct
import tarfile
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.processes.preloaded import use_own
from tests.support.servers.chroma import archive, write_chroma

from flowbed.errors import Rejected
from flowbed.publish.reading.child import Job
from flowbed.publish.reading.directory import ChromaDirectory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Spoil = Callable[[Path], None]
    Build = Callable[[tarfile.TarFile, Path], None]

MEGABYTE = 2**20
# What hostile archives try to write.
ESCAPED = Path(tempfile.gettempdir()) / "flowbed-escaped"
LIMITS: Mapping[str, Any] = {"most_bytes": 32 * MEGABYTE, "memory_bytes": 1536 * MEGABYTE, "seconds": 60}


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Chroma directory with a vector segment on disk; to be copied, not changed."""
    folder = tmp_path_factory.mktemp("good") / "chroma"
    return write_chroma(folder, "lines", [f"row-{number}" for number in range(1_100)])


async def read(scratch: Path, body: bytes | None, **limits: Any) -> int:
    """Read a delta as `flowbed deltas add` does; return how many rows it has."""
    inside = scratch / "unpacked"
    inside.mkdir(exist_ok=True)
    if body is not None:
        (scratch / "delta.tar.gz").write_bytes(body)
    job = Job(
        folder=str(inside),
        archive=str(scratch / "delta.tar.gz") if body is not None else "",
        **{**LIMITS, **limits},
    )
    rows = 0
    async for page in ChromaDirectory(job=job, scratch=scratch).pages():
        rows += len(page.ids)
    return rows


def packed(build: Build, good: Path) -> bytes:
    """Pack what `build` adds to an archive that has the good directory too."""
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w:gz", compresslevel=1) as members:
        build(members, good)
        members.add(good, arcname=".")
    return body.getvalue()


def member(name: str, content: bytes = b"x", **fields: Any) -> Build:
    """Add a member with these fields of its header."""

    def build(members: tarfile.TarFile, _: Path) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(content) if fields.get("type", tarfile.REGTYPE) == tarfile.REGTYPE else 0
        for key, value in fields.items():
            setattr(info, key, value)
        members.addfile(info, io.BytesIO(content))

    return build


def many(members: tarfile.TarFile, _: Path) -> None:
    for number in range(2_100):
        member(f"segment-{number}/length.bin")(members, _)


def twice(members: tarfile.TarFile, good: Path) -> None:
    members.add(good / "chroma.sqlite3", arcname="./chroma.sqlite3")


def second_database(members: tarfile.TarFile, good: Path) -> None:
    members.add(good / "chroma.sqlite3", arcname="other/chroma.sqlite3")


def zeros(members: tarfile.TarFile, _: Path) -> None:
    member("bomb/data_level0.bin", bytes(64 * MEGABYTE))(members, _)


ARCHIVES: Mapping[str, tuple[Build, str]] = {
    "absolute path": (member(str(ESCAPED)), "absolute path"),
    "parent path": (member("../escaped"), "parent folder"),
    "parent path inside": (member("a/../../escaped"), "parent folder"),
    "parent path of a wanted file": (member("../../chroma.sqlite3"), "parent folder"),
    "backslashes": (member("..\\..\\escaped"), "characters that no delta needs"),
    "drive letter": (member("C:escaped"), "characters that no delta needs"),
    "control character": (member("a\nb"), "characters that no delta needs"),
    "bytes that are no Unicode": (member("a\udcff"), "not valid Unicode"),
    "name too long": (member(f"{'a' * 300}/length.bin"), "too long"),
    "folders too deep": (member("a/" * 40 + "length.bin"), "too long"),
    "symbolic link": (member("link", type=tarfile.SYMTYPE, linkname="/etc"), "a link to '/etc'"),
    "symbolic link of a wanted name": (
        member("chroma.sqlite3", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        "a link to",
    ),
    "hard link": (member("link", type=tarfile.LNKTYPE, linkname="chroma.sqlite3"), "a link to"),
    "character device": (member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3), "a device"),
    "block device": (member("disk", type=tarfile.BLKTYPE, devmajor=8), "a device"),
    "named pipe": (member("pipe", type=tarfile.FIFOTYPE), "a device or a pipe"),
    "contiguous file": (member("odd", type=tarfile.CONTTYPE), "of the unknown type"),
    "unknown type": (member("odd", type=b"Z"), "of the unknown type"),
    "sparse file": (
        member("data_level0.bin", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}),
        "sparse|not a whole",
    ),
    "file there twice": (twice, "there twice"),
    "two databases": (second_database, "2 files chroma.sqlite3"),
    "too many files": (many, "more than 2,000 files"),
    "decompression bomb": (zeros, "unpacks to more than"),
}


@pytest.mark.parametrize("name", ARCHIVES)
async def test_archive_with_a_hostile_member_is_refused_and_nothing_is_written_outside(
    name: str, good: Path, tmp_path: Path
) -> None:
    build, reason = ARCHIVES[name]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with pytest.raises(Rejected, match=reason):
        await read(scratch, packed(build, good))
    assert [each.name for each in tmp_path.iterdir()] == ["scratch"]  # noqa: ASYNC240
    assert {each.name for each in scratch.iterdir()} <= {"unpacked", "delta.tar.gz"}
    assert not ESCAPED.exists()
    for each in sorted((scratch / "unpacked").rglob("*")):
        assert each.is_dir() or each.lstat().st_mode & 0o170000 == 0o100000, f"{each} is no plain file"


def truncated(body: bytes) -> bytes:
    return body[: len(body) // 2]


def flipped(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes(255 - each for each in body[middle : middle + 64]) + body[middle + 64 :]


def header_bomb(_: bytes) -> bytes:
    """An extended header of gigabytes, which a parser would read into memory."""
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, 2**33
    return gzip.compress(info.tobuf() + bytes(48 * MEGABYTE), 1)


def negative_size(_: bytes) -> bytes:
    buffer = bytearray(tarfile.TarInfo("chroma.sqlite3").tobuf())
    buffer[124:136] = b"\xff" + b"\xff" * 11
    buffer[148:156] = b"        "
    buffer[148:156] = b"%06o\0 " % sum(buffer[:512])
    return gzip.compress(bytes(buffer) + bytes(1024))


BODIES: Mapping[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated": (truncated, "not a whole .tar.gz|database|damaged"),
    "damaged": (flipped, "not a whole .tar.gz|damaged"),
    "empty": (lambda _: b"", "files chroma.sqlite3|not a whole"),
    "not compressed": (gzip.decompress, "not a whole .tar.gz"),
    "no archive": (lambda _: gzip.compress(os.urandom(4_096)), "not a whole .tar.gz"),
    "nested compression": (gzip.compress, "not a whole .tar.gz"),
    "header of gigabytes": (header_bomb, "unpacks to more than|not a whole|more memory"),
    "negative size": (negative_size, "not a whole|not of chromadb"),
    "archive without a database": (lambda _: archive_of_nothing(), "0 files chroma.sqlite3"),
}


def archive_of_nothing() -> bytes:
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w:gz") as members:
        member("readme.txt")(members, Path())
    return body.getvalue()


@pytest.mark.parametrize("name", BODIES)
async def test_archive_that_is_damaged_or_a_bomb_is_refused(name: str, good: Path, tmp_path: Path) -> None:
    spoil, reason = BODIES[name]
    with pytest.raises(Rejected, match=reason):
        await read(tmp_path, spoil(archive(good)))
    written = [each.stat().st_size for each in tmp_path.rglob("*") if each.is_file()]  # noqa: ASYNC240
    assert sum(written) < 256 * MEGABYTE


def execute(*statements: str) -> Spoil:
    """Change the database."""

    def spoil(folder: Path) -> None:
        with closing(sqlite3.connect(folder / "chroma.sqlite3")) as database:
            database.execute("PRAGMA writable_schema = ON")
            for statement in statements:
                database.execute(statement)
            database.commit()

    return spoil


def overwrite(name: str, at: int, content: bytes) -> Spoil:
    """Write over bytes of a file; `name` may be a pattern."""

    def spoil(folder: Path) -> None:
        (file,) = folder.glob(name)
        with file.open("r+b") as opened:
            opened.seek(at)
            opened.write(content)

    return spoil


def cut(name: str, share: float = 0.5) -> Spoil:
    def spoil(folder: Path) -> None:
        (file,) = folder.glob(name)
        os.truncate(file, int(file.stat().st_size * share))

    return spoil


def replace_by(name: str, content: bytes) -> Spoil:
    def spoil(folder: Path) -> None:
        (file,) = folder.glob(name)
        file.write_bytes(content)

    return spoil


def left_open(folder: Path) -> None:
    (folder / "chroma.sqlite3-wal").write_bytes(b"unwritten")


def other_database(folder: Path) -> None:
    (folder / "chroma.sqlite3").unlink()
    execute("CREATE TABLE collections (id)")(folder)


NULLS = struct.pack("<Q", 2**40)
DIRECTORIES: Mapping[str, tuple[Spoil, str]] = {
    "trigger": (
        execute("CREATE TRIGGER evil AFTER INSERT ON embeddings_queue BEGIN DELETE FROM embeddings; END"),
        "trigger 'evil'",
    ),
    "view in place of a table": (
        execute("ALTER TABLE embeddings RENAME TO maintenance_log_2", "CREATE VIEW embeddings AS SELECT 1"),
        "view 'embeddings'|chromadb does not create",
    ),
    "table of its own": (execute("CREATE TABLE evil (a)"), "does not create"),
    "column that computes": (
        execute("ALTER TABLE tenants ADD COLUMN evil AS (length(id))"),
        "not of the form",
    ),
    "check that computes": (
        execute(
            "DROP TABLE acquire_write", "CREATE TABLE acquire_write (id CHECK (length(randomblob(9)) > 1))"
        ),
        "not of the form",
    ),
    "index that computes": (
        execute("CREATE INDEX evil ON tenants (length(id))"),
        "not of the form",
    ),
    "virtual table of another module": (
        execute("CREATE VIRTUAL TABLE embedding_fulltext USING fts4(a)"),
        "not of the form|does not create",
    ),
    "schema with a broken statement": (
        execute("UPDATE sqlite_master SET sql = 'CREATE TABLE broken' WHERE name = 'tenants'"),
        "cannot be read|damaged",
    ),
    "database truncated": (cut("chroma.sqlite3"), "damaged|cannot be read"),
    "database of zeros": (replace_by("chroma.sqlite3", bytes(8_192)), "cannot be read|not of chromadb"),
    "database of another program": (other_database, "it has no table|form"),
    "database damaged": (overwrite("chroma.sqlite3", 8_192, os.urandom(60_000)), "damaged|cannot be read"),
    "copied while it was open": (left_open, "while it was being written"),
    "header truncated": (cut("*/header.bin"), "header.bin"),
    "header with too many elements": (overwrite("*/header.bin", 20, NULLS), "damaged"),
    "header with a wrong size": (overwrite("*/header.bin", 28, NULLS), "damaged"),
    "header with a wrong offset": (overwrite("*/header.bin", 44, NULLS), "damaged"),
    "entry point outside": (overwrite("*/header.bin", 56, b"\xff\xff\xff\x7f"), "entry point"),
    "vectors truncated": (cut("*/data_level0.bin"), "data_level0.bin"),
    "link outside": (overwrite("*/data_level0.bin", 4, b"\xff\xff\xff\x7f"), "leads to no element"),
    "too many links": (overwrite("*/data_level0.bin", 0, b"\xff\xff"), "more links than allowed"),
    "upper links truncated": (cut("*/link_lists.bin"), "link_lists.bin"),
    "pickle that runs code": (
        replace_by("*/index_metadata.pickle", b"cos\nsystem\n(S'touch " + str(ESCAPED).encode() + b"'\ntR."),
        "chromadb cannot read it|crashed",
    ),
}


@pytest.mark.parametrize("name", DIRECTORIES)
async def test_directory_of_hostile_form_is_refused_before_or_by_the_child(
    name: str, good: Path, tmp_path: Path
) -> None:
    spoil, reason = DIRECTORIES[name]
    inside = tmp_path / "unpacked"
    shutil.copytree(good, inside)
    spoil(inside)
    with pytest.raises(Rejected, match=reason):
        await read(tmp_path, None)
    assert not ESCAPED.exists()


async def test_good_archive_with_other_files_beside_is_read(good: Path, tmp_path: Path) -> None:
    body = packed(member("notes/README.md", b"by the producer"), good)
    assert await read(tmp_path, body) == 1_100
    assert not list(tmp_path.rglob("README.md"))  # noqa: ASYNC240


async def test_reading_that_needs_too_much_memory_or_time_is_refused(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_own(monkeypatch)  # what a forked child shares with its server is not its own memory
    for number, limits in enumerate(({"memory_bytes": 192 * MEGABYTE}, {"seconds": 1, "page": 1})):
        scratch = tmp_path / str(number)
        scratch.mkdir()
        with pytest.raises(Rejected, match=r"memory|processor time|failed|crashed|cannot read"):
            await read(scratch, archive(good), **limits)


async def test_child_sees_no_variable_of_the_environment(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Credentials stay out of the process that reads what nobody vouches for."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    seen: list[dict[str, str]] = []
    real = asyncio.create_subprocess_exec

    async def spy(*arguments: str, env: dict[str, str], **named: Any) -> Any:
        seen.append(env)
        return await real(*arguments, env=env, **named)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", spy)
    assert await read(tmp_path, archive(good)) == 1_100
    assert "secret" not in str(seen)


async def test_rows_that_were_counted_are_read_by_the_same_child(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    real = asyncio.create_subprocess_exec

    async def spy(*arguments: str, **named: Any) -> Any:
        started.append(arguments[-1])
        return await real(*arguments, **named)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", spy)
    shutil.copytree(good, tmp_path / "unpacked")
    reader = ChromaDirectory(job=Job(folder=str(tmp_path / "unpacked")), scratch=tmp_path)
    assert await reader.count() == 1_100
    for children in (1, 2):  # a second reading starts its own
        assert sum([len(page.ids) async for page in reader.pages()]) == 1_100
        assert len(started) == children
