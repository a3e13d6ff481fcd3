"""Rows with their vectors, taken over from another program: a Chroma directory, and a Parquet file."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from benchmarks import build
from benchmarks.process import Side
from benchmarks.results import Figure, table

if TYPE_CHECKING:
    from benchmarks.results import Options

ROWS = 100_000
ROUNDS = 2
NAMES = {"chroma": "a Chroma directory", "parquet": "a Parquet file"}


def measure(options: Options) -> dict[str, Any]:
    """Import the same rows from each, in turn, into new projects."""
    count, data = options.scaled(ROWS, fewest=2_000), build.rows(options)
    places = {"chroma": build.chroma(data, count), "parquet": options.work / "rows.parquet"}
    with Side("imports") as side:
        side.ask("write", path=places["parquet"], rows=data.folder, count=count)
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in places}
    for turn in range(options.rounds or ROUNDS):
        for kind, place in places.items():
            with Side("imports") as side:
                run = side.ask("take", folder=options.work / f"bed-{kind}-{turn}", place=place)
                found[kind].append({**run, "memory": side.memory.peak})
    return {"rows": count, "found": found}


def figures(found: dict[str, Any]) -> list[Figure]:
    """Rate each kind."""
    return [
        Figure(
            what=f"Importing {found['rows']:,} rows of 384 dimensions from {NAMES[kind]}",
            value=_rate(runs),
            target=10_000,
            form="{:,.0f} rows/s",
        )
        for kind, runs in found["found"].items()
    ]


def section(found: dict[str, Any]) -> str:
    """Write what was measured."""
    lines = [
        [
            NAMES[kind],
            f"{statistics.median(run['seconds'] for run in runs):.1f}",
            f"{_rate(runs):,.0f}",
            f"{statistics.median(run['cpu'] for run in runs):.1f}" if "cpu" in runs[0] else "",
            f"{max(run['memory'] for run in runs) / 2**20:,.0f}",
        ]
        for kind, runs in found["found"].items()
    ]
    return f"""## Import

{found["rows"]:,} rows of 384 dimensions with documents and metadata are taken over with their vectors, without a
sample: `flowbed import --unchecked` into a new project. Timed from the open project until a search would find the last
of them, with the vector index built and everything synced to disk. A Chroma directory is copied first and read in a
separate process, which loads chromadb; its CPU time and memory are counted too. Reading, writing and committing go on
at the same time, so with two cores an import takes more than half of its CPU time.

{table(["from", "seconds", "rows/s", "CPU seconds", "MiB"], lines)}
"""


def _rate(runs: list[dict[str, Any]]) -> float:
    return statistics.median(run["rows"] / run["seconds"] for run in runs)
