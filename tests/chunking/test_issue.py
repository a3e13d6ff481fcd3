"""Issues: what is sent with each piece, what stays whole, and the reach of a changed note."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbed.chunking import Rules, chunk
from flowbed.errors import Rejected
from flowbed.records import Chunk, Document
from flowbed.records.issues import Issue, Note

RULES = Rules(source="tracker", collections=("tracker",), capacity=100)
TITLE = "Login fails on Safari"


def count(text: str) -> int:
    """Count roughly as tokenizers do: one token per four characters of a word, and one per sign."""
    return sum(-(-len(part) // 4) for part in re.findall(r"\w+|[^\w\s]", text))


def made(issue: Issue, rules: Rules = RULES, title: str = TITLE) -> list[Chunk]:
    document = Document(
        id="7#12", kind="issue", text=issue.to_json(), title=title, metadata={"project": "web/app", "iid": 12}
    )
    return chunk(document, rules, count)


def note(number: int, words: int, author: str = "ann") -> Note:
    body = " ".join(f"w{number}x{word}" for word in range(words))
    return Note(id=str(number), author=author, body=body, url=f"https://git.example/i/12#note_{number}")


def test_issue_pieces_are_sent_with_title_labels_and_author() -> None:
    """Title, labels and the author of a note are sent in front of each piece, and are in no text."""
    chunks = made(
        Issue(
            description="It hangs.", labels=("bug", "ui"), author="zoe", url="u", notes=(note(5, 140, "bob"),)
        )
    )
    first, *rest = chunks
    assert (first.text, first.sent) == ("It hangs.", f"{TITLE}\nlabels: bug, ui\n\nIt hangs.")
    assert first.metadata["author"] == "zoe"
    assert len(rest) > 1
    for piece in rest:
        assert piece.sent == f"{TITLE}\nlabels: bug, ui\nnote by bob\n\n{piece.text}"
        assert "bob" not in piece.text
        assert piece.metadata["url"] == "https://git.example/i/12#note_5"
        assert (piece.metadata["note"], piece.metadata["author"]) == ("5", "bob")
        assert (piece.metadata["project"], piece.metadata["iid"], piece.metadata["title"]) == (
            "web/app",
            12,
            TITLE,
        )
    assert [piece.id for piece in chunks[:2]] == ["tracker#7#12#00000", "tracker#7#12#note_5#00000"]


def test_issue_description_is_cut_at_its_headings() -> None:
    """A piece knows the headings above it."""
    chunks = made(Issue(description=f"# Steps\n\n{'go on ' * 50}\n\n# Expected\n\n{'a page ' * 50}\n"))
    assert [piece.metadata["headings"] for piece in chunks if piece.text.startswith("# ")] == [
        "Steps",
        "Expected",
    ]


def test_issue_short_notes_are_gathered_with_their_authors() -> None:
    """Short notes that follow each other are one chunk, with who said what; a long one is its own."""
    notes = (replace(note(1, 3), body="+1"), replace(note(2, 3, "bob"), body="same here"), note(3, 30))
    _, gathered, *long = made(Issue(description="It hangs.", notes=notes))
    assert gathered.text == "ann: +1\n\nbob: same here"
    assert gathered.metadata["notes"] == "1 2"
    assert gathered.metadata["author"] == "ann, bob"
    assert gathered.metadata["url"] == "https://git.example/i/12#note_1"
    assert {piece.metadata["note"] for piece in long} == {"3"}


def test_issue_without_description_is_found_by_its_title() -> None:
    """An issue without a description has a chunk of its title; one without anything has none."""
    (only,) = made(Issue(labels=("bug",)))
    assert (only.text, only.sent) == (TITLE, f"{TITLE}\nlabels: bug")
    assert made(Issue(), title="") == []
    assert [piece.text for piece in made(Issue(notes=(note(1, 2),)))] == [TITLE, "w1x0 w1x1"]


CODE = "```python\n" + "".join(f"call_{n}()\n\n" for n in range(9)) + "```"
TRACE = "java.lang.IllegalStateException: no session\n" + "".join(
    f"\tat org.example.Login.step{n}(Login.java:{n})\n" for n in range(3)
)
PYTHON = (
    "Traceback (most recent call last):\n"
    '  File "app.py", line 10, in run\n    login()\n  File "app.py", line 20, in login\n    raise KeyError(name)\n'
    "KeyError: 'session'"
)
TABLE = "| a | b |\n|---|---|\n" + "".join(f"| r{n} | s{n} |\n" for n in range(6))


@pytest.mark.parametrize("atom", [CODE, TRACE, PYTHON, TABLE], ids=["code", "java", "python", "table"])
@pytest.mark.parametrize("before", [3, 25, 60, 140])
def test_issue_atom_that_fits_is_never_cut(atom: str, before: int) -> None:
    """Code, a stack trace and a table are in one piece, wherever they are."""
    text = f"# Report\n\n{'so it is ' * before}\n\n{atom.strip()}\n\n{'and then ' * 40}"
    assert count(atom) < 90
    assert [True for piece in made(Issue(description=text), title="") if atom.strip() in piece.text] == [True]


def test_issue_long_code_is_cut_between_lines() -> None:
    """A block of code that does not fit is cut at the ends of its lines."""
    lines = [f"    value_{n} = compute({n})" for n in range(60)]
    chunks = made(Issue(description="Try:\n\n```\n" + "\n".join(lines) + "\n```\n"))
    assert len(chunks) > 3
    assert {line.strip() for piece in chunks for line in piece.text.splitlines()} >= {
        line.strip() for line in lines
    }
    assert all(piece.tokens <= RULES.capacity for piece in chunks)


def test_issue_long_table_repeats_its_header_in_what_is_sent() -> None:
    """Every piece of a table that does not fit is sent with the header row, and no row is cut."""
    rows = [f"| browser {n} | version {n} | fails |" for n in range(60)]
    table = "| Browser | Version | Result |\n|---|---|---|\n" + "\n".join(rows)
    chunks = made(Issue(description=f"# Where\n\n{table}\n\nThat is all."))
    of_rows = [piece for piece in chunks if "| fails |" in piece.text]
    assert len(of_rows) > 3
    assert all(piece.sent.count("| Browser | Version | Result |") == 1 for piece in of_rows)
    assert [
        line for piece in chunks for line in piece.text.splitlines() if line.startswith("| browser")
    ] == rows
    assert {piece.metadata["headings"] for piece in of_rows} == {"Where"}
    assert chunks[-1].text == "That is all."
    assert all(piece.tokens <= RULES.capacity for piece in chunks)


def test_issue_row_that_does_not_fit_names_its_columns() -> None:
    """A row longer than a chunk is written as lines `column: value`."""
    table = f"| Name | Log |\n|---|---|\n| one | {'word ' * 120} |\n| two | short |\n"
    chunks = made(Issue(description=table))
    assert chunks[0].text.startswith("| Name | Log |")
    assert {"Name: one", "Log: word"} <= {piece.text[:9] for piece in chunks}
    assert any("| two | short |" in piece.text and "| Name | Log |" in piece.sent for piece in chunks)
    assert all(piece.tokens <= RULES.capacity for piece in chunks)


def test_issue_of_another_shape_is_rejected() -> None:
    """A document that is no issue says so."""
    with pytest.raises(Rejected, match="not an issue"):
        chunk(Document(id="7#1", kind="issue", text="{}"), RULES, count)


NOTES = st.lists(st.integers(1, 60), min_size=1, max_size=30)
BODIES = st.lists(
    st.sampled_from([CODE, TRACE, PYTHON, TABLE, "# One", "## Two", "some words here", "- item", "w" * 300,
                     "word " * 90, "| x | y |\n|--|--|\n" + "| 1 | 2 |\n" * 50, f"| x |\n|--|\n| {'v ' * 200} |"]),
    max_size=8,
).map("\n\n".join)  # fmt: skip


@given(description=BODIES, body=BODIES, capacity=st.sampled_from([16, 40, 100, 254]))
def test_issue_chunks_keep_to_the_capacity_and_lose_nothing(
    description: str, body: str, capacity: int
) -> None:
    """No chunk sends more than the capacity, ids are unique, and every word is in some chunk."""
    rules = replace(RULES, capacity=capacity)
    issue = Issue(
        description=description, labels=("bug", "a long label"), notes=(replace(note(1, 1), body=body),)
    )
    chunks = made(issue, rules)
    assert all(piece.tokens == count(piece.sent) <= capacity for piece in chunks)
    assert len({piece.id for piece in chunks}) == len(chunks)
    # A word may be longer than a chunk.
    kept = "".join("".join(piece.text.split()) for piece in chunks)
    assert all(word in kept for word in re.findall(r"\w+", f"{description}\n{body}"))
    assert chunks == made(issue, rules)


@given(lengths=NOTES, place=st.integers(0, 29), length=st.integers(0, 60))
def test_issue_changed_note_embeds_its_own_chunks_only(lengths: list[int], place: int, length: int) -> None:
    """After a note was changed, removed or made long, only its own chunks and the groups beside it are other texts."""
    notes = [note(number, words, f"author{number % 3}") for number, words in enumerate(lengths)]
    place %= len(notes)
    after = [*notes]
    after[place] = replace(note(1_000, length), id=notes[place].id)
    before_texts = made(Issue(description="It hangs. " * 40, notes=tuple(notes)))
    after_texts = made(Issue(description="It hangs. " * 40, notes=tuple(after)))
    known = {piece.text_hash for piece in before_texts}
    embedded = [piece for piece in after_texts if piece.text_hash not in known]
    name = notes[place].id
    others = [piece for piece in embedded if name not in _notes(piece)]
    assert len(others) <= 2
    together = {other for piece in before_texts if name in _notes(piece) for other in _notes(piece)}
    for piece in others:
        # They were gathered with it, or now end where it ended their group.
        assert together & _notes(piece) or {int(name) - 1, int(name) + 1} & {
            int(each) for each in _notes(piece)
        }


def test_issue_new_note_at_the_end_of_many_embeds_one_chunk() -> None:
    """A note added to a thousand embeds one chunk."""
    notes = tuple(note(number, 9 + number % 30) for number in range(1_000))
    known = {piece.text_hash for piece in made(Issue(description="It hangs.", notes=notes))}
    after = made(Issue(description="It hangs.", notes=(*notes, note(2_000, 12))))
    assert len([piece for piece in after if piece.text_hash not in known]) == 1


def _notes(piece: Chunk) -> set[str]:
    return {*str(piece.metadata.get("notes", piece.metadata.get("note", ""))).split()}
