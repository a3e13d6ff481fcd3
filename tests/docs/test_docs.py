"""Paths and names in the documentation exist in this tree."""

from __future__ import annotations

import pydoc
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "flowbed"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("demo/*.md")])
ROOMS = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
FOLDERS = {"src", "tests", "docs", "benchmarks", "torture", "demo", "deploy"}
# Files of the example in docs/providers.md.
EXAMPLES = {"acme_tickets.py", "test_tickets.py", "acme_flowbed.py", "test_acme.py"}
# Names of files and of an entry point group.
NO_MODULES = {"flowbed.toml", "flowbed.json", "flowbed.embedders"}
# They import frameworks that are in another environment, where the blocks of docs/frameworks.md are run.
ELSEWHERE = {f"flowbed.integrations.{name}" for name in ("haystack", "langchain", "llamaindex")}


def without_blocks(page: Path) -> str:
    """Return the text of a page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def code_spans(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", without_blocks(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_docs_path_in_a_page_exists(page: Path) -> None:
    """Relative links, `src/...`, `tests/...`, and module paths such as `pipeline/sync.py` or `sync.py` exist."""
    missing = [
        target
        for target in re.findall(r"\]\(([^)#\s]+)", without_blocks(page))
        if "://" not in target and not (page.parent / target).exists()
    ]
    for span in code_spans(page):
        first, slash, _ = span.partition("/")
        if slash and first in FOLDERS and re.fullmatch(r"[\w./-]+", span):
            found = (ROOT / span).exists()
        elif slash and first in ROOMS and re.fullmatch(r"[\w./-]+(\.py|/)", span):
            found = (PACKAGE / span).exists()
        elif re.fullmatch(r"\w+\.py", span) and span not in EXAMPLES:
            found = any(any((ROOT / folder).rglob(span)) for folder in FOLDERS)
        else:
            continue
        if not found:
            missing.append(span)
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_docs_python_name_in_a_page_can_be_imported(page: Path) -> None:
    """Each `flowbed.module.name` in a page is a module or something that a module defines."""
    names = (
        {span for span in code_spans(page) if re.fullmatch(r"flowbed(\.\w+)+", span)} - NO_MODULES - ELSEWHERE
    )
    assert [name for name in sorted(names) if pydoc.locate(name) is None] == []


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_docs_class_in_a_page_exists(name: str) -> None:
    """Each `ClassName` in the glossary or the architecture is defined in the package."""
    source = "\n".join(path.read_text("utf-8") for path in PACKAGE.rglob("*.py"))
    defined = set(re.findall(r"^class (\w+)|^(?=\w)(\w+)(?:: TypeAlias)? = ", source, re.MULTILINE))
    names = {span for span in code_spans(ROOT / name) if re.fullmatch(r"(?:[A-Z][a-z]+){1,4}", span)}
    assert sorted(names - {each for pair in defined for each in pair} - {"Protocol"}) == []


def test_docs_of_the_doctor_have_a_row_for_each_check() -> None:
    from flowbed.maintenance.doctor.findings import CHECKS

    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    table = page.partition("| check | finds |")[2].partition("\n\n")[0]
    # A project that cannot be opened has one of two findings that no check of an open one makes.
    assert sorted(re.findall(r"^\| `([a-z-]+)`", table, re.MULTILINE)) == sorted({*CHECKS, "tie", "version"})
