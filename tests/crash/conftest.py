"""Projects that other processes work on and are killed at."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.processes.killing import BATCH, Project

if TYPE_CHECKING:
    from pathlib import Path

    from flowbed.testing.index import Contents

WORDS = (
    "amber",
    "basin",
    "cedar",
    "delta",
    "ember",
    "fjord",
    "grove",
    "heath",
    "islet",
    "jetty",
    "knoll",
    "weir",
)


def sentence(chance: random.Random, words: int = 8) -> str:
    """Return a random sentence that ends in a unique number."""
    return f"{' '.join(chance.choices(WORDS, k=words))} {chance.getrandbits(40)}"


def receipt(number: int, chance: random.Random, lines: int = 4) -> dict[str, Any]:
    """Return a random receipt."""
    words = 0
    made = []
    for line in range(1, lines + 1):
        row = [*chance.choices(WORDS, k=2), str(chance.getrandbits(32))]
        made.append(
            {
                "line_id": line,
                "text": " ".join(row),
                "words": [{"word_id": words + place, "text": word} for place, word in enumerate(row, 1)],
            }
        )
        words += len(row)
    return {
        "image_id": f"image-{number}",
        "receipt_id": 1,
        "merchant_name": WORDS[number % 5].upper(),
        "lines": made,
    }


@pytest.fixture(scope="session")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project of files and receipts that was indexed and then edited in every way.

    Files and receipts were changed, deleted and added, and two sources with new collections were added, one of which
    has more chunks than a batch file holds.
    """
    project = Project(tmp_path_factory.mktemp("edited"), os.environ)
    chance = random.Random(11)
    for number in range(12):
        project.write_text(f"docs/{number:02d}.md", f"# {number}\n\n{sentence(chance, 40)}")
    receipts = [receipt(number, chance) for number in range(10)]
    project.write_lines("receipts.jsonl", receipts)
    project.write_source("docs", "files", "docs")
    project.write_source("receipts", "receipts", "receipts.jsonl")
    project.indexed()
    for number in (1, 4, 7):
        project.write_text(f"docs/{number:02d}.md", f"# {number} again\n\n{sentence(chance, 40)}")
    for number in (2, 5):
        (project.folder / "docs" / f"{number:02d}.md").unlink()
    for number in range(20, 24):
        project.write_text(f"docs/{number:02d}.txt", sentence(chance, 40))
    receipts[3] = receipt(3, chance, lines=2)
    receipts[6]["merchant_name"] = "ANOTHER"  # the same texts, so that only the rows change
    del receipts[8]
    project.write_lines("receipts.jsonl", [*receipts, *(receipt(number, chance) for number in range(30, 36))])
    shared = [sentence(chance) for _ in range(160)]
    project.write_lines(
        "notes.jsonl",
        [{"id": f"n{number}", "text": shared[number % 160]} for number in range(BATCH + 50)],
    )
    project.write_lines("more.jsonl", [{"id": number, "text": sentence(chance)} for number in range(60)])
    project.write_source("notes", "jsonl", "notes.jsonl")
    project.write_source("more", "jsonl", "more.jsonl")
    return project


@pytest.fixture(scope="session")
def uninterrupted(edited: Project, tmp_path_factory: pytest.TempPathFactory) -> Contents:
    """Return the index of the edited project after an undisturbed run."""
    return edited.copy(tmp_path_factory.mktemp("uninterrupted") / "project").indexed()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return an empty project."""
    (tmp_path / "project").mkdir()
    return Project(tmp_path / "project", os.environ)
