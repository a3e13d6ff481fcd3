"""Documents that change between runs: at random, and reproducibly by the seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

    from tests.support.processes.killing import Project

WORDS = (
    "amber",
    "basin",
    "cedar",
    "ember",
    "fjord",
    "grove",
    "heath",
    "islet",
    "jetty",
    "knoll",
    "pier",
    "weir",
)
FIXED, FILES, RECORDS = 8, 6, 40
NUMBERS = 400  # records come and go among this many


def edit(project: Project, chance: random.Random, turn: int, *, repeats: bool) -> None:
    """Add, change and remove files and records; with `repeats`, some of them share a text."""
    docs = project.folder / "docs"
    there = sorted(docs.glob("*")) if docs.exists() else []
    for path in chance.sample(there, min(2, len(there))):
        path.unlink()
    names = [path.name for path in chance.sample(there, min(3, len(there)))]
    for name in [*names, *(f"{turn}-{number}.md" for number in range(FILES))]:
        project.write_text(f"docs/{name}", f"# {name}\n\n{sentence(chance, 30)}")
    # Numbers that stay the same from turn to turn are records that stay; others come, change and go.
    records = [{"id": number, "text": f"{number} of {number}"} for number in range(FIXED)]
    texts = [sentence(chance, 6) for _ in range(RECORDS)]
    texts = chance.choices(texts, k=RECORDS) if repeats else texts
    records += [{"id": chance.randrange(FIXED, NUMBERS), "text": text} for text in texts]
    project.write_lines("notes.jsonl", list({record["id"]: record for record in records}.values()))


def sentence(chance: random.Random, words: int) -> str:
    """Make up a sentence that ends in a unique number."""
    return f"{' '.join(chance.choices(WORDS, k=words))} {chance.getrandbits(40)}"
