"""Comma-separated values: no row is cut, and the header is in front of every piece."""

from __future__ import annotations

import csv
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbed.chunking import Rules, chunk
from flowbed.records import Chunk, Document

RULES = Rules(source="s", collections=("s",), capacity=40)


def count(text: str) -> int:
    return len(re.findall(r"\w+|[^\w\s]", text))


def made(text: str, rules: Rules = RULES) -> list[Chunk]:
    return chunk(Document(id="a.csv", kind="table", text=text), rules, count)


def written(rows: list[list[str]], delimiter: str) -> str:
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter).writerows(rows)
    return file.getvalue()


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"], ids=["comma", "semicolon", "tab", "pipe"])
def test_table_repeats_its_header_and_cuts_no_row(delimiter: str) -> None:
    """A quoted value of several lines is one row, too."""
    rows = [["name", "note"], *([f"n{number}", f'said "{number}"\nand\nmore'] for number in range(20))]
    chunks = made(written(rows, delimiter))
    assert len(chunks) > 3
    read = [list(csv.reader(io.StringIO(each.sent, newline=""), delimiter=delimiter)) for each in chunks]
    assert {tuple(each[0]) for each in read} == {("name", "note")}
    assert [row for each in read for row in each[1:]] == rows[1:]


def test_table_without_header_repeats_nothing() -> None:
    """A first row with numbers is data."""
    chunks = made("\n".join(f"{number},word {number},x" for number in range(40)))
    assert len(chunks) > 3
    assert all(each.sent == each.text for each in chunks)


def test_table_with_lines_above_keeps_them_apart_from_its_header() -> None:
    chunks = made("Report of May\n\nname,city\n" + "\n".join(f"a{number},b" for number in range(30)))
    assert chunks[0].text.startswith("Report of May")
    assert all("name,city" in each.sent for each in chunks)


def test_row_that_does_not_fit_names_its_columns() -> None:
    chunks = made(f"name,story\nAnn,{'word ' * 100}\nBob,short\n")
    assert any(each.text.startswith("name: Ann") for each in chunks)
    assert chunks[-1].sent == "name,story\nBob,short"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("just prose. " * 40, id="no columns"),
        pytest.param('a,b\n"never closed\n' + "x,y\n" * 2_000, id="open quotation mark"),
        pytest.param("a,b\n" + '"' + "x" * 200_000, id="value too long"),
        pytest.param("", id="empty"),
        pytest.param("\n\n,\n", id="nothing in it"),
    ],
)
def test_what_is_no_table_is_text(text: str) -> None:
    chunks = made(text)
    assert "".join("".join(each.text.split()) for each in chunks) == "".join(text.split())


@given(
    st.lists(st.lists(st.text("ab1 \"',;\n", max_size=30), min_size=1, max_size=4), max_size=30).map(
        lambda rows: written(rows, ",")
    ),
    st.sampled_from([16, 24, 40]),
)
def test_any_table_fits_and_loses_nothing(text: str, capacity: int) -> None:
    """Every letter of every value is in some chunk, and no chunk is larger than the capacity."""
    chunks = made(text, Rules(source="s", collections=("s",), capacity=capacity))
    assert all(each.tokens <= capacity for each in chunks)
    sent = "".join(each.sent for each in chunks)
    for row in csv.reader(io.StringIO(text, newline="")):
        for word in re.findall(r"\w+", " ".join(row)):
            assert word[:8] in sent
