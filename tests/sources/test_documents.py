"""The source of files on documents and code: what is listed, read, kept and reported."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.support.documents import docx, encrypted_pdf, paragraph, pdf, pptx, xlsx

from flowbed.chunking import Rules, chunk
from flowbed.errors import Rejected, Unreadable
from flowbed.records.extracts import CODE, EXTRACT, Extract
from flowbed.sources.files import formats, open_files
from flowbed.testing.sources import entries, etags, pages

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.support.projects import Project

    from flowbed.records import Document
    from flowbed.sources.extraction.process import Parsers
    from flowbed.sources.files.listing import Files


def later() -> int:
    return time.time_ns() // 1_000 + 60_000_000


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    return tmp_path / "docs"


@pytest.fixture
def source(document_parsers: Parsers, docs: Path) -> Files:
    """Return a source that shares the process of all tests."""
    return replace(opened(docs), parsers=document_parsers)


def opened(docs: Path, **options: object) -> Files:
    return open_files("docs", folder=docs.parent, options=options, clock=later)


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)


async def documents(source: Files) -> dict[str, Document]:
    return {entry.document: entry.read() for entry in entries(await pages(source))}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.txt", "text"), ("a", "text"), ("a.log", "text"), ("a.MD", "markdown"), ("a.csv", "table"),
        ("a.TSV", "table"), ("a.py", CODE), ("a.JS", CODE), ("a.html", EXTRACT),
    ],
)  # fmt: skip
async def test_router_gives_each_suffix_its_kind(source: Files, docs: Path, name: str, kind: str) -> None:
    write(docs, {name: b"x = 1\n"})
    assert (await documents(source))[name].kind == kind


async def test_documents_of_each_format_are_read_with_titles_and_addresses(source: Files, docs: Path) -> None:
    """One folder with a file of each format; a chunk has the address of its page, slide or sheet."""
    files = {
        "one file.pdf": pdf(["Pages"], title="Manual"),
        "deck.pptx": pptx([("Slides", ["text"])], "Plan"),
        "book.xlsx": xlsx({"Prices": [["Item", "Price"], ["Tea", 3]]}),
        "guide.docx": docx(paragraph("Words"), "Guide"),
        "page.html": b"<title>Page</title><h1 id=top>Top</h1><p>Markup",
    }
    write(docs, files)
    found = await documents(source)
    assert {name: each.title for name, each in found.items()} == {
        "one file.pdf": "Manual", "deck.pptx": "Plan", "book.xlsx": "", "guide.docx": "Guide", "page.html": "Page",
    }  # fmt: skip
    rules = Rules(source="s", collections=("s",))
    chunks = [each for document in found.values() for each in chunk(document, rules, len)]
    assert {each.metadata["url"] for each in chunks} == {
        "one%20file.pdf#page=1", "deck.pptx#slide=1", "book.xlsx#Prices", "guide.docx", "page.html#top",
    }  # fmt: skip


async def test_option_url_gives_every_file_an_address(docs: Path, document_parsers: Parsers) -> None:
    write(docs, {"a b.txt": b"text", "c.pdf": pdf(["page"])})
    before = etags(await pages(opened(docs)))
    with_url = replace(opened(docs, url="https://wiki.example.com/docs/"), parsers=document_parsers)
    found = await documents(with_url)
    assert found["a b.txt"].metadata["url"] == "https://wiki.example.com/docs/a%20b.txt"
    assert Extract.from_json(found["c.pdf"].text).url == "https://wiki.example.com/docs/c.pdf"
    assert not set(before.items()) & set(etags(await pages(with_url)).items())


async def test_without_packages_documents_are_named_with_the_command(
    docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Documents are skipped with what installs their parser; code is read as plain text, and again once it is there."""
    write(docs, {"a.pdf": pdf(["page"]), "a.html": b"<p>x", "b.py": b"x = 1\n", "c.txt": b"text"})
    monkeypatch.setattr(formats, "is_installed", lambda _: False)
    source = opened(docs)
    found = await pages(source)
    problems = {each.subject: each for page in found for each in page.problems}
    assert problems["a.pdf"].reason == "reading PDF files needs packages: pip install 'flowbed[documents]'"
    assert problems["a.html"].reason == "reading HTML pages needs packages: pip install 'flowbed[documents]'"
    assert all(each.skipped and each.document for each in problems.values())
    assert {entry.document: entry.read().kind for entry in entries(found)} == {
        "b.py": "text",
        "c.txt": "text",
    }
    assert source.parsers.started == 0
    before = etags(found)
    monkeypatch.setattr(formats, "is_installed", lambda _: True)
    after = etags(await pages(source))
    assert before["c.txt"] == after["c.txt"]
    assert before["b.py"] != after["b.py"]


async def test_refused_document_is_skipped_and_not_parsed_again(source: Files, docs: Path) -> None:
    """What a parser found, or why it found nothing, is kept by the content: a touched file is not parsed again."""
    write(docs, {"a.pdf": encrypted_pdf(), "b.pdf": pdf(["page"])})
    asked: list[str] = []
    parse = source.parsers.extract

    def counting(path: Path, parser: str, language: str = "") -> str:
        asked.append(path.name)
        return parse(path, parser, language)

    source.parsers.extract = counting  # type: ignore[method-assign]
    try:
        for number in range(3):
            os.utime(docs / "a.pdf", (number, number))
            for entry in entries(await pages(source)):
                if entry.document == "b.pdf":
                    assert "page" in entry.read().text
                    continue
                with pytest.raises(Unreadable, match="it is encrypted: save it without a password"):
                    entry.read()
        assert asked == ["a.pdf", "b.pdf"]
        write(docs, {"a.pdf": pdf(["other"])})
        assert "other" in (await documents(source))["a.pdf"].text
        assert asked == ["a.pdf", "b.pdf", "a.pdf"]
    finally:
        del source.parsers.extract


async def test_kept_extracts_of_removed_files_are_deleted(source: Files, docs: Path) -> None:
    write(docs, {"a.html": b"<p>Secret words.", "b.html": b"<p>Other words."})
    await documents(source)
    file = source.kept._file
    assert file.stat().st_mode & 0o777 == 0o600
    (docs / "a.html").unlink()
    await documents(source)
    with source.kept._open() as database:
        assert [row[0] for row in database.execute("SELECT document FROM extracts")] == ["b.html"]
    database.close()


async def test_kept_extracts_that_cannot_be_used_are_reported(source: Files, docs: Path) -> None:
    """Documents are read all the same."""
    write(docs, {"a.html": b"<p>Words."})
    source.kept._file.parent.mkdir(parents=True)
    source.kept._file.write_bytes(b"no database" * 100)
    assert "Words." in (await documents(source))["a.html"].text
    (problem,) = [each for page in await pages(source) for each in page.problems]
    assert problem.skipped
    assert "cannot be kept for later" in problem.reason


async def test_refused_document_that_did_not_change_is_not_read_again(source: Files, docs: Path) -> None:
    """A listing of many large files without text reads none of them."""
    write(docs, {"a.pdf": encrypted_pdf()})
    for _ in range(2):
        (entry,) = entries(await pages(source))
        with pytest.raises(Unreadable):
            entry.read()
        (docs / "a.pdf").rename(docs / "hidden")
        with pytest.raises(Unreadable):
            entry.read()
        (docs / "hidden").rename(docs / "a.pdf")


async def test_code_that_is_no_code_is_text(source: Files, docs: Path) -> None:
    """A template, a file that is mostly not in its language, or a large one, is chunked as text."""
    write(docs, {
        "a.py": b"{% for x in y %}\n<<<<<<< ours\n%%%%\n" * 20,
        "b.js": b"var x = 1;\n" * 200_000,
        "c.py": b"def f():\n    return 1\n",
    })  # fmt: skip
    assert {name: each.kind for name, each in (await documents(source)).items()} == {
        "a.py": "text", "b.js": "text", "c.py": CODE,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "raw", "reason"),
    [
        ("a.txt", b"%PDF-1.7\n1 0 obj", "its suffix is wrong: it is a PDF; call it .pdf"),
        ("a.doc", b"\xd0\xcf\x11\xe0\0", "a Word file of before 2007; save it as .docx"),
        ("a.epub", b"PK\x03\x04\0", "an EPUB book; convert it to HTML"),
        ("a.docx", b"", "it is empty"),
    ],
)
async def test_file_that_no_parser_reads_says_what_to_do(
    source: Files, docs: Path, name: str, raw: bytes, reason: str
) -> None:
    write(docs, {name: raw})
    (problem,) = [each for page in await pages(source) for each in page.problems]
    assert (problem.reason, problem.skipped) == (reason, True)


async def test_document_removed_after_the_listing_is_rejected(source: Files, docs: Path) -> None:
    write(docs, {"a.pdf": pdf(["x"])})
    (entry,) = entries(await pages(source))
    (docs / "a.pdf").unlink()
    with pytest.raises(Rejected, match="was removed"):
        entry.read()


async def test_large_picture_book_is_read_and_larger_text_is_refused(
    docs: Path, document_parsers: Parsers
) -> None:
    """`max_bytes` limits the text of a document, not its pictures."""
    write(docs, {"a.pdf": pdf(["few words"]) + bytes(50_000), "b.html": b"<p>" + b"word " * 3_000})
    source = opened(docs, max_bytes=10_000)
    found = {entry.document: entry for entry in entries(await pages(source))}
    assert "few words" in found["a.pdf"].read().text
    with pytest.raises(Unreadable, match="more than 10,000 characters of text: raise max_bytes"):
        found["b.html"].read()
    source.parsers.close()


async def test_run_skips_what_cannot_be_read_and_indexes_the_rest(
    project: Project, document_parsers: Parsers
) -> None:
    """Problems are skipped with their reasons, a hit opens its page, and forgetting also erases what was kept."""
    docs = project.folder / "docs"
    docs.mkdir()
    write(
        docs, {"a.pdf": pdf(["", "Feed the cat at noon."]), "b.pdf": encrypted_pdf(), "c.docx": b"PK\x03\x04"}
    )
    async with await project.open() as bed:
        await bed.add("docs", kind="files", location="docs")
        report = await bed.run()
        assert {each.subject: each.reason.partition(":")[0] for each in report.skipped} == {
            "b.pdf": "it is encrypted",
            "c.docx": "it is damaged or cut off",
        }
        assert (report.embedded, report.failures) == (1, ())
        (hit,) = await bed.search("Feed the cat at noon.")
        assert (hit.metadata["page"], hit.metadata["url"]) == (2, "a.pdf#page=2")
        write(docs, {"a.pdf": encrypted_pdf()})
        (failure,) = (await bed.run()).failures
        assert (
            "it is encrypted: save it without a password; its indexed chunks are kept until" in failure.reason
        )
        assert project.documents("docs").values()
        kept = project.folder / ".flowbed" / "sources"
        assert list(kept.iterdir())
        await bed.forget(documents=["docs#a.pdf"])
        assert not kept.exists()


def test_listing_loads_no_parser(document_parsers: Parsers, docs: Path) -> None:
    """No parser is loaded by the process that lists and reads, and no other process is started without documents."""
    write(docs, {"a.txt": b"text", "b.md": b"# Text", "c.csv": b"a,b\n1,2\n"})
    program = f"""
import asyncio, sys
from pathlib import Path
from flowbed.sources import open_source
source = open_source("files", "docs", folder=Path({str(docs.parent)!r}), options={{}}, clock=lambda: 2 * 10**15)
async def read():
    return [entry.read() async for page in source.fetch("") for entry in page.entries]
assert len(asyncio.run(read())) == 3 and source.parsers.started == 0
Path({str(docs)!r}, "d.html").write_bytes(b"<p>x")
Path({str(docs)!r}, "e.py").write_bytes(b"x = 1")
assert len(asyncio.run(read())) == 5 and source.parsers.started >= 1
print(*sorted({{name.partition(".")[0] for name in sys.modules}} & set(sys.argv[1:])))
"""
    heavy = [
        "lxml",
        "mammoth",
        "pypdfium2",
        "python_calamine",
        "pptx",
        "tree_sitter",
        "tree_sitter_python",
        "numpy",
    ]
    done = subprocess.run(
        [sys.executable, "-c", program, *heavy], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == ""
