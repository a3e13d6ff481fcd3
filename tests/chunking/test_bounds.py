"""Odd documents: the work grows with the text, and chunks are bounded in characters."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbed.chunking import Rules, chunk
from flowbed.chunking.passages import CHARACTERS_PER_TOKEN
from flowbed.chunking.pieces import LONGEST_BLOCK, places
from flowbed.errors import Misconfigured, Rejected
from flowbed.records import Chunk, Document

if TYPE_CHECKING:
    from collections.abc import Callable

RULES = Rules(source="docs", collections=("docs",))
LONGEST = RULES.capacity * CHARACTERS_PER_TOKEN
WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa "

# Texts of any length that some splitter, parser or pattern takes long for, or that have few tokens.
ODD: dict[str, Callable[[int], str]] = {
    "one line of words": lambda size: WORDS * (size // len(WORDS)),
    "one word": lambda size: "x" * size,
    "list markers": lambda size: "1. " * (size // 3),
    "quotation marks": lambda size: "> " * (size // 2),
    "spaces in a line": lambda size: "a" + " " * size + "b",
    "spaces in a heading": lambda size: "# a" + " " * size + "b",
    "attributes of a heading": lambda size: "# " + "{#" * (size // 2),
    "a long underline": lambda size: "a\n" + "=" * size,
    "headings without text": lambda size: "# a\n" * (size // 4),
    "a long list": lambda size: "- a\n" * (size // 4),
    "zero-width characters": lambda size: "\u200b" * size,
    "zero-width lines": lambda size: "\u200b\n" * (size // 2),
    "marks on one letter": lambda size: "a" + "\u0301" * size,
    "joined signs": lambda size: "👩‍" * (size // 2),
    "no spaces": lambda size: "日本語の文。次の文" * (size // 9),
    "link openings": lambda size: "[a](b" * (size // 5),
    "link definitions": lambda size: "[a]: b\n" * (size // 7),
    "code openings": lambda size: "`a" * (size // 2),
    "tags": lambda size: "<a " * (size // 3),
    "separators": lambda size: "\x1c" * size + "a",
    "line ends": lambda size: "\r" * size + "a",
}


def tokens(text: str) -> int:
    """Count as tokenizers of whole words do: a long word is unknown, which is one token."""
    return sum(1 if len(part) > 100 else -(-len(part) // 4) for part in re.findall(r"\w+|[^\w\s]", text))


def made(text: str, kind: str, count: Callable[[str], int] = tokens, title: str = "") -> list[Chunk]:
    return chunk(Document(id="doc", kind=kind, text=text, title=title), RULES, count)


@pytest.mark.parametrize("kind", ["text", "markdown"])
@pytest.mark.parametrize("odd", ODD)
def test_odd_text_is_counted_in_bounded_pieces(odd: str, kind: str) -> None:
    """Five times the text takes about five times the counting, in calls that let other threads take a turn."""
    counted: list[int] = []

    def counting(text: str) -> int:
        counted.append(len(text))
        return tokens(text)

    work = []
    for size in (10_000, 50_000):
        counted.clear()
        made(ODD[odd](size), kind, counting)
        work.append(sum(counted) + size)
        assert max(counted) <= max(LONGEST_BLOCK, LONGEST)
    assert work[1] < 12 * work[0]


@pytest.mark.parametrize("kind", ["text", "markdown"])
@pytest.mark.parametrize("odd", ODD)
def test_chunks_of_odd_text_are_bounded_in_characters(odd: str, kind: str) -> None:
    """A text with few tokens is cut at a number of characters, and nothing is lost but white space."""
    text = ODD[odd](10_000)
    chunks = made(text, kind)
    assert max(len(each.sent) for each in chunks) <= LONGEST
    assert "".join("".join(each.text.split()) for each in chunks) == "".join(text.split())


def test_title_without_end_is_shortened() -> None:
    """A title of a megabyte takes its share of what is sent and no more."""
    count_of: list[int] = []

    def counting(text: str) -> int:
        count_of.append(len(text))
        return tokens(text)

    for title in ("word " * 200_000, "x" * 1_000_000):
        (only,) = made("Some text.", "text", counting, title)
        assert only.sent.endswith("Some text.")
        assert len(only.sent) < LONGEST
    assert max(count_of) <= LONGEST + 2


def test_metadata_that_outgrows_the_text_is_rejected() -> None:
    """A title of a megabyte is not stored a thousand times."""
    with pytest.raises(
        Rejected, match=r"of 1,000,000 characters would be stored with each of its [\d,]+ chunks"
    ):
        made("line of text\n" * 40_000, "text", title="x" * 1_000_000)


def test_edit_in_an_overlong_line_moves_only_near_cuts() -> None:
    """In a line of 400,000 characters, a word put in front changes the chunks of one or two pieces."""
    line = " ".join(f"{number * 7919 % 10_007} words of a line." for number in range(16_000))
    before = {each.text for each in made(line, "text")}
    after = {each.text for each in made(f"Inserted {line}", "text")}
    assert len(before) > 250
    assert len(after - before) < 40


@given(st.text(alphabet=st.sampled_from("ab \n。\u0301\u200d"), max_size=200), st.integers(1, 600))
def test_places_cut_any_text_into_bounded_pieces(text: str, times: int) -> None:
    """Places are in order, inside the text, and no further apart than a splitter takes at once."""
    text = text * times
    found = [0, *places(text, 0, len(text)), len(text)]
    gaps = [after - before for before, after in pairwise(found)]
    assert not text or (min(gaps) >= 0 and max(gaps) <= LONGEST_BLOCK + 32)


def test_markdown_that_is_no_longer_wanted_ends_while_it_is_parsed() -> None:
    """Parsing a document of many blocks asks now and then whether it should go on."""

    class LeftError(Exception):
        pass

    counted: list[str] = []

    def count(text: str) -> int:
        counted.append(text)
        raise LeftError

    with pytest.raises(LeftError):
        made("- a\n" * 100_000, "markdown", count)
    assert counted == [""]


@pytest.mark.parametrize(
    "capacity", [15, 10_000_001, 10**400, 10**5_000], ids=["15", "ten million", "400 digits", "5,000"]
)
def test_capacity_beyond_its_limits_is_misconfigured(capacity: int) -> None:
    """A capacity that no splitter takes is refused with its limits, however large it is."""
    with pytest.raises(Misconfigured, match="must be 16 to 10,000,000"):
        Rules(source="s", collections=("s",), capacity=capacity)
