"""Extracts of documents: parts stay apart, tables keep their header, and each chunk has its place."""

from __future__ import annotations

import re

import pytest

from flowbed.chunking import Rules, chunk
from flowbed.errors import Rejected
from flowbed.records import Chunk, Document
from flowbed.records.extracts import EXTRACT, Block, Extract, Form, Part

RULES = Rules(source="docs", collections=("docs",), capacity=40)


def count(text: str) -> int:
    return len(re.findall(r"\w+|[^\w\s]", text))


def made(extract: Extract, title: str = "", rules: Rules = RULES) -> list[Chunk]:
    document = Document(
        id="a.pdf", kind=EXTRACT, text=extract.to_json(), title=title, metadata={"path": "a.pdf"}
    )
    return chunk(document, rules, count)


def block(text: str, whole: str, form: Form, **fields: int | str) -> Block:
    start = whole.index(text)
    return Block(form=form, start=start, end=start + len(text), **fields)  # type: ignore[arg-type]


def test_extract_round_trip_is_equal() -> None:
    extract = Extract(
        parts=(Part(text="# A", blocks=(block("# A", "# A", Form.HEADING, level=1, name="A", anchor="a"),)),),
        title="T",
        url="u",
    )
    assert Extract.from_json(extract.to_json()) == extract


OUTSIDE = Extract(parts=(Part(text="a", blocks=(Block(form=Form.CODE, start=0, end=9),)),)).to_json()


@pytest.mark.parametrize(
    "text", ["", "[]", '{"parts": [{}]}', OUTSIDE], ids=["none", "list", "part", "block"]
)
def test_extract_of_another_shape_is_rejected(text: str) -> None:
    with pytest.raises(Rejected, match="not an extract"):
        chunk(Document(id="a", kind=EXTRACT, text=text), RULES, count)


def test_chunks_do_not_cross_pages_and_open_theirs() -> None:
    """Each page is chunked by itself; its number, its address and its bookmarks are in the metadata."""
    parts = tuple(
        Part(text=text, place={"page": number}, fragment=f"page={number}", headings=f"Chapter {number}")
        for number, text in ((1, "One line."), (3, "word " * 60), (4, "The end."))
    )
    chunks = made(Extract(parts=parts, url="docs/a.pdf"), title="Manual")
    assert [each.metadata["page"] for each in chunks] == [1, 3, 3, 4]
    assert [each.ordinal for each in chunks] == [0, 1, 2, 3]
    assert chunks[3].metadata["url"] == "docs/a.pdf#page=4"
    assert chunks[1].metadata["headings"] == "Chapter 3"
    assert chunks[0].sent == "Manual\n\nOne line."


def test_heading_of_an_earlier_page_goes_on_until_the_next_one() -> None:
    text = "rest " * 30 + "\n2 Out\n" + "more " * 30
    blocks = (
        Block(form=Form.HEADING, start=0, end=0, level=1, name="Intro"),
        block(("rest " * 30).strip(), text, Form.PARAGRAPH),
        block("2 Out", text, Form.HEADING, level=1, name="Out"),
        block(("more " * 30).strip(), text, Form.PARAGRAPH),
    )
    chunks = made(Extract(parts=(Part(text=text, blocks=blocks),)))
    assert [(each.metadata["headings"], each.text[:5]) for each in chunks] == [
        ("Intro", "rest "),
        ("Out", "2 Out"),
    ]


def test_chunk_below_a_heading_has_its_path_and_its_anchor() -> None:
    """A heading stays with what follows it, and the last one with an anchor gives the address."""
    text = "# Leave\n\n" + "rest " * 30 + "\n\n## When sick\n\n" + "call " * 30
    headings = (
        block("# Leave", text, Form.HEADING, level=1, name="Leave", anchor="leave"),
        block(("rest " * 30).strip(), text, Form.PARAGRAPH),
        block("## When sick", text, Form.HEADING, level=2, name="When sick"),
        block(("call " * 30).strip(), text, Form.PARAGRAPH),
    )
    chunks = made(Extract(parts=(Part(text=text, blocks=headings),), url="a.html"))
    assert [each.text.split()[:3] for each in chunks] == [["#", "Leave", "rest"], ["##", "When", "sick"]]
    assert [each.metadata["headings"] for each in chunks] == ["Leave", "Leave > When sick"]
    assert [each.metadata["url"] for each in chunks] == ["a.html#leave", "a.html#leave"]


def test_table_that_does_not_fit_repeats_its_header_and_cuts_no_row() -> None:
    header = "| Name | City |\n| --- | --- |\n"
    rows = [f"| Person {number} | Town {number} |" for number in range(30)]
    text = header + "\n".join(rows)
    table = Block(form=Form.TABLE, start=0, end=len(text), rows=len(header))
    chunks = made(Extract(parts=(Part(text=text, blocks=(table,), place={"sheet": "People"}),)))
    assert len(chunks) > 3
    assert all(each.sent.startswith(header) for each in chunks)
    seen = [line for each in chunks for line in each.sent.removeprefix(header).splitlines()]
    assert seen == rows
    assert {each.metadata["sheet"] for each in chunks} == {"People"}


def test_row_that_does_not_fit_names_its_columns() -> None:
    header = "| Name | Story |\n| --- | --- |\n"
    text = header + "| Ann | " + "word " * 60 + "|"
    table = Block(form=Form.TABLE, start=0, end=len(text), rows=len(header))
    chunks = made(Extract(parts=(Part(text=text, blocks=(table,)),)))
    assert any(each.text.startswith("Name: Ann") for each in chunks)
    assert max(each.tokens for each in chunks) <= RULES.capacity


def test_extract_without_text_is_a_chunk_of_its_title() -> None:
    (only,) = made(Extract(parts=(Part(text=" "),)), title="Empty page")
    assert (only.text, only.sent) == ("Empty page", "Empty page")
