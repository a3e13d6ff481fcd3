"""Text and Markdown: offsets, capacity, headings, titles, and how far an edit reaches."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbed.chunking import Rules, chunk
from flowbed.errors import Misconfigured, Rejected
from flowbed.records import Chunk, Document

if TYPE_CHECKING:
    from pathlib import Path

RULES = Rules(source="docs", collections=("docs",))
SMALL = Rules(source="docs", collections=("docs",), capacity=16)

LINES = st.sampled_from([
    "# One", "## Two", "Setext\n======", "", "", "text of a few words", "- item", "  - inner", "> quoted",
    "```", "~~~", "# in a fence?", "| a | b |", "|---|---|", "    code", "---", "title: x", "日本語の文。次の文。",
    "a\u0301 🧾👨‍👩‍👧", "w" * 200, "A sentence. " * 40, "\t", "<div>", "&amp; \\#", "\x0b\u2028 odd",
])  # fmt: skip
TEXTS = st.tuples(
    st.lists(LINES, max_size=30), st.sampled_from(["\n", "\r\n", "\r"]), st.text(max_size=80)
).map(lambda parts: parts[1].join(parts[0]) + parts[2].encode(errors="ignore").decode())


def count(text: str) -> int:
    """Count as tokenizers do, more or less: a token for four characters of a word, one for each sign."""
    return sum(-(-len(part) // 4) for part in re.findall(r"\w+|[^\w\s]", text))


def made(text: str, kind: str = "markdown", rules: Rules = RULES, **fields: str) -> list[Chunk]:
    return chunk(Document(id="doc", kind=kind, text=text, **fields), rules, count)  # type: ignore[arg-type]


def section(heading: str, words: int) -> str:
    return f"{heading}\n\n" + "word " * words + "\n\n"


@pytest.mark.parametrize("kind", ["text", "markdown"])
@given(text=TEXTS, title=st.sampled_from(["", "A title", "long " * 50]))
def test_offsets_and_cover(kind: str, text: str, title: str) -> None:
    """Chunks are the text between their offsets, in order, and leave out nothing but white space."""
    chunks = made(text, kind, SMALL, title=title)
    if not text.strip():
        assert [part.text for part in chunks] == [" ".join(title.split())] * bool(title)
        return
    position = 0
    for ordinal, part in enumerate(chunks):
        start, end = part.metadata["start"], part.metadata["end"]
        assert isinstance(start, int)
        assert isinstance(end, int)
        assert text[start:end] == part.text
        assert part.text.strip()
        assert not text[position:start].strip()
        assert (part.ordinal, part.id) == (ordinal, f"docs#doc#{ordinal:05d}")
        position = end
    assert not text[position:].strip()


@pytest.mark.parametrize("kind", ["text", "markdown"])
@given(text=TEXTS, title=st.sampled_from(["", "A title", "long " * 50]))
def test_capacity(kind: str, text: str, title: str) -> None:
    """No chunk sends more than the capacity, title included, and says how much it sends."""
    for part in made(text, kind, SMALL, title=title):
        assert part.tokens == count(part.sent) <= SMALL.capacity


@pytest.mark.parametrize("kind", ["text", "markdown"])
@given(text=TEXTS)
def test_determinism(kind: str, text: str) -> None:
    """The same document gives the same chunks."""
    assert made(text, kind, SMALL) == made(text, kind, SMALL)


def test_what_cannot_be_split_is_kept_whole() -> None:
    """A text that cannot be split is kept whole where it exceeds the capacity, never cut or dropped."""
    parts = chunk(Document(id="doc", kind="text", text="🧾"), SMALL, lambda text: 50 * len(text))
    assert [part.text for part in parts] == ["🧾"]


@pytest.mark.parametrize("name", ["rfc9002.md", "rfc9204.md"])
@pytest.mark.parametrize("kind", ["text", "markdown"])
def test_chunks_are_neither_tiny_nor_too_large(data: Path, name: str, kind: str) -> None:
    """Long documents become chunks that use a good part of the capacity."""
    sizes = [part.tokens for part in made((data / "documents" / name).read_text(), kind)]
    assert max(sizes) <= RULES.capacity
    assert sum(sizes) / len(sizes) > 110


@pytest.mark.parametrize("sentences", [1, 8], ids=["short", "long"])
def test_an_inserted_paragraph_changes_few_chunks(data: Path, sentences: int) -> None:
    """A paragraph inserted anywhere into a long document changes at most three chunks of what is sent."""
    text = (data / "documents" / "rfc9002.md").read_text()
    inserted = (
        " ".join(f"Sentence {number} of an inserted paragraph." for number in range(sentences)) + "\n\n"
    )
    before = Counter(part.text_hash for part in made(text))
    places = [0, *(match.end() for match in re.finditer(r"\n\s*\n", text)), len(text)]
    # Every fourth place keeps the test short; the offset moves with the length, so that more places are met.
    for place in places[sentences % 4 :: 4]:
        glue = "" if place < len(text) else "\n\n"
        after = Counter(part.text_hash for part in made(text[:place] + glue + inserted + text[place:]))
        assert sum((after - before).values()) <= 3, place


def test_an_edit_at_the_front_of_a_long_text_stays_there() -> None:
    """In a long text without headings, cuts far from an edit stay where they are."""
    paragraphs = [f"Paragraph {number}. " + f"word{number} " * (number % 40) for number in range(400)]
    before = {part.text_hash for part in made("\n\n".join(paragraphs), "text")}
    after = {part.text_hash for part in made("\n\n".join(["New.", *paragraphs]), "text")}
    assert len(after - before) <= 3


def test_a_long_log_of_equal_lines_is_cut() -> None:
    """Thousands of equal lines, none better to cut at than another, are cut all the same."""
    parts = made("the same line\n" * 20_000, "text")
    assert sum(part.text.count("line") for part in parts) == 20_000
    assert len(parts) < 20_000 / 20


def test_heading_paths() -> None:
    """Each chunk names the headings it stands under, outermost first."""
    text = section("# A", 150) + section("## B", 150) + section("### C", 150) + section("## D", 150)
    assert [part.metadata["headings"] for part in made(text)] == ["A", "A > B", "A > B > C", "A > D"]


def test_headings_as_markdown_has_them() -> None:
    """Underlined headings count, closing marks and attributes do not; what is in a fence or a list is no heading."""
    text = (
        "Top\n===\n\n"
        + "one " * 200
        + "\n\nSub *title*\n---\n\n"
        + "two " * 200
        + "\n\n```sh\n# a comment\n\n"
        + "three " * 200
        + "\n```\n\n- # in a list\n\n## Last {#last} ##\n\n"
        + "four " * 200
    )
    paths = dict.fromkeys(part.metadata["headings"] for part in made(text))
    assert list(paths) == ["Top", "Top > Sub *title*", "Top > Last"]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_front_matter_is_no_heading(newline: str) -> None:
    """Front matter is text without a heading, though its last line underlines it."""
    text = "---\ntitle: x\n# a comment\n---\n# A\n\n" + "word " * 250
    first, *_, last = made(text.replace("\n", newline))
    assert first.text.startswith("---")
    assert last.metadata["headings"] == "A"
    assert "headings" not in first.metadata or first.metadata["headings"] == "A"
    assert {part.metadata.get("headings", "") for part in made(text)} <= {"", "A"}


def test_a_heading_stays_with_its_text() -> None:
    """A heading is never the end of a chunk; one without text of its own joins the next."""
    text = "".join(section(f"# H{number}\n\n## S{number}", 60 + 7 * number) for number in range(30))
    parts = made(text)
    assert not any(part.text.splitlines()[-1].startswith("#") for part in parts)
    assert all("word" in part.text for part in parts)


def test_small_neighbours_share_a_chunk() -> None:
    """A document that fits is one chunk, headings and all."""
    (part,) = made(section("# A", 20) + section("## B", 20))
    assert part.text.startswith("# A")
    assert part.metadata["headings"] == "A"


def test_the_title_is_sent_in_front() -> None:
    """What is sent is title and text; what is shown is the text."""
    (part,) = made("Some text.", title="The  title\n")
    assert part.sent == "The title\n\nSome text."
    assert part.text == "Some text."
    assert part.metadata["title"] == "The title"


def test_a_long_title_leaves_room() -> None:
    """A title takes at most a quarter of what is sent; the metadata hold all of it."""
    title = "many words " * 100
    parts = made("text " * 300, "text", title=title)
    for part in parts:
        front, _, _ = part.sent.partition("\n\n")
        assert count(front) <= RULES.capacity // 4
        assert title.startswith(front)
        assert part.metadata["title"] == title.strip()


@pytest.mark.parametrize("text", ["", " \n\t\n"])
def test_a_title_without_text(text: str) -> None:
    """A document without text is its title, once; one without either has no chunks."""
    (part,) = made(text, title="Only a title")
    assert (part.text, part.sent) == ("Only a title", "Only a title")
    assert made(text) == []


def test_metadata_of_the_document() -> None:
    """A document's metadata is on every chunk; names that Flowbed uses itself are kept with a prefix."""
    document = Document(
        id="doc", kind="text", text="x", metadata={"lang": "de", "source": "theirs", "end": 9}
    )
    (part,) = chunk(document, RULES, count)
    assert part.metadata == {
        "source": "docs",
        "document": "doc",
        "start": 0,
        "end": 1,
        "lang": "de",
        "document_source": "theirs",
        "document_end": 9,
    }


def test_an_unknown_kind_is_misconfigured() -> None:
    """A kind that nobody chunks is refused, naming those that somebody does."""
    with pytest.raises(Misconfigured, match="the kinds are: text, markdown, receipt"):
        made("x", "film")


def test_the_fingerprint_changes_with_every_rule() -> None:
    """The fingerprint differs for rules under which a document would be chunked otherwise."""
    rules = [
        RULES,
        Rules(source="other", collections=("docs",)),
        Rules(source="docs", collections=("others",)),
        Rules(source="docs", collections=("docs",), capacity=100),
        Rules(source="docs", collections=("docs",), neighbours=1),
    ]
    assert len({rule.fingerprint for rule in rules}) == len(rules)
    assert RULES.fingerprint == Rules(source="docs", collections=("docs",)).fingerprint


def test_senseless_rules_are_misconfigured() -> None:
    """Rules under which nothing could be chunked are refused."""
    with pytest.raises(Misconfigured, match="capacity is 8"):
        Rules(source="docs", collections=("docs",), capacity=8)
    with pytest.raises(Misconfigured, match="neighbours is -1"):
        Rules(source="docs", collections=("docs",), neighbours=-1)
    with pytest.raises(Misconfigured, match="names no collection"):
        Rules(source="docs", collections=())


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (float("nan"), "must be a string"),
        (float("inf"), "must be a string"),
        (None, "must be a string"),
        ([1], "must be a string"),
        (2**63, "more than 64 bits"),
        (-(2**70), "more than 64 bits"),
    ],
)
def test_metadata_that_no_filter_could_ask_for_is_rejected(value: Any, says: str) -> None:
    """What the index could only hold as something else is refused by name, before anything is stored."""
    document = Document(id="d", kind="text", text="t", metadata={"odd": value})
    with pytest.raises(Rejected, match=f"'odd'.*{says}"):
        chunk(document, Rules(source="s", collections=("c",)), lambda text: len(text.split()))


def test_metadata_of_every_type_is_kept() -> None:
    """Text, whole and other numbers, true and false go with every chunk as they are."""
    metadata: dict[str, Any] = {"text": "x", "whole": 2**63 - 1, "real": 0.5, "truth": True}
    document = Document(id="d", kind="text", text="t", metadata=metadata)
    (only,) = chunk(document, Rules(source="s", collections=("c",)), lambda text: len(text.split()))
    assert metadata.items() <= only.metadata.items()
