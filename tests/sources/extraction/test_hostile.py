"""Files that are encrypted, damaged, of another kind or made to harm: each is refused with its reason."""

from __future__ import annotations

import gc
import os
import random
import signal
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.documents import (
    W,
    archive,
    claiming,
    deflated,
    docx,
    encrypted_office,
    encrypted_pdf,
    paragraph,
    pdf,
    pdf_of,
    pptx,
    word_table,
    xlsx,
)

from flowbed.errors import Rejected, Transient, Unreadable
from flowbed.records.extracts import Extract
from flowbed.sources.extraction.process import Limits, Parsers
from flowbed.sources.files.formats import FORMATS

if TYPE_CHECKING:
    from collections.abc import Iterator

CATALOG = b"<< /Type /Catalog /Pages 2 0 R >>"
FAR_CELL = '<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'
ENTITIES = '<!DOCTYPE l [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {after} "{f"&{before};" * 10}">' for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)

HOSTILE = {
    "encrypted.pdf": (encrypted_pdf(), "it is encrypted: save it without a password"),
    "encrypted.docx": (encrypted_office(), "it is encrypted: save it without a password"),
    "encrypted.pptx": (encrypted_office(), "it is encrypted: save it without a password"),
    "encrypted.xlsx": (encrypted_office(), "it is encrypted: save it without a password"),
    "encrypted.xls": (encrypted_office(), "it is encrypted: save it without a password"),
    "pictures.pdf": (pdf(["", ""]), "none of its 2 pages has text: if they are pictures, run OCR over it"),
    "pictures.pptx": (pptx([("", [])]), "it has no text: its slides are empty, or pictures"),
    "empty.xlsx": (xlsx({"a": []}), "its sheets are empty"),
    "empty.docx": (docx(""), "it has no text"),
    "no-title.docx": (archive({"word/document.xml": "<x/>"}), "it is damaged"),
    "cut.docx": (docx(paragraph("x" * 5_000))[:800], "it is damaged or cut off"),
    "cut.xlsx": (xlsx({"a": [["b", "c"]]})[:-40], "it is damaged or cut off"),
    "cut.pdf": (pdf(["hello"])[:300], "it is damaged or cut off"),
    "cut-early.pdf": (b"%PDF-1.7\n%", "it is damaged or cut off"),
    "workbook.docx": (xlsx({"a": [["b"]]}), "its suffix is wrong: it is an Excel workbook"),
    "slides.xlsx": (pptx([("a", [])]), "its suffix is wrong: it is a PowerPoint presentation"),
    "page.pdf": (b"<html>", "its suffix is wrong: it is no PDF"),
    "pdf.docx": (pdf(["x"]), "its suffix is wrong: it is a PDF"),
    "text.pptx": (b"hello", "its suffix is wrong: it is no Office file"),
    "other.docx": (archive({"a.txt": "x"}), "its suffix is wrong: it is another zip archive"),
    "old.docx": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "it is an Office file of before 2007"),
    "zeros.docx": (bytes(600), "it is empty"),
    "bomb.docx": (
        claiming(docx(paragraph("x")), "word/document.xml", 4_000_000_000),
        "unpack to 4,000,00",
    ),
    "bomb.xlsx": (
        archive({"xl/workbook.xml": "", "xl/media/nested.zip": bytes(60_000_000)}),
        "as a zip bomb's do",
    ),
    "lying.docx": (claiming(docx(paragraph("x" * 90_000)), "word/document.xml", 100), "it is damaged"),
    "far.xlsx": (xlsx({"a": [["x", "y"]]}, extra=FAR_CELL), "its parser ended with SIGABRT"),
    "nested.docx": (docx("<w:p>" * 5_000 + "</w:p>" * 5_000), "its elements are nested too deeply"),
    "nested.html": (b"<div>" * 200_000 + b"x", "its elements are nested too deeply"),
    "unnamed.html": (
        "<p>Правила отпуска".encode("cp1251"),
        "it is not UTF-8 (byte 0xcf at 3) and names no encoding; convert it to UTF-8, e.g. with iconv",
    ),
    "misnamed.html": (
        "<meta charset=utf-8><p>Правила отпуска".encode("cp1251"),
        "it is not in the encoding that it names, utf-8; correct the name, or convert it to UTF-8",
    ),
    "unmarked.html": ("<p>日本語".encode("utf-16-le"), "it is binary, or UTF-16 without a byte order mark"),
    "scripts.html": (b"<div id=root></div><script>start()</script>", "it has no text, apart from scripts"),
    "entities.docx": (
        archive(
            {
                "word/document.xml": (
                    f'{ENTITIES}]><w:document xmlns:w="{W}"><w:body><w:p><w:r><w:t>&i;</w:t></w:r></w:p></w:body>'
                    "</w:document>"
                )
            }
        ),
        "it is damaged",
    ),
    "loop.pdf": (
        pdf_of(
            [CATALOG, b"<< /Type /Pages /Count 2 /Kids [2 0 R 3 0 R] >>", b"<< /Type /Page /Parent 2 0 R >>"]
        ),
        "none of its 2 pages has text",
    ),
    "arrays.pdf": (
        pdf_of(
            [
                CATALOG,
                b"<< /Type /Pages /Count 1 /Kids [3 0 R] /X " + b"[" * 200_000,
                b"<< /Type /Page /Parent 2 0 R >>",
            ]
        ),
        "it is damaged or cut off",
    ),
    "stream.pdf": (
        pdf_of(
            [
                CATALOG,
                b"<< /Type /Pages /Count 1 /Kids [3 0 R] >>",
                b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Contents 4 0 R >>",
                deflated(bytes(30_000_000), times=3),
            ]
        ),
        "none of its 1 page has text",
    ),
    "long.html": (b"<p>" + b"word " * 250_000, "it has more than 1,000,000 characters of text"),
    "many.xlsx": (
        xlsx({"a": [["word " * 60_000, "x"]] * 4}),
        "it has more than 1,000,000 characters of text",
    ),
    "many.pdf": (
        pdf(["word " * 5_000 + "\n" + "word " * 5_000] * 25),
        "it has more than 1,000,000 characters of text",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file_is_refused_and_the_next_one_is_read(
    document_parsers: Parsers, tmp_path: Path, name: str
) -> None:
    """Whatever a file does to its parser, the reason is given, and other files are read."""
    raw, reason = HOSTILE[name]
    for file, content in ((name, raw), ("good.html", b"<p>Still here.")):
        (tmp_path / file).write_bytes(content)
    with pytest.raises(Unreadable) as raised:
        document_parsers.extract(tmp_path / name, FORMATS[(tmp_path / name).suffix].parser)
    assert reason in str(raised.value)
    assert "Still here." in document_parsers.extract(tmp_path / "good.html", "html")


SAMPLES = {
    "a.docx": docx(
        paragraph("Title", "H1") + paragraph("words " * 50) + word_table([["a", "b"], ["c", "d"]])
    ),
    "a.html": b"<title>T</title><h1 id=a>A</h1><p>words<table><tr><th>a<th>b<tr><td colspan=2>c</table><pre>x</pre>",
    "a.pdf": pdf(["words " * 20, "more"], title="T", bookmarks={"words": 1, "more": 2}),
    "a.pptx": pptx([("Title", ["text"]), ("", ["more"])]),
    "a.py": b"class A:\n    # c\n    def m(self):\n        return 1\n" * 5,
    "a.xlsx": xlsx({"a": [["name", "note"], ["x", 1], ["y", 2.5]]}),
}


@pytest.mark.parametrize("times", [12, pytest.param(1_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", SAMPLES)
def test_damaged_file_is_read_or_refused(
    document_parsers: Parsers, tmp_path: Path, name: str, times: int
) -> None:
    """Whatever bytes of a file are changed, it gives an extract or a reason, and the process goes on or is replaced."""
    form = FORMATS[(tmp_path / name).suffix]
    chance = random.Random(name)
    for _ in range(times):
        raw = bytearray(SAMPLES[name])
        for _ in range(chance.randint(1, 12)):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        (tmp_path / name).write_bytes(raw[: chance.choice([len(raw), len(raw), chance.randrange(len(raw))])])
        try:
            Extract.from_json(document_parsers.extract(tmp_path / name, form.parser, form.language))
        except Unreadable as error:
            assert str(error)  # noqa: PT017 - both ends are right
    (tmp_path / name).write_bytes(SAMPLES[name])
    assert Extract.from_json(document_parsers.extract(tmp_path / name, form.parser, form.language)).parts


@pytest.fixture
def parsers(document_parsers: Parsers) -> Iterator[Parsers]:
    """Yield a process of this test, with little time and memory."""
    own = Parsers(Limits(seconds=0, memory_bytes=200 * 2**20, characters=10_000_000))
    yield own
    own.close()


def test_process_is_one_for_many_files_and_replaced_when_killed(parsers: Parsers, tmp_path: Path) -> None:
    """Files are parsed by one process, which loads only the parsers of their formats; if it is killed, by another."""
    file = tmp_path / "a.html"
    file.write_bytes(b"<p>Text.")
    for _ in range(5):
        parsers.extract(file, "html")
    assert parsers.started == 1
    assert parsers._process is not None
    loaded = Path(f"/proc/{parsers._process.pid}/maps").read_text("utf-8")
    assert "lxml" in loaded
    assert not any(name in loaded for name in ("pdfium", "calamine", "tree_sitter", "numpy"))
    os.kill(parsers._process.pid, signal.SIGKILL)
    assert "Text." in parsers.extract(file, "html")
    assert parsers.started == 2


def test_process_out_of_memory_is_replaced_and_the_reason_is_given(parsers: Parsers, tmp_path: Path) -> None:
    """A page that swells to more than the limit is tried once more by itself, and refused."""
    (tmp_path / "small.html").write_bytes(b"<p>Text.")
    (tmp_path / "large.html").write_bytes(b"<p>a" * 1_000_000)
    parsers.extract(tmp_path / "small.html", "html")
    with pytest.raises(Unreadable, match=r"it needs more than 0\.195 GiB of memory: split it"):
        parsers.extract(tmp_path / "large.html", "html")
    assert parsers.started == 2
    assert "Text." in parsers.extract(tmp_path / "small.html", "html")


def test_process_that_takes_too_long_is_ended_once(
    parsers: Parsers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that needs more processor time than it may have is refused, and not tried again."""
    # On a busy machine, the processor time takes long.
    monkeypatch.setattr("flowbed.sources.extraction.process.PATIENCE", 120)
    file = tmp_path / "a.pdf"
    # A million times the same few words on a page.
    shown = b"BT /F1 1 Tf " + b"(word) Tj 1 1 Td " * 1_000_000 + b"ET"
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>"
    font = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
    file.write_bytes(
        pdf_of([CATALOG, b"<< /Type /Pages /Count 1 /Kids [3 0 R] >>", page, deflated(shown), font])
    )
    own = Parsers(Limits(seconds=0, characters=parsers.limits.characters))
    with pytest.raises(Unreadable, match=r"it takes more than 0 seconds to parse"):
        own.extract(file, "pdf")
    assert own.started == 1
    own.close()


@pytest.mark.parametrize(
    ("sent", "error", "reason"),
    [
        pytest.param(signal.SIGINT, Transient, "was interrupted", id="Ctrl+C"),
        pytest.param(signal.SIGTERM, Transient, "was interrupted", id="stopped"),
        pytest.param(
            signal.SIGKILL, Rejected, "was killed, as when the machine has no memory left", id="killed"
        ),
    ],
)
def test_process_ended_from_outside_does_not_condemn_its_file(
    parsers: Parsers, tmp_path: Path, interruptible: None, sent: int, error: type[Exception], reason: str
) -> None:
    """What waits for it does not wait on, and the file is not called unreadable."""
    os.mkfifo(tmp_path / "a.html")  # a file that never ends
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(parsers.extract, tmp_path / "a.html", "html")
        writer = os.open(tmp_path / "a.html", os.O_WRONLY)  # returns when the process reads it
        assert parsers._process is not None
        os.kill(parsers._process.pid, sent)
        with pytest.raises(error, match=reason) as raised:
            waiting.result(timeout=60)
        os.close(writer)
    assert not isinstance(raised.value, Unreadable)


def test_process_has_no_secret_of_its_parent(
    parsers: Parsers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its environment says where to import from, and nothing else; a module beside the files is not imported."""
    monkeypatch.setenv("SLACK_TOKEN", "secret")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lxml.py").write_text("raise SystemExit(9)")
    (tmp_path / "a.html").write_bytes(b"<p>Text.")
    assert "Text." in parsers.extract(tmp_path / "a.html", "html")
    assert parsers._process is not None
    environment = Path(f"/proc/{parsers._process.pid}/environ").read_bytes()
    names = [each.partition(b"=")[0] for each in environment.split(b"\0")]
    assert [name for name in names if name] == [b"PYTHONPATH"]


def test_process_ends_with_what_uses_it(document_parsers: Parsers, tmp_path: Path) -> None:
    (tmp_path / "a.html").write_bytes(b"<p>Text.")
    own = Parsers(Limits())
    own.extract(tmp_path / "a.html", "html")
    process = own._process
    assert process is not None
    del own
    gc.collect()
    assert process.poll() is not None


@pytest.mark.parametrize(
    "megabytes", [5, pytest.param(100, marks=pytest.mark.long)], ids=lambda megabytes: f"{megabytes} MB"
)
def test_large_file_takes_little_memory_of_the_parent(
    document_parsers: Parsers, tmp_path: Path, megabytes: int
) -> None:
    """A file of which more text comes than is allowed is refused; its bytes and its text stay in the other process."""
    file = tmp_path / "a.html"
    file.write_bytes(b"<p>" + b"word " * (megabytes * 200_000))
    own = Parsers(Limits(characters=1_000_000))
    tracemalloc.start()
    with pytest.raises(Unreadable, match=r"more than 1,000,000 characters|GiB of memory|seconds to parse"):
        own.extract(file, "html")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    own.close()
    assert peak < 4 * 2**20
