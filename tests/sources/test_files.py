"""Files: what is listed, what is not, and what is said about it."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from flowbed.errors import Misconfigured, Rejected
from flowbed.sources.files import open_files
from flowbed.testing.sources import entries, etags, pages

if TYPE_CHECKING:
    from pathlib import Path

    from flowbed.records import Document, Page, Problem


def now() -> int:
    return time.time_ns() // 1_000


def later() -> int:
    return now() + 60_000_000


async def fetched(folder: Path, location: str = ".", **options: object) -> list[Page]:
    return await pages(open_files(location, folder=folder, options=options, clock=later))


async def listed(folder: Path, location: str = ".", **options: object) -> list[str]:
    return [entry.document for entry in entries(await fetched(folder, location, **options))]


async def problems(folder: Path, location: str = ".", **options: object) -> dict[str, Problem]:
    return {
        problem.subject: problem
        for page in await fetched(folder, location, **options)
        for problem in page.problems
    }


async def read(folder: Path, location: str = ".", **options: object) -> list[Document]:
    return [entry.read() for entry in entries(await fetched(folder, location, **options))]


def tree(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"in {name}")


async def test_order_is_by_name(tmp_path: Path) -> None:
    """Files are listed folder by folder in the order of names, with paths in posix form."""
    tree(tmp_path, "b.txt", "a/z.txt", "a/b/c.txt", "c.txt")
    assert await listed(tmp_path) == ["a/b/c.txt", "a/z.txt", "b.txt", "c.txt"]


async def test_a_single_file_is_its_name(tmp_path: Path) -> None:
    """A location that is a file is one document, called as the file is."""
    tree(tmp_path, "a/b.md", "a/c.md")
    (document,) = await read(tmp_path, "a/b.md")
    assert (document.id, document.kind, document.text) == ("b.md", "markdown", "in a/b.md")


async def test_an_absolute_location_stays_where_it_is(tmp_path: Path) -> None:
    """An absolute location is not taken below the project's folder."""
    tree(tmp_path, "there/a.txt")
    assert await listed(tmp_path / "project", str(tmp_path / "there")) == ["a.txt"]


async def test_hidden_and_made_things_are_left_out(tmp_path: Path) -> None:
    """Hidden files and folders, virtual environments and caches are no documents."""
    tree(
        tmp_path,
        ".git/config",
        ".flowbed/x",
        ".venv/a.py",
        "node_modules/a.js",
        "__pycache__/a",
        ".env",
        "a.py",
    )
    assert await listed(tmp_path) == ["a.py"]


@pytest.mark.parametrize("include", ["*.md,*.txt", ["*.md", "*.txt"]], ids=["commas", "list"])
async def test_include_and_exclude(tmp_path: Path, include: object) -> None:
    """Only what `include` names and `exclude` does not is listed, at any depth."""
    tree(tmp_path, "a.md", "deep/er/b.txt", "c.py", "old/d.md")
    assert await listed(tmp_path, include=include, exclude="old/") == ["a.md", "deep/er/b.txt"]


async def test_the_ignore_file_is_kept_to(tmp_path: Path) -> None:
    """Patterns of the ignore file hold as in git, exceptions among them; another name can be given."""
    tree(tmp_path, "a.log", "keep.log", "build/x.txt", "src/b.txt")
    (tmp_path / ".flowbedignore").write_text("# made\n*.log\n!keep.log\n/build/\n")
    (tmp_path / ".gitignore").write_text("src\n")
    assert await listed(tmp_path) == ["keep.log", "src/b.txt"]
    assert await listed(tmp_path, ignore=".gitignore") == ["a.log", "build/x.txt", "keep.log"]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        pytest.param(b"GIF89a\x00\x01", "binary (NUL byte at 6)", id="binary"),
        pytest.param(b"caf\xe9 au lait", "not UTF-8 (byte 0xe9 at 3)", id="latin-1"),
        pytest.param("text".encode("utf-16"), "UTF-16", id="utf-16"),
    ],
)
async def test_what_is_no_text_is_skipped(tmp_path: Path, raw: bytes, reason: str) -> None:
    """A file that is not text is no failure, and its reason is said."""
    (tmp_path / "a.bin").write_bytes(raw)
    tree(tmp_path, "b.txt")
    (problem,) = (await problems(tmp_path)).values()
    assert problem.subject == "a.bin"
    assert problem.skipped
    assert reason in problem.reason
    assert await listed(tmp_path) == ["b.txt"]


async def test_what_is_no_text_further_on_is_rejected(tmp_path: Path) -> None:
    """A file that stops being text past its head is rejected when it is read, with the place."""
    (tmp_path / "a.txt").write_bytes(b"a" * 100_000 + b"\xff")
    (entry,) = entries(await fetched(tmp_path))
    with pytest.raises(Rejected, match="byte 0xff at 100000"):
        entry.read()


async def test_a_character_across_the_end_of_the_head_is_text(tmp_path: Path) -> None:
    """A character that spans the end of what is looked at does not make a file look like no text."""
    (tmp_path / "a.txt").write_text("a" + "é" * 70_000)
    assert len((await read(tmp_path))[0].text) == 70_001


async def test_text_is_kept_as_it_is(tmp_path: Path) -> None:
    """Line ends stay as they are, so that offsets are those of the file; a byte order mark is no text."""
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r")
    assert (await read(tmp_path))[0].text == "one\r\ntwo\r"


async def test_an_empty_file_is_a_document_without_text(tmp_path: Path) -> None:
    """An empty file is listed; its text is empty."""
    (tmp_path / "a.txt").touch()
    assert [document.text for document in await read(tmp_path)] == [""]


async def test_kinds_and_titles(tmp_path: Path) -> None:
    """Markdown is known by its suffix; a title is the file's name where that is asked for."""
    tree(tmp_path, "a.MD", "b.markdown", "c.mdx", "d.rst")
    assert [document.kind for document in await read(tmp_path)] == ["markdown"] * 3 + ["text"]
    assert [document.title for document in await read(tmp_path)] == [""] * 4
    assert [document.title for document in await read(tmp_path, title="name")] == ["a", "b", "c", "d"]
    assert etags(await fetched(tmp_path)) != etags(await fetched(tmp_path, title="name"))


async def test_a_large_file_is_a_problem(tmp_path: Path) -> None:
    """A file larger than `max_bytes` is a failure that names the option."""
    (tmp_path / "a.txt").write_text("x" * 11)
    problem = (await problems(tmp_path, max_bytes="10"))["a.txt"]
    assert not problem.skipped
    assert "max_bytes" in problem.reason
    assert await listed(tmp_path, max_bytes=11) == ["a.txt"]


async def test_links(tmp_path: Path) -> None:
    """Links to files inside are followed; those that leave, lead to folders, loop or lead nowhere are skipped."""
    outside = tmp_path / "outside.txt"
    outside.write_text("secret")
    folder = tmp_path / "folder"
    tree(folder, "sub/a.txt")
    (folder / "inside").symlink_to(folder / "sub" / "a.txt")
    (folder / "leaves").symlink_to(outside)
    (folder / "loop").symlink_to(folder)
    (folder / "sub" / "self").symlink_to(folder / "sub" / "self")
    (folder / "nowhere").symlink_to(folder / "missing")
    assert await listed(folder) == ["inside", "sub/a.txt"]
    found = await problems(folder)
    assert sorted(found) == ["leaves", "loop", "nowhere", "sub/self"]
    assert all(problem.skipped for problem in found.values())


async def test_a_linked_location_is_followed(tmp_path: Path) -> None:
    """The location itself may be a link."""
    tree(tmp_path, "real/a.txt")
    (tmp_path / "real" / "b.txt").symlink_to("a.txt")
    (tmp_path / "link").symlink_to("real")
    assert await listed(tmp_path, "link") == ["a.txt", "b.txt"]


async def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    """What is no regular file is skipped without opening it, which would hang."""
    os.mkfifo(tmp_path / "pipe")
    assert (await problems(tmp_path))["pipe"].skipped


async def test_odd_names(tmp_path: Path) -> None:
    """Names in any language are ids; those that are not UTF-8 or hold a line end are problems."""
    tree(tmp_path, "été/日本\u3000語 👨‍👩‍👧.txt", "a#b%20c.txt", "line\nend.txt")
    (tmp_path / os.fsdecode(b"\xff.txt")).write_text("x")
    assert await listed(tmp_path) == ["a#b%20c.txt", "été/日本\u3000語 👨‍👩‍👧.txt"]
    found = await problems(tmp_path)
    assert sorted(found) == ["\\udcff.txt", "line\\nend.txt"]
    assert "not UTF-8" in found["\\udcff.txt"].reason
    assert not any(problem.skipped for problem in found.values())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_what_may_not_be_read_is_a_problem(tmp_path: Path) -> None:
    """A file that may not be read is a problem; a folder that may not be listed is one of no known document."""
    tree(tmp_path, "a.txt", "closed/b.txt", "c.txt")
    (tmp_path / "a.txt").chmod(0)
    assert "ermission" in (await problems(tmp_path))["a.txt"].reason
    assert (await problems(tmp_path))["a.txt"].document == "a.txt"
    (tmp_path / "closed").chmod(0)
    assert "ermission" in (await problems(tmp_path))["closed/"].reason
    assert (await problems(tmp_path))["closed/"].document == ""
    (tmp_path / "closed").chmod(0o700)


async def test_a_folder_that_cannot_be_listed_makes_nothing_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that cannot be listed is a problem of no known document, so that none is taken for gone."""
    tree(tmp_path, "a.txt", "closed/b.txt")
    scandir = os.scandir

    def faulty(path: Path) -> object:
        if path.name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", faulty)
    assert await listed(tmp_path) == ["a.txt"]
    found = (await problems(tmp_path))["closed/"]
    assert (found.reason, found.document, found.skipped) == ("cannot be listed: Permission denied", "", False)


async def test_a_file_that_vanished_is_rejected(tmp_path: Path) -> None:
    """A file that vanishes between listing and reading is rejected with the reason."""
    tree(tmp_path, "a.txt")
    (entry,) = entries(await fetched(tmp_path))
    (tmp_path / "a.txt").unlink()
    with pytest.raises(Rejected, match="was removed"):
        entry.read()


async def test_a_fresh_file_is_known_by_its_content(tmp_path: Path) -> None:
    """A write that leaves size and time as they were is seen, as long as the file is fresh."""
    file = tmp_path / "a.txt"
    file.write_text("one")
    source = open_files(".", folder=tmp_path, options={}, clock=now)
    before = file.stat()
    first = etags(await pages(source))
    file.write_text("two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert etags(await pages(source)) != first


async def test_settled_files_are_known_by_their_stamp(tmp_path: Path) -> None:
    """A file that was touched long ago is known by size, time and identity; touching it moves its etag."""
    file = tmp_path / "a.txt"
    file.write_text("one")
    os.utime(file, (1_000_000, 1_000_000))
    first = etags(await fetched(tmp_path))
    assert first == etags(await fetched(tmp_path))
    os.utime(file, (1_000_000, 1_000_001))
    assert first != etags(await fetched(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"inclde": "*.md"}, "its options are: include, exclude", id="unknown"),
        pytest.param({"max_bytes": "many"}, "'max_bytes'.*an integer above 0", id="number"),
        pytest.param({"max_bytes": 0}, "'max_bytes'.*an integer above 0", id="zero"),
        pytest.param({"title": "first"}, "'title'.*one of: none, name", id="choice"),
        pytest.param({"include": 3}, "'include'.*a list", id="list"),
        pytest.param({"ignore": 3}, "'ignore'.*a string", id="text"),
    ],
)
def test_a_wrong_option_is_misconfigured(tmp_path: Path, options: dict[str, object], message: str) -> None:
    """An option that is unknown or wrong is refused when the source is opened, naming what there is."""
    with pytest.raises(Misconfigured, match=message):
        open_files(".", folder=tmp_path, options=options, clock=later)


async def test_neither_file_nor_folder(tmp_path: Path) -> None:
    """A location that is neither a file nor a folder is misconfigured."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Misconfigured, match="neither a file nor a folder"):
        await fetched(tmp_path, "pipe")
