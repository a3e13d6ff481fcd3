"""docs/benchmarks.md keeps what was not measured again."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from benchmarks import issue_pieces, page, questions, windows
from benchmarks.machine import Load
from benchmarks.page import BENCHMARKS, HEAD, write_page
from benchmarks.results import Figure, Result
from benchmarks.windows import cut

from flowbed.records import Document
from flowbed.records.conversations import Conversation, Message
from flowbed.records.issues import Issue, Note

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """Return a folder with the page as it is published."""
    (tmp_path / "docs").mkdir()
    shutil.copy(DOCS / "benchmarks.md", tmp_path / "docs")
    return tmp_path / "docs"


def measured(name: str, folder: Path, *, day: str, value: float) -> None:
    """Store a result whose figure and section show `value`."""
    load = Load(**dict.fromkeys(Load.__dataclass_fields__, 0.0))
    command = f"python -m benchmarks {name}"
    found = {"value": value}
    Result(name=name, command=command, day=day, seconds=60, machine=["one"], load=load, found=found).write(
        folder
    )


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the benchmark `limits` one whose results are a number."""

    def figures(found: dict[str, Any]) -> list[Figure]:
        return [Figure(what="The number", value=found["value"], target=1)]

    def section(found: dict[str, Any]) -> str:
        return f"## Limits again\n\nIt is {found['value']}.\n"

    monkeypatch.setitem(page.BENCHMARKS, "limits", SimpleNamespace(figures=figures, section=section))


def test_write_page_without_results_changes_nothing(docs: Path, tmp_path: Path) -> None:
    """The published page is as `make bench` writes it."""
    before = (docs / "benchmarks.md").read_text("utf-8")
    assert HEAD in before
    assert write_page(tmp_path / "results", docs) == before


@pytest.mark.usefixtures("limits")
def test_write_page_one_result_replaces_its_part_alone(docs: Path, tmp_path: Path) -> None:
    before = (docs / "benchmarks.md").read_text("utf-8")
    for value in (2.0, 3.0):
        measured("limits", tmp_path / "results", day="2031-01-02", value=value)
        after = write_page(tmp_path / "results", docs)
    changed = set(before.splitlines()) ^ set(after.splitlines())
    assert "| The number | 3.0x | at least 1.0x | met | limits, 2031-01-02 |" in after
    assert "It is 3.0." in after
    assert "2.0x | at least 1.0x" not in after
    assert "## Rate limits" in changed
    others = [name for name in BENCHMARKS if name != "limits"]
    assert not [line for line in changed if any(f"| {name}, 20" in line for name in others)]
    assert after.count("\n## ") == before.count("\n## ")
    assert "`python -m benchmarks limits` on 2031-01-02" in after
    assert after.count("`python -m benchmarks limits`") == 1


@pytest.mark.usefixtures("limits")
def test_write_page_without_a_page_writes_what_was_measured(tmp_path: Path) -> None:
    measured("limits", tmp_path / "results", day="2031-01-02", value=2)
    written = write_page(tmp_path / "results", tmp_path / "new")
    assert written.count("\n## ") == 1
    assert "Not measured yet: receipts," in written


async def test_questions_each_has_an_answer_in_the_data(data: Path) -> None:
    """At least 60 questions about chats and 30 about issues, all different, name messages or issues that are there."""
    asked = questions.read_questions()
    assert len(asked["slack"]) + len(asked["discord"]) >= 60
    assert len(asked["issues"]) >= 30
    held_out = questions.read_questions(questions.HELD_OUT)
    assert sum(map(len, held_out.values())) >= 30
    texts = [each.text for some in (*asked.values(), *held_out.values()) for each in some]
    assert len(set(texts)) == len(texts)
    for name, some in asked.items():
        documents = await questions.read_documents(data, name)
        known = {owner for document in documents for _, owner in questions.lines_of(document)}
        first = {answer for each in some for answer in each.answers}
        others = {answer for each in held_out[name] for answer in each.answers}
        assert first | others <= known
        assert not first & others


@pytest.mark.parametrize("windows", windows.TRIED.values())
def test_windows_have_every_message_once_and_fit(windows: windows.Windows) -> None:
    talk = Conversation(
        channel="#ops",
        channel_id="C1",
        messages=tuple(
            Message(id=str(n), author="Ann", time=n * n * 60_000_000, text="word " * (n % 7 + 1))
            for n in range(60)
        ),
    )
    document = Document(id="C1/d", kind="conversation", text=talk.to_json())
    found = [*cut(document, windows, 40, lambda text: len(text.split()))]
    assert [name for _, ids in found for name in sorted(ids, key=int)] == [str(n) for n in range(60)]
    assert max(len(sent.split()) for sent, _ in found) <= 40
    assert len(found) < 30


@pytest.mark.parametrize("pieces", issue_pieces.TRIED.values())
def test_pieces_of_issues_have_every_note_once(pieces: issue_pieces.Pieces) -> None:
    """They leave out what readers do not see, and nothing else."""
    notes = tuple(Note(id=str(n), author="Ann", body=f"note{n} " * (n % 4 + 1)) for n in range(30))
    issue = Issue(description="how it fails <!-- fill\nthis in -->", notes=notes)
    document = Document(id="7#1", kind="issue", title="It fails", text=issue.to_json())
    found = Issue.from_json(issue_pieces.changed(document, pieces, 20, lambda text: len(text.split())).text)
    said = " ".join([found.description, *(note.body for note in found.notes)])
    words = [word for word in said.split() if word.startswith("note")]
    assert words == [f"note{n}" for n in range(30) for _ in range(n % 4 + 1)]
    assert ("fill" in said) != pieces.visible
    assert "how it fails" in said
    assert len(found.notes) < 30 or pieces.visible


def test_questions_recall_and_reciprocal_rank_of_places() -> None:
    ranks = [0, 4, 5, 9, 10]
    assert questions.recall(ranks) == 2 / 5
    assert questions.reciprocal(ranks) == pytest.approx((1 + 1 / 5 + 1 / 6 + 1 / 10) / 5)
