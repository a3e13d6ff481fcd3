"""Text and Markdown: offsets, capacity, headings, titles, and the reach of an edit."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
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
    """Count roughly as tokenizers do: one token per four characters of a word, and one per sign."""
    return sum(-(-len(part) // 4) for part in re.findall(r"\w+|[^\w\s]", text))


def made(text: str, kind: str = "markdown", rules: Rules = RULES, **fields: str) -> list[Chunk]:
    return chunk(Document(id="doc", kind=kind, text=text, **fields), rules, count)  # type: ignore[arg-type]


def section(heading: str, words: int) -> str:
    return f"{heading}\n\n" + "word " * words + "\n\n"


@pytest.mark.parametrize("kind", ["text", "markdown"])
@given(text=TEXTS, title=st.sampled_from(["", "A title", "long " * 50]))
def test_chunks_cover_the_text_in_order(kind: str, text: str, title: str) -> None:
    """Chunks are the text between their offsets, in order, leaving out only white space.

    Only a row of a table that does not fit is written in another way, column by column.
    """
    chunks = made(text, kind, SMALL, title=title)
    if not text.strip():
        assert [part.text for part in chunks] == [" ".join(title.split())] * bool(title)
        return
    position = 0
    for ordinal, part in enumerate(chunks):
        start, end = part.metadata["start"], part.metadata["end"]
        assert isinstance(start, int)
        assert isinstance(end, int)
        if part.text != text[start:end]:
            assert kind == "markdown"
            assert "|---|---|" in text[:end]
            assert set(re.findall(r"\w+", part.text)) <= set(re.findall(r"\w+", text[:end]))
        assert part.text.strip()
        assert not text[position:start].strip()
        assert (part.ordinal, part.id) == (ordinal, f"docs#doc#{ordinal:05d}")
        position = end
    assert not text[position:].strip()


@pytest.mark.parametrize("kind", ["text", "markdown"])
@given(text=TEXTS, title=st.sampled_from(["", "A title", "long " * 50]))
def test_chunks_keep_to_the_capacity(kind: str, text: str, title: str) -> None:
    """No chunk sends more than the capacity, including its title, and its token count is right."""
    for part in made(text, kind, SMALL, title=title):
        assert part.tokens == count(part.sent) <= SMALL.capacity


@pytest.mark.parametrize("kind", ["text", "markdown"])
@given(text=TEXTS)
def test_chunk_twice_gives_the_same_chunks(kind: str, text: str) -> None:
    """The same document gives the same chunks."""
    assert made(text, kind, SMALL) == made(text, kind, SMALL)


def test_unsplittable_text_is_kept_whole() -> None:
    """A text that cannot be split is kept whole even above the capacity, never cut or dropped."""
    parts = chunk(Document(id="doc", kind="text", text="🧾"), SMALL, lambda text: 50 * len(text))
    assert [part.text for part in parts] == ["🧾"]


@pytest.mark.parametrize("name", ["rfc9002.md", "rfc9204.md"])
@pytest.mark.parametrize("kind", ["text", "markdown"])
def test_chunks_use_the_capacity(data: Path, name: str, kind: str) -> None:
    """Chunks of long documents use a good part of the capacity."""
    sizes = [part.tokens for part in made((data / "documents" / name).read_text(), kind)]
    assert max(sizes) <= RULES.capacity
    assert sum(sizes) / len(sizes) > 110


@pytest.mark.parametrize("sentences", [1, 8], ids=["short", "long"])
def test_inserted_paragraph_changes_at_most_three_chunks(data: Path, sentences: int) -> None:
    """A paragraph inserted anywhere into a long document changes what is sent of at most three chunks."""
    text = (data / "documents" / "rfc9002.md").read_text()
    inserted = (
        " ".join(f"Sentence {number} of an inserted paragraph." for number in range(sentences)) + "\n\n"
    )
    before = Counter(part.text_hash for part in made(text))
    places = [0, *(match.end() for match in re.finditer(r"\n\s*\n", text)), len(text)]
    # Every sixteenth place keeps the test short; the offset depends on the length, so that other places are tested too.
    for place in places[sentences % 8 :: 16]:
        glue = "" if place < len(text) else "\n\n"
        after = Counter(part.text_hash for part in made(text[:place] + glue + inserted + text[place:]))
        assert sum((after - before).values()) <= 3, place


def test_edit_at_the_front_moves_no_distant_cut() -> None:
    """In a long text without headings, cuts far from an edit stay where they are."""
    paragraphs = [f"Paragraph {number}. " + f"word{number} " * (number % 40) for number in range(400)]
    before = {part.text_hash for part in made("\n\n".join(paragraphs), "text")}
    after = {part.text_hash for part in made("\n\n".join(["New.", *paragraphs]), "text")}
    assert len(after - before) <= 3


def test_equal_lines_are_cut() -> None:
    """Thousands of equal lines are cut, though none is a better place than another."""
    parts = made("the same line\n" * 20_000, "text")
    assert sum(part.text.count("line") for part in parts) == 20_000
    assert len(parts) < 20_000 / 20


def test_chunks_name_their_headings() -> None:
    """Each chunk has the path of its headings, outermost first."""
    text = section("# A", 150) + section("## B", 150) + section("### C", 150) + section("## D", 150)
    assert [part.metadata["headings"] for part in made(text)] == ["A", "A > B", "A > B > C", "A > D"]


def test_headings_follow_markdown() -> None:
    """Underlined headings count, closing marks and attributes do not; nor does anything in a fence or list."""
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
def test_front_matter_is_not_a_heading(newline: str) -> None:
    """Front matter is text without a heading, though its last line looks like an underline."""
    text = "---\ntitle: x\n# a comment\n---\n# A\n\n" + "word " * 250
    first, *_, last = made(text.replace("\n", newline))
    assert first.text.startswith("---")
    assert last.metadata["headings"] == "A"
    assert "headings" not in first.metadata or first.metadata["headings"] == "A"
    assert {part.metadata.get("headings", "") for part in made(text)} <= {"", "A"}


def test_heading_stays_with_its_text() -> None:
    """A heading never ends a chunk; one without text joins the next."""
    text = "".join(section(f"# H{number}\n\n## S{number}", 60 + 7 * number) for number in range(30))
    parts = made(text)
    assert not any(part.text.splitlines()[-1].startswith("#") for part in parts)
    assert all("word" in part.text for part in parts)


def test_small_document_is_one_chunk() -> None:
    """A document that fits is one chunk, including its headings."""
    (part,) = made(section("# A", 20) + section("## B", 20))
    assert part.text.startswith("# A")
    assert part.metadata["headings"] == "A"


def test_title_is_sent_in_front() -> None:
    """Title and text are sent; only the text is shown."""
    (part,) = made("Some text.", title="The  title\n")
    assert part.sent == "The title\n\nSome text."
    assert part.text == "Some text."
    assert part.metadata["title"] == "The title"


def test_long_title_is_shortened() -> None:
    """A title takes at most a quarter of what is sent; the metadata has all of it."""
    title = "many words " * 100
    parts = made("text " * 300, "text", title=title)
    for part in parts:
        front, _, _ = part.sent.partition("\n\n")
        assert count(front) <= RULES.capacity // 4
        assert title.startswith(front)
        assert part.metadata["title"] == title.strip()


@pytest.mark.parametrize("text", ["", " \n\t\n"])
def test_document_without_text_is_its_title(text: str) -> None:
    """A document without text is its title, once; one with neither has no chunks."""
    (part,) = made(text, title="Only a title")
    assert (part.text, part.sent) == ("Only a title", "Only a title")
    assert made(text) == []


def test_document_metadata_is_on_every_chunk() -> None:
    """A document's metadata is on every chunk; names that Flowbed uses itself get a prefix."""
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


def test_unknown_kind_is_misconfigured() -> None:
    """An unknown kind is refused, and the message lists the known ones."""
    with pytest.raises(Misconfigured, match="the kinds are: code, conversation, extract, issue,"):
        made("x", "film")


@pytest.mark.parametrize("kind", ["text", "markdown"])
@given(text=TEXTS, overlap=st.integers(1, 16))
def test_chunks_with_overlap_begin_with_the_end_of_the_one_before(kind: str, text: str, overlap: int) -> None:
    """A chunk begins with the last whole words before it, of at most so many tokens, and fits with them."""
    chunks = made(text, kind, replace(SMALL, capacity=40, overlap=overlap))
    apart = [each.text for each in made(text, kind, replace(SMALL, capacity=40 - overlap - 1))]
    assert len(chunks) == len(apart)
    for before, own, part in zip(["", *apart], apart, chunks, strict=False):
        shared = part.text.removesuffix(own).removesuffix("\n")
        assert part.text.endswith(own)
        assert before.endswith(shared)
        assert count(shared) <= overlap
        assert not shared or before.split()[-1] == shared.split()[-1]


@pytest.mark.parametrize("overlap", [-1, 128])
def test_rules_overlap_of_more_than_half_is_misconfigured(overlap: int) -> None:
    with pytest.raises(Misconfigured, match="half of the capacity"):
        replace(RULES, overlap=overlap)


def test_fingerprint_changes_with_every_rule() -> None:
    """The fingerprint changes with every rule that affects chunks."""
    rules = [
        RULES,
        Rules(source="other", collections=("docs",)),
        Rules(source="docs", collections=("others",)),
        Rules(source="docs", collections=("docs",), capacity=100),
        Rules(source="docs", collections=("docs",), neighbours=1),
        Rules(source="docs", collections=("docs",), overlap=10),
    ]
    assert len({rule.fingerprint for rule in rules}) == len(rules)
    assert RULES.fingerprint == Rules(source="docs", collections=("docs",)).fingerprint


def test_invalid_rules_are_misconfigured() -> None:
    """Rules that cannot give sensible chunks are refused."""
    with pytest.raises(Misconfigured, match="capacity is 8"):
        Rules(source="docs", collections=("docs",), capacity=8)
    with pytest.raises(Misconfigured, match="neighbours is -1"):
        Rules(source="docs", collections=("docs",), neighbours=-1)
    with pytest.raises(Misconfigured, match="names no collection"):
        Rules(source="docs", collections=())


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (float("nan"), "no finite number"),
        (float("inf"), "no finite number"),
        (None, "must be a string"),
        ([1], "must be a string"),
        (2**63, "more than 64 bits"),
        (-(2**70), "more than 64 bits"),
    ],
)
def test_unstorable_metadata_is_rejected(value: Any, says: str) -> None:
    """Metadata that the index cannot store exactly is rejected by name."""
    document = Document(id="d", kind="text", text="t", metadata={"odd": value})
    with pytest.raises(Rejected, match=f"'odd'.*{says}"):
        chunk(document, Rules(source="s", collections=("c",)), lambda text: len(text.split()))


def test_metadata_of_every_type_is_kept() -> None:
    """Text, whole and other numbers, true and false go with every chunk as they are."""
    metadata: dict[str, Any] = {"text": "x", "whole": 2**63 - 1, "real": 0.5, "truth": True}
    document = Document(id="d", kind="text", text="t", metadata=metadata)
    (only,) = chunk(document, Rules(source="s", collections=("c",)), lambda text: len(text.split()))
    assert metadata.items() <= only.metadata.items()


def test_block_of_code_that_fits_is_whole() -> None:
    """A fence is not cut at its blank lines, even where the text beside it is short."""
    lines = "".join(f"call_{number}(a)\n" + "\n" * (number % 6 == 0) for number in range(40))
    code = f"```python\n{lines}```"
    (found,) = [each for each in made("\n\n".join(["word " * 20, code, "word " * 50])) if "```" in each.text]
    assert code in found.text


@pytest.mark.parametrize("kind", ["text", "markdown"])
def test_stack_trace_that_fits_is_whole(kind: str) -> None:
    """The exception stays with its frames, in a log as in a page."""
    trace = (
        "java.lang.IllegalStateException: closed\n"
        + "".join(f"\tat com.acme.Shop.step{number}(Shop.java:{number})\n" for number in range(9))
    ).rstrip()
    text = "\n".join(
        [*(f"12:00:{number} a line of a log" for number in range(25)), trace, *["more of it"] * 40]
    )
    (found,) = [each for each in made(text, kind) if "Shop.java" in each.text]
    assert trace in found.text


def test_table_of_markdown_that_does_not_fit_repeats_its_header() -> None:
    """No row is cut, and each piece is sent with the names of the columns; the text has only its rows."""
    header = "| Name | City |\n|---|---|\n"
    rows = [f"| Person number {number} | Town {number} |" for number in range(60)]
    chunks = made("# People\n\n" + header + "\n".join(rows) + "\n\nThe end.")
    tables = [each for each in chunks if "Town" in each.text]
    assert len(tables) > 2
    assert all(header in each.sent for each in tables)
    assert header not in tables[1].text
    assert [line for each in tables for line in each.text.splitlines() if "Town" in line] == rows
    assert {each.metadata["headings"] for each in chunks} == {"People"}
