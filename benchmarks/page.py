"""docs/benchmarks.md, written from the newest results of each benchmark."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import (
    build,
    chroma_api,
    cranfield,
    embedder,
    find,
    interference,
    limits,
    million,
    publish,
    receipts,
    search,
    server,
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
    "chroma_api": chroma_api,
    "interference": interference,
    "cranfield": cranfield,
    "limits": limits,
}


HEAD = """\
Written by `make bench` from the newest results of each benchmark; `make bench ONLY=search` measures one again. Figures
are medians unless stated otherwise. Both sides of a comparison ran in turn, in separate processes, the peers with the
best settings found in the same run.
"""


def write_page(results: Path, docs: Path) -> str:
    """Write the page and the picture into `docs`, and return the page."""
    read = {name: read_result(results, name) for name in BENCHMARKS}
    found = {name: result for name, result in read.items() if result is not None}
    missing = [name for name, result in read.items() if result is None]
    figures = [
        figure.line for name, result in found.items() for figure in BENCHMARKS[name].figures(result.found)
    ]
    parts = [
        "# Benchmarks\n",
        HEAD,
        "\n".join(["| figure | measured | target | |", "| --- | ---: | ---: | --- |", *figures, ""]),
    ]
    if missing:
        parts.append(f"Not measured yet: {', '.join(missing)}.\n")
    for name, result in found.items():
        parts += [BENCHMARKS[name].section(result.found), _made(result)]
    page = "\n".join(parts)
    docs.mkdir(parents=True, exist_ok=True)
    (docs / "benchmarks.md").write_text(page, encoding="utf-8")
    if "publish" in found:
        (docs / "cost.svg").write_text(_cost(found["publish"]), encoding="utf-8")
    return page


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
