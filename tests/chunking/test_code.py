"""Source code: cut between definitions, with the names of those around each piece."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from flowbed.chunking import Rules, chunk
from flowbed.records import Chunk, Document
from flowbed.records.extracts import CODE, Extract, Part

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flowbed.sources.extraction.process import Parsers

    Made = Callable[..., list[Chunk]]


def count(text: str) -> int:
    return len(re.findall(r"\w+|[^\w\s]", text))


@pytest.fixture
def made(document_parsers: Parsers, tmp_path: Path) -> Made:
    """Return a function that chunks Python."""

    def made(text: str, capacity: int = 60) -> list[Chunk]:
        file = tmp_path / "a.py"
        file.write_text(text)
        extract = document_parsers.extract(file, "code", "python")
        rules = Rules(source="s", collections=("s",), capacity=capacity)
        return chunk(Document(id="a.py", kind=CODE, text=extract), rules, count)

    return made


def function(name: str, lines: int, indent: str = "") -> str:
    body = "".join(f"{indent}    value_{line} = compute({line})\n" for line in range(lines))
    return f"{indent}def {name}(self):\n{body}"


def test_functions_that_fit_are_whole(made: Made) -> None:
    """Functions are cut apart, and comments and decorators stay with what follows them."""
    text = (
        "import os\n\n\n"
         "# About one.\n@cached\n" + function("one", 5) + "\n\n"
        + function("two", 5) + "\n\n"
        + "# About\n# three.\n" + function("three", 5)
    )  # fmt: skip
    chunks = made(text)
    starts = [each.text.splitlines()[0] for each in chunks]
    assert "# About one." in starts or starts[0] == "import os"
    assert "def two(self):" in starts
    assert "# About" in starts
    assert [each.metadata.get("headings") for each in chunks][-2:] == ["two", "three"]
    places = [(each.metadata["start"], each.metadata["end"]) for each in chunks]
    assert [text[int(start) : int(end)] for start, end in places] == [each.text for each in chunks]


def test_piece_of_a_class_has_the_names_around_it(made: Made) -> None:
    """A method says which class it is in; a part of a long one also says which method."""
    text = (
        "class Outer:\n    '''Doc.'''\n\n"
        + function("short", 3, "    ")
        + "\n"
        + function("long", 30, "    ")
    )
    chunks = made(text)
    assert chunks[0].sent == chunks[0].text
    assert chunks[0].text.startswith("class Outer:")
    last = chunks[-1]
    assert last.metadata["headings"] == "Outer > long"
    assert last.sent.startswith("Outer > long\n")
    assert max(each.tokens for each in chunks) <= 60
    lost = set(re.findall(r"value_\d+ = compute\(\d+\)", text)) - {
        line.strip() for each in chunks for line in each.text.splitlines()
    }
    assert not lost


def test_inserted_function_changes_its_neighbours_only(made: Made) -> None:
    """Boundaries depend on what is near."""
    functions = [function(f"f{number}", number % 5 + 2) for number in range(40)]
    before = {each.sent for each in made("\n\n".join(functions))}
    functions.insert(20, function("new", 4))
    after = {each.sent for each in made("\n\n".join(functions))}
    assert len(before) > 15
    assert len(after - before) <= 3


def test_code_without_structure_is_cut_by_lines() -> None:
    """A part without blocks, such as an empty file or one line, is text."""
    rules = Rules(source="s", collections=("s",), capacity=16)
    text = Extract(parts=(Part(text="a = 1\n\nb = 2\n" * 20),)).to_json()
    chunks = chunk(Document(id="a.py", kind=CODE, text=text), rules, count)
    assert len(chunks) > 3
    assert max(each.tokens for each in chunks) <= 16
    empty = Extract(parts=(Part(text=""),)).to_json()
    assert chunk(Document(id="a.py", kind=CODE, text=empty), rules, count) == []
