"""An index built from existing vectors: Flowbed against chromadb's fastest load."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from benchmarks.process import BENCH, PEERS, Side
from benchmarks.results import Figure, table
from benchmarks.vectors import EXPLAINED, Rows, rows_of

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.results import Options

ROWS = 100_000
SPARE = 10_000  # rows that other benchmarks add later
SWEPT = 10_000
ADDS = (500, 1_000, 5_000)
ROUNDS = 2
PINS = (BENCH.parent / "benchmarks" / "peers.txt").read_text("utf-8")


def measure(options: Options) -> dict[str, Any]:
    """Build both in turn; chromadb's folder is kept for the benchmarks that read it."""
    count, data = options.scaled(ROWS, fewest=2_000), rows(options)
    found: dict[str, list[dict[str, Any]]] = {"Flowbed": [], "chromadb": []}
    with Side("peer_rows", python=PEERS) as peer:
        some = options.scaled(SWEPT, fewest=1_000)
        sweep = {}
        for size in ADDS:
            arguments = {
                "store": options.work / "sweep",
                "rows": data.folder,
                "count": some,
                "add_size": size,
            }
            sweep[size] = some / peer.ask("build", **arguments)["seconds"]
    best = max(sweep, key=lambda size: sweep[size])
    for turn in range(options.rounds or ROUNDS):
        with Side("flowbed_rows") as side:
            folder = options.work / f"bed-{turn}"
            side.ask("begin", folder=folder, rows=data.folder, model="seeded:384")
            found["Flowbed"].append({**side.ask("build", count=count), "memory": side.memory.peak})
        if turn < 1:  # the peer takes minutes
            with Side("peer_rows", python=PEERS) as side:
                store = chroma_folder(data, count)
                arguments = {"store": store, "rows": data.folder, "count": count, "add_size": best}
                found["chromadb"].append({**side.ask("build", **arguments), "memory": side.memory.peak})
            (store / "complete").touch()
    return {"rows": count, "found": found, "sweep": sweep, "best": best}


def figures(found: dict[str, Any]) -> list[Figure]:
    """Compare the medians."""
    taken = {side: _median(runs) for side, runs in found["found"].items()}
    return [
        Figure(
            what=f"Building an index of {found['rows']:,} rows of 384 dimensions, against chromadb",
            value=taken["chromadb"] / taken["Flowbed"],
            target=10,
        )
    ]


def section(found: dict[str, Any]) -> str:
    """Write what was measured."""
    lines = []
    for side, runs in found["found"].items():
        parts = [name for name in runs[0] if name not in ("seconds", "memory")]
        steps = ", ".join(f"{name} {statistics.median(run[name] for run in runs):.1f}" for name in parts)
        memory = max(run["memory"] for run in runs) / 2**20
        taken = _median(runs)
        lines.append([side, f"{taken:.1f}", f"{found['rows'] / taken:,.0f}", steps, f"{memory:,.0f}"])
    sweep = ", ".join(f"{size}: {rate:,.0f} rows/s" for size, rate in found["sweep"].items())
    return f"""## Building an index

{found["rows"]:,} rows of 384 dimensions with documents and metadata, timed from memory until a new reader of the store
finds the last of them. Flowbed writes deltas, records their runs in its ledger, merges them in one commit and builds a
vector index, all synced to disk. chromadb is loaded the fastest way known: a new collection, `add`, float32 arrays, one
process, and the fastest number of rows per call over {SWEPT:,} ({sweep}).

{table(["", "seconds", "rows/s", "of which", "memory, MiB"], lines)}

{EXPLAINED}
"""


def rows(options: Options, *, count: int = ROWS) -> Rows:
    """Return the rows of this scale, with some to spare."""
    wanted = options.scaled(count, fewest=2_000) + options.scaled(SPARE, fewest=200)
    return rows_of(options.data, wanted, texts=options.scaled(20_000, fewest=600))


def chroma_folder(data: Rows, count: int) -> Path:
    """Return the folder in which chromadb keeps this number of rows."""
    pin = next(line for line in PINS.splitlines() if line.startswith("chromadb=="))
    return BENCH / "stores" / f"{pin}-{data.folder.name}-{count}"


def chroma(data: Rows, count: int) -> Path:
    """Return chromadb's folder for these rows, and build it if necessary."""
    store = chroma_folder(data, count)
    if not (store / "complete").exists():
        with Side("peer_rows", python=PEERS) as side:
            side.ask("build", store=store, rows=data.folder, count=count, add_size=ADDS[-1])
        (store / "complete").touch()
    return store


def _median(runs: list[dict[str, Any]]) -> float:
    return statistics.median(run["seconds"] for run in runs)
