"""What each parser finds in a file: texts, headings, tables, places and titles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.support.documents import docx, paragraph, pdf, pptx, word_table, xlsx

from flowbed.records.extracts import Extract, Form
from flowbed.sources.files.formats import FORMATS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flowbed.sources.extraction.process import Parsers

    Read = Callable[[str, bytes | str], Extract]

PAGE = """<!DOCTYPE html><html><head><title>Staff &amp; leave</title><style>p {color: red}</style></head><body>
<nav>Home | Search</nav><header><h1 id="top">Leave</h1></header><p>Ask   your
manager<br>first.</p><section id="sick"><h2>When sick<a href="#sick">¶</a></h2><p>Call <b>before</b> nine.</p></section>
<ul><li>one<ul><li>two</li></ul></li></ul><pre><code class="language-python">def f():
    return "&lt;"
</code></pre><table><caption>Days</caption><tr><th>Name</th><th>Days|year</th></tr><tr><td>Ann</td><td>30</td></tr>
<tr><td colspan="2">closed</td></tr></table><script>alert("no")</script><img src="x" alt="A chart"><footer>(c)</footer>
</body></html>"""


@pytest.fixture
def read(document_parsers: Parsers, tmp_path: Path) -> Read:
    """Return a function that writes a file and returns its extract."""

    def read(name: str, content: bytes | str) -> Extract:
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        form = FORMATS[file.suffix]
        return Extract.from_json(document_parsers.extract(file, form.parser, form.language))

    return read


def named(extract: Extract, form: Form) -> list[tuple[int, str]]:
    return [(each.level, each.name) for part in extract.parts for each in part.blocks if each.form is form]


def test_html_keeps_its_structure_and_leaves_out_what_is_no_text(read: Read) -> None:
    """Headings, lists, code and tables are there; scripts, styles, navigation and footers are not."""
    extract = read("a.html", PAGE)
    (part,) = extract.parts
    assert extract.title == "Staff & leave"
    assert part.text == (
        "# Leave\n\nAsk your manager\nfirst.\n\n## When sick\n\nCall before nine.\n\n- one\n\n  - two\n\n"
        '```python\ndef f():\n    return "<"\n```\n\nDays\n\n| Name | Days\\|year |\n| --- | --- |\n| Ann | 30 |\n'
        "| closed |\n\nA chart"
    )
    assert [(each.name, each.anchor) for each in part.blocks if each.form is Form.HEADING] == [
        ("Leave", "top"),
        ("When sick", "sick"),
    ]
    (table,) = (each for each in part.blocks if each.form is Form.TABLE)
    assert part.text[table.rows : table.end] == "| Ann | 30 |\n| closed |"


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param("<p>café 日本".encode(), id="no encoding named"),
        pytest.param(
            "<meta charset=shift_jis><p>caf\u00e9 日本".encode("shift_jis", "xmlcharrefreplace"), id="named"
        ),
        pytest.param("<p>café 日本".encode("utf-16"), id="byte order mark"),
        pytest.param("<meta charset=utf-16><p>café 日本".encode(), id="named wrongly"),
        pytest.param("<meta charset=rot13><p>café 日本".encode(), id="no encoding of pages"),
        pytest.param(
            f"<script>{' ' * 9_000}</script><meta charset='GB2312'><p>café 日本".encode("gb18030"),
            id="named late",
        ),
        pytest.param(
            "<?xml version='1.0' encoding='EUC-JP'?><p>caf&#xe9; 日本".encode("euc_jp"), id="named by XML"
        ),
    ],
)
def test_html_in_any_encoding_is_read(read: Read, raw: bytes) -> None:
    assert read("a.htm", raw).parts[0].text == "café 日本"


@pytest.mark.parametrize(
    ("named", "codec", "text"),
    [
        ("Shift_JIS", "cp932", "①番の㈱髙島屋"),
        ("x-sjis", "cp932", "①番の㈱髙島屋"),
        ("EUC-JP", "euc_jis_2004", "①番"),
        ("gb2312", "gbk", "朱镕基與髙"),
        ("euc-kr", "cp949", "똠방각하"),
        ("iso-8859-1", "cp1252", "“quoted” … €5"),
    ],
)
def test_html_has_letters_that_its_encoding_got_later(read: Read, named: str, codec: str, text: str) -> None:
    """Pages name the encodings of old, and have those of Windows; nothing after such a letter is lost."""
    page = f"<meta charset={named}><p>{text}</p><p>after".encode(codec)
    assert read("a.html", page).parts[0].text == f"{text}\n\nafter"


def test_html_with_a_letter_that_is_cut_is_read(read: Read) -> None:
    assert (
        read("a.html", "<p>日本語の".encode()[:-1] + b"</p><p>after").parts[0].text == "日本語\ufffd\n\nafter"
    )


def test_html_tables_that_only_arrange_the_page_are_text(read: Read) -> None:
    """A table that holds headings or other tables is read as blocks."""
    page = "<table><tr><td><h2>Left</h2><p>a</p></td><td><table><tr><td>x<td>y<tr><td>1<td>2</table></td></tr></table>"
    (part,) = read("a.html", page).parts
    assert part.text == "## Left\n\na\n\n| x | y |\n| --- | --- |\n| 1 | 2 |"


def test_word_keeps_headings_tables_and_accepted_changes(read: Read) -> None:
    body = (
        paragraph("Guide", "Title")
        + paragraph("Leave", "H1")
        + paragraph("Ask your manager.")
        + paragraph("added", inside="w:ins")
        + paragraph("removed", inside="w:del")
        + word_table([["Name", "Days"], ["Ann", "30"]])
    )
    extract = read("a.docx", docx(body, "Handbook"))
    assert extract.title == "Handbook"
    assert extract.parts[0].text == (
        "# Guide\n\n# Leave\n\nAsk your manager.\n\nadded\n\n| Name | Days |\n| --- | --- |\n| Ann | 30 |"
    )
    assert named(extract, Form.HEADING) == [(1, "Guide"), (1, "Leave")]


def test_pdf_has_a_part_per_page_with_its_bookmarks(read: Read) -> None:
    """A page without text is no part, and keeps the numbers of the others."""
    texts = ["1 Intro\nline two", "", "rest\n2 Out\nmore"]
    raw = pdf(texts, title="Microsoft Word - Manual.docx", bookmarks={"Intro": 1, "Out": 3, "Unwritten": 3})
    extract = read("a.pdf", raw)
    assert extract.title == "Manual"
    assert [(part.text, dict(part.place), part.fragment) for part in extract.parts] == [
        ("1 Intro\nline two", {"page": 1}, "page=1"),
        ("rest\n2 Out\nmore", {"page": 3}, "page=3"),
    ]
    assert [
        (each.name, each.start, each.end) for each in extract.parts[1].blocks if each.form is Form.HEADING
    ] == [
        ("Intro", 0, 0),
        ("Out", 5, 10),
        ("Unwritten", 10, 10),
    ]


def test_slides_have_a_part_each(read: Read) -> None:
    extract = read("a.pptx", pptx([("Roadmap", ["First", "Second"]), ("", []), ("End", [])], "Plan"))
    assert extract.title == "Plan"
    assert [(part.text, dict(part.place), part.fragment) for part in extract.parts] == [
        ("# Roadmap\n\nFirst\n\nSecond", {"slide": 1}, "slide=1"),
        ("# End", {"slide": 3}, "slide=3"),
    ]


def test_sheets_are_tables_under_their_names(read: Read) -> None:
    """Lines above the header are text, numbers are written as people do, and empty sheets are left out."""
    rows: list[list[object]] = [["Prices"], [], ["Item", "Price", ""], ["Tea", 3.5], ["", ""], ["Coffee", 4]]
    extract = read("a.xlsx", xlsx({"Prices & more": rows, "Empty": []}))
    (part,) = extract.parts
    assert part.text == "Prices\n\n| Item | Price |\n| --- | --- |\n| Tea | 3.5 |\n| Coffee | 4 |"
    assert (dict(part.place), part.fragment, part.headings) == (
        {"sheet": "Prices & more"},
        "Prices%20%26%20more",
        "Prices & more",
    )


CODE = {
    "a.py": ("class Ä:\n    '''é'''\n    @deco\n    def m(self):\n        return 1\n", ["Ä", "m"]),
    "a.js": ("class A {\n  m() {\n  }\n}\nconst f = (a) => {\n  return 1\n}\n", ["A", "m", "f"]),
    "a.ts": (
        "export interface I {\n  a: string\n}\nnamespace N {\n  function q() {\n  }\n}\n",
        ["I", "N", "q"],
    ),
    "a.tsx": ("export function V() {\n  return <b/>\n}\n", ["V"]),
    "a.java": ("class A {\n  @Override\n  int m() {\n    return 1;\n  }\n}\n", ["A", "m"]),
    "a.go": ("package a\nfunc (s *S) M() int {\n\treturn 1\n}\n", ["M"]),
    "a.rs": ("impl T for Bar {\n  fn m() {\n  }\n}\n", ["Bar", "m"]),
    "a.c": ("static int *f(int a) {\n  return 0;\n}\n", ["f"]),
    "a.cpp": ("namespace n {\nint A::m() {\n  return 1;\n}\n}\n", ["n", "A::m"]),
    "a.cs": ("class A {\n  int M() {\n    return 1;\n  }\n}\n", ["A", "M"]),
    "a.rb": ("module M\n  def m\n    1\n  end\nend\n", ["M", "m"]),
    "a.php": ("<?php\nclass A {\n  function m() {\n  }\n}\n", ["A", "m"]),
    "a.sh": ("f() {\n  echo 1\n}\n", ["f"]),
    "a.kt": ("class A {\n  fun m() {\n  }\n}\n", ["A", "m"]),
    "a.swift": ("class A {\n  func m() {\n  }\n}\n", ["A", "m"]),
}


@pytest.mark.parametrize("name", CODE)
def test_code_of_each_language_has_its_definitions(read: Read, name: str) -> None:
    text, names = CODE[name]
    extract = read(name, text)
    assert extract.parts[0].text == text
    definitions = [each for each in extract.parts[0].blocks if each.form is Form.DEFINITION]
    assert [each.name for each in definitions] == names
    assert all(each.name.split("::")[-1] in text[each.start : each.end] for each in definitions)
