"""The source of files: what it lists, what it leaves out, and what it reports."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

import pytest

from flowbed.errors import Misconfigured, Rejected
from flowbed.sources.files import open_files
from flowbed.sources.jsonl import open_jsonl
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


async def test_unlisted_names_what_leaves_a_file_out(tmp_path: Path) -> None:
    """It agrees with the listing on every file, and looks at no other folder."""
    tree(
        tmp_path, "a.txt", "b/c.md", "b/d.txt", "e/f.txt", "node_modules/g.txt", "secret/h.txt", "z/.i/j.txt"
    )
    (tmp_path / ".flowbedignore").write_text("secret\n")
    (tmp_path / "bad.txt").write_bytes(b"text \xff")
    (tmp_path / "deep.txt").write_bytes(b"x" * 100_000 + b"\xff")
    (tmp_path / "cut.pdf").write_bytes(b"%PDF-1.4 broken")
    (tmp_path / "link").symlink_to("b")
    (tmp_path / "out.txt").symlink_to("/etc/hostname")
    options = {"include": ["*.txt", "*.pdf", "link"], "exclude": ["e"]}
    files = open_files(".", folder=tmp_path, options=options, clock=later)
    told = {
        "a.txt": "",
        "b/d.txt": "",
        "b/c.md": "it fits no pattern of `include` (*.txt, *.pdf, link)",
        "e/f.txt": "`exclude` leaves it out: e",
        "secret/h.txt": ".flowbedignore leaves it out",
        "node_modules/g.txt": "node_modules is never read",
        "z/.i/j.txt": "hidden files are never read",
        "bad.txt": "not UTF-8 (byte 0xff at 5); convert it to UTF-8, e.g. with iconv",
        "deep.txt": "not UTF-8 (byte 0xff at 100000); convert it to UTF-8, e.g. with iconv",
        "out.txt": "a link that leads out of the folder",
        "link": "a link to a folder, which is not followed",
        "link/d.txt": None,
        "b": None,
        "b/": None,
        "": None,
        "b/../a.txt": None,
        "../a.txt": None,
        "/etc/hostname": None,
        "A.txt": None,
        "nul\0": None,
    }
    assert {name: files.unlisted(name) for name in told} == told
    assert "damaged" in (files.unlisted("cut.pdf") or "")
    single = open_files("b/c.md", folder=tmp_path, options={}, clock=later)
    assert (single.unlisted("c.md"), single.unlisted("d.txt")) == ("", None)
    with pytest.raises(Misconfigured, match="does not exist"):
        open_files("gone", folder=tmp_path, options={}, clock=later).unlisted("a.txt")


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.py", "a.csv"])
@pytest.mark.parametrize("order", ["le", "be"])
async def test_fetch_utf_16_with_a_byte_order_mark_is_read(order: str, name: str, tmp_path: Path) -> None:
    """As Notepad writes it. The head that is looked at first may end inside a character."""
    text = "größer \U0001f600\r\n" * 20_000
    (tmp_path / name).write_bytes(f"\ufeff{text}".encode(f"utf-16-{order}"))
    (document,) = await read(tmp_path)
    assert document.text == text


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("text".encode("utf-16-le"), "binary (NUL byte at 1)"),
        ("\ufefftext".encode("utf-16-le") + b"x", "not UTF-16 after its byte order mark (truncated data)"),
        (b"\xff\xfe\x00\xd8a\x00", "not UTF-16 after its byte order mark (illegal UTF-16 surrogate)"),
        ("\ufeffa\0b".encode("utf-16-be"), "binary (NUL character at 1)"),
        ("\ufefftext".encode("utf-32-le"), "UTF-32 (byte order mark at 0)"),
        ("\ufefftext".encode("utf-32-be"), "UTF-32 (byte order mark at 0)"),
    ],
)
async def test_fetch_of_what_is_no_utf_16_says_why(body: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(body)
    (problem,) = (await problems(tmp_path)).values()
    assert why in problem.reason


async def test_fetch_lists_in_order_of_names(tmp_path: Path) -> None:
    """Files are listed folder by folder in order of names, with posix paths."""
    tree(tmp_path, "b.txt", "a/z.txt", "a/b/c.txt", "c.txt")
    assert await listed(tmp_path) == ["a/b/c.txt", "a/z.txt", "b.txt", "c.txt"]


async def test_location_single_file_is_one_document(tmp_path: Path) -> None:
    """A location that is a file is one document with the file's name."""
    tree(tmp_path, "a/b.md", "a/c.md")
    (document,) = await read(tmp_path, "a/b.md")
    assert (document.id, document.kind, document.text) == ("b.md", "markdown", "in a/b.md")


async def test_location_absolute_is_used_as_is(tmp_path: Path) -> None:
    """An absolute location is not below the project's folder."""
    tree(tmp_path, "there/a.txt")
    assert await listed(tmp_path / "project", str(tmp_path / "there")) == ["a.txt"]


async def test_hidden_and_generated_files_are_left_out(tmp_path: Path) -> None:
    """Hidden files and folders, virtual environments and caches are not listed."""
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
async def test_include_and_exclude_select_files(tmp_path: Path, include: object) -> None:
    """Files are listed if `include` matches and `exclude` does not, at any depth."""
    tree(tmp_path, "a.md", "deep/er/b.txt", "c.py", "old/d.md")
    assert await listed(tmp_path, include=include, exclude="old/") == ["a.md", "deep/er/b.txt"]


async def test_ignore_file_works_as_in_git(tmp_path: Path) -> None:
    """Patterns of the ignore file work as in git, including exceptions; its name can be changed."""
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
    ],
)
async def test_binary_file_is_skipped(tmp_path: Path, raw: bytes, reason: str) -> None:
    """A file that is not text is no failure, and the reason is given."""
    (tmp_path / "a.bin").write_bytes(raw)
    tree(tmp_path, "b.txt")
    (problem,) = (await problems(tmp_path)).values()
    assert problem.subject == "a.bin"
    assert problem.skipped
    assert reason in problem.reason
    assert await listed(tmp_path) == ["b.txt"]


async def test_read_file_with_later_binary_data_is_rejected(tmp_path: Path) -> None:
    """A file that stops being text after its start is rejected when it is read, with the position."""
    (tmp_path / "a.txt").write_bytes(b"a" * 100_000 + b"\xff")
    (entry,) = entries(await fetched(tmp_path))
    with pytest.raises(Rejected, match="byte 0xff at 100000"):
        entry.read()


async def test_character_across_the_inspected_start_is_text(tmp_path: Path) -> None:
    """A character that spans the end of the inspected start does not make a file binary."""
    (tmp_path / "a.txt").write_text("a" + "é" * 70_000)
    assert len((await read(tmp_path))[0].text) == 70_001


async def test_read_keeps_text_unchanged(tmp_path: Path) -> None:
    """Line ends are kept, so that offsets match the file; a byte order mark is dropped."""
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r")
    assert (await read(tmp_path))[0].text == "one\r\ntwo\r"


async def test_empty_file_is_an_empty_document(tmp_path: Path) -> None:
    """An empty file is listed, and its text is empty."""
    (tmp_path / "a.txt").touch()
    assert [document.text for document in await read(tmp_path)] == [""]


async def test_read_sets_kind_and_title(tmp_path: Path) -> None:
    """Markdown is recognized by its suffix; the title is the file's name if requested."""
    tree(tmp_path, "a.MD", "b.markdown", "c.mdx", "d.rst")
    assert [document.kind for document in await read(tmp_path)] == ["markdown"] * 3 + ["text"]
    assert [document.title for document in await read(tmp_path)] == [""] * 4
    assert [document.title for document in await read(tmp_path, title="name")] == ["a", "b", "c", "d"]
    assert etags(await fetched(tmp_path)) != etags(await fetched(tmp_path, title="name"))


async def test_file_over_max_bytes_is_a_problem(tmp_path: Path) -> None:
    """A file larger than `max_bytes` is a failure that names the option."""
    (tmp_path / "a.txt").write_text("x" * 11)
    problem = (await problems(tmp_path, max_bytes="10"))["a.txt"]
    assert not problem.skipped
    assert "max_bytes" in problem.reason
    assert await listed(tmp_path, max_bytes=11) == ["a.txt"]


async def test_links_inside_the_folder_are_followed(tmp_path: Path) -> None:
    """Links to files inside are followed; links to folders, outside, broken or circular ones are skipped."""
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


async def test_location_may_be_a_link(tmp_path: Path) -> None:
    """The location itself may be a link."""
    tree(tmp_path, "real/a.txt")
    (tmp_path / "real" / "b.txt").symlink_to("a.txt")
    (tmp_path / "link").symlink_to("real")
    assert await listed(tmp_path, "link") == ["a.txt", "b.txt"]


async def test_pipe_is_skipped_unopened(tmp_path: Path) -> None:
    """Anything but a regular file is skipped without opening it, which could hang."""
    os.mkfifo(tmp_path / "pipe")
    assert (await problems(tmp_path))["pipe"].skipped


async def test_names_must_be_utf8_without_control_characters(tmp_path: Path) -> None:
    """Names in any language are ids; names that are not UTF-8 or contain a line end are problems."""
    tree(tmp_path, "été/日本\u3000語 👨‍👩‍👧.txt", "a#b%20c.txt", "line\nend.txt")
    (tmp_path / os.fsdecode(b"\xff.txt")).write_text("x")
    assert await listed(tmp_path) == ["a#b%20c.txt", "été/日本\u3000語 👨‍👩‍👧.txt"]
    found = await problems(tmp_path)
    assert sorted(found) == ["\\udcff.txt", "line\\nend.txt"]
    assert "not UTF-8" in found["\\udcff.txt"].reason
    assert not any(problem.skipped for problem in found.values())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_unreadable_file_is_a_problem(tmp_path: Path) -> None:
    """An unreadable file is a problem; an unreadable folder is one of an unknown document."""
    tree(tmp_path, "a.txt", "closed/b.txt", "c.txt")
    (tmp_path / "a.txt").chmod(0)
    assert "ermission" in (await problems(tmp_path))["a.txt"].reason
    assert (await problems(tmp_path))["a.txt"].document == "a.txt"
    (tmp_path / "closed").chmod(0)
    assert "ermission" in (await problems(tmp_path))["closed/"].reason
    assert (await problems(tmp_path))["closed/"].document == ""
    (tmp_path / "closed").chmod(0o700)


async def test_unlistable_folder_deletes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that cannot be listed is a problem of the documents below it, so that none counts as gone."""
    tree(tmp_path, "a.txt", "closed/b.txt")
    scandir = os.scandir

    def faulty(path: Path) -> object:
        if path.name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", faulty)
    assert await listed(tmp_path) == ["a.txt"]
    found = (await problems(tmp_path))["closed/"]
    assert (found.reason, found.folder, found.skipped) == (
        "cannot be listed: Permission denied",
        "closed/",
        False,
    )


async def test_read_removed_file_is_rejected(tmp_path: Path) -> None:
    """A file removed between listing and reading is rejected with the reason."""
    tree(tmp_path, "a.txt")
    (entry,) = entries(await fetched(tmp_path))
    (tmp_path / "a.txt").unlink()
    with pytest.raises(Rejected, match="was removed"):
        entry.read()


async def test_recent_file_is_identified_by_content(tmp_path: Path) -> None:
    """A write that keeps size and time is noticed as long as the file is recent."""
    file = tmp_path / "a.txt"
    file.write_text("one")
    source = open_files(".", folder=tmp_path, options={}, clock=now)
    before = file.stat()
    first = etags(await pages(source))
    file.write_text("two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert etags(await pages(source)) != first


async def test_old_file_is_identified_by_its_stamp(tmp_path: Path) -> None:
    """An old file is identified by size, time and inode; touching it changes its etag."""
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
        pytest.param({"max_bytes": "9" * 5_000}, "'max_bytes'.*an integer above 0", id="digits"),
        pytest.param({"max_bytes": 0}, "'max_bytes'.*an integer above 0", id="zero"),
        pytest.param({"title": "first"}, "'title'.*one of: none, name", id="choice"),
        pytest.param({"include": 3}, "'include'.*a list", id="list"),
        pytest.param({"ignore": 3}, "'ignore'.*a string", id="text"),
    ],
)
def test_invalid_option_is_misconfigured(tmp_path: Path, options: dict[str, object], message: str) -> None:
    """An unknown or invalid option is refused on opening, and the message lists the valid ones."""
    with pytest.raises(Misconfigured, match=message):
        open_files(".", folder=tmp_path, options=options, clock=later)


async def test_location_device_is_misconfigured(tmp_path: Path) -> None:
    """A location that is neither a file nor a folder is misconfigured."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Misconfigured, match="neither a file nor a folder"):
        await fetched(tmp_path, "pipe")


async def test_changed_file_with_size_and_time_kept_has_another_etag(tmp_path: Path) -> None:
    """A file changed in place, with its size kept and its time set back, has another etag."""
    file = tmp_path / "a.txt"
    file.write_text("one")
    os.utime(file, (1_000_000, 1_000_000))
    first = etags(await fetched(tmp_path))
    with file.open("r+") as opened:
        opened.write("two")
    os.utime(file, (1_000_000, 1_000_000))
    assert etags(await fetched(tmp_path)) != first


@pytest.mark.parametrize("ignore", [b"\xef\xbb\xbf*.log\r\n!keep.log\r\n", b"\xef\xbb\xbf*.log\n!keep.log"])
async def test_ignore_file_with_byte_order_mark_keeps_its_first_pattern(
    tmp_path: Path, ignore: bytes
) -> None:
    """A byte order mark in front of the first pattern is no part of it."""
    tree(tmp_path, "a.log", "keep.log")
    (tmp_path / ".flowbedignore").write_bytes(ignore)
    assert await listed(tmp_path) == ["keep.log"]


async def test_deep_folders_are_one_problem(tmp_path: Path) -> None:
    """Of folders 1,200 deep, those are listed whose paths can be ids; the rest is one problem."""
    tree(tmp_path, "a.txt")
    here = os.open(tmp_path, os.O_RDONLY)
    try:
        for _ in range(1_200):
            os.mkdir("d", dir_fd=here)
            inner = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = inner
            os.close(os.open("f.txt", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        names = await listed(tmp_path)
        assert len(names) == 513
        assert max(map(len, names)) <= 1_029
        (problem,) = (await problems(tmp_path)).values()
        assert (
            problem.reason
            == "its path is longer than 1,024 bytes, so nothing below it is indexed: move it up"
        )
        assert len(problem.subject) < 200
        # A source of records looks at paths only to find its files.
        records = open_jsonl(".", folder=tmp_path, options={}, clock=later)
        assert len([each for page in await pages(records) for each in page.problems]) <= 1
    finally:
        os.close(here)
        # Python's own way to remove folders cannot remove these.
        await (await asyncio.create_subprocess_exec("rm", "-rf", str(tmp_path / "d"))).wait()


async def test_location_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A location may begin with the home folder, unless a folder is called so."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    tree(tmp_path, "home/docs/a.txt", "project/~/b.txt")
    assert await listed(tmp_path, "~/docs") == ["a.txt"]
    assert await listed(tmp_path / "project", "~") == ["b.txt"]


@pytest.mark.parametrize("name", ["a[1]", "*", "what?", "a b", "ü"])
async def test_folders_with_any_name_are_listed(tmp_path: Path, name: str) -> None:
    """Names of folders and files are names, not patterns."""
    tree(tmp_path, f"{name}/{name}/{name}.txt")
    assert await listed(tmp_path / name, name) == [f"{name}.txt"]
