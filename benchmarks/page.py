"""docs/benchmarks.md, written from the newest results of each benchmark; what was not measured here keeps its text."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks import (
    aws,
    browser,
    build,
    chroma,
    chroma_api,
    cranfield,
    embedder,
    find,
    imports,
    interference,
    limits,
    million,
    modes,
    publish,
    questions,
    receipts,
    search,
    server,
    sources,
    start,
    workers,
)
from benchmarks.picture import picture
from benchmarks.results import read_result

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from benchmarks.results import Result

# In the order of the page; each has `measure`, `figures` and `section`.
BENCHMARKS: dict[str, ModuleType] = {
    "receipts": receipts,
    "build": build,
    "publish": publish,
    "search": search,
    "million": million,
    "find": find,
    "embedder": embedder,
    "server": server,
    "browser": browser,
    "start": start,
    "chroma": chroma,
    "chroma_api": chroma_api,
    "imports": imports,
    "interference": interference,
    "cranfield": cranfield,
    "modes": modes,
    "questions": questions,
    "limits": limits,
    "sources": sources,
    "workers": workers,
    "aws": aws,
}


HEAD = """\
Written by `make bench` from the newest results of each benchmark; `make bench ONLY=search` measures one again and
leaves the text of the others, with the day on which each was measured. Figures are medians unless stated otherwise.
Both sides of a comparison ran in turn, in separate processes, the peers with the best settings found in the same run.
"""


# What a page says about one benchmark: a line of the table names it and the day, and so does the end of its section.
LINE = re.compile(r"^\| .* \| (\w+), \d{4}-\d\d-\d\d \|$", re.MULTILINE)
SECTION = re.compile(
    r"^## (?:(?!^## ).)*?^<sub>`python -m benchmarks (\w+)[^\n]*</sub>\n", re.MULTILINE | re.DOTALL
)


@dataclass
class _Part:
    """What the page says about one benchmark: lines of the first table, and a section."""

    lines: list[str] = field(default_factory=list)
    section: str = ""


def write_page(results: Path, docs: Path) -> str:
    """Write the page and the picture into `docs`, and return the page.

    A benchmark without results in `results`, such as those of another machine, keeps the part that the page has.
    """
    path = docs / "benchmarks.md"
    parts = _written(path.read_text("utf-8")) if path.exists() else {}
    for name in BENCHMARKS:
        if (result := read_result(results, name)) is not None:
            parts[name] = _measured(name, result)
            if name == "publish":
                docs.mkdir(parents=True, exist_ok=True)
                (docs / "cost.svg").write_text(_cost(result), encoding="utf-8")
    lines = [line for name in BENCHMARKS if name in parts for line in parts[name].lines]
    head = ["| figure | measured | target | | by |", "| --- | ---: | ---: | --- | --- |"]
    said = ["# Benchmarks\n", HEAD, "\n".join([*head, *lines, ""])]
    if missing := [name for name in BENCHMARKS if name not in parts]:
        said.append(f"Not measured yet: {', '.join(missing)}.\n")
    page = "\n".join([*said, *(parts[name].section for name in BENCHMARKS if name in parts)])
    docs.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return page


def _measured(name: str, result: Result) -> _Part:
    """Write the part of a benchmark from its results."""
    lines = [f"{figure.line} {name}, {result.day} |" for figure in BENCHMARKS[name].figures(result.found)]
    return _Part(lines, "\n".join([BENCHMARKS[name].section(result.found), _made(result)]))


def _written(page: str) -> dict[str, _Part]:
    """Read the parts of a page by their benchmarks."""
    parts: dict[str, _Part] = {}
    for line in LINE.finditer(page):
        parts.setdefault(line[1], _Part()).lines.append(line[0])
    for section in SECTION.finditer(page):
        parts.setdefault(section[1], _Part()).section = section[0]
    return parts


def _made(result: Result) -> str:
    machine = "; ".join(result.machine)
    made = f"`{result.command}` on {result.day}, {result.seconds / 60:.1f} minutes"
    return f"<sub>{made}. {machine}. {result.load}.</sub>\n"


def _cost(result: Result) -> str:
    curves = {
        "Flowbed": publish.curve(result.found, "Flowbed"),
        "copying Chroma": publish.curve(result.found, "chromadb"),
    }
    title = f"Seconds to publish {result.found['changed']:,} changed rows"
    return picture(curves, title=title, across="rows in the index", up=title)
