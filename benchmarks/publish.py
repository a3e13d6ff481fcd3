"""Changed rows published into an existing index: Flowbed's commit against copying a Chroma directory."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from benchmarks import build
from benchmarks.process import PEERS, Side
from benchmarks.results import Figure, table

if TYPE_CHECKING:
    from benchmarks.results import Options
    from benchmarks.vectors import Rows

ROWS = (10_000, 30_000, 100_000, 500_000)
COPIED = (10_000, 30_000, 100_000)  # chromadb takes minutes to load 500,000
COMPARED = 100_000
CHANGED = 1_000
ADDS = (250, 1_000)
ROUNDS = 7


def measure(options: Options) -> dict[str, Any]:
    """Publish at every size, in turn where both are measured."""
    changed = options.scaled(CHANGED, fewest=50)
    data = build.rows(options, count=ROWS[-1])
    best, sweep = _sweep(options, changed, build.rows(options))
    found: dict[str, dict[str, Any]] = {}
    for size in ROWS:
        count = options.scaled(size, fewest=500)
        folder = options.work / f"bed-{size}"
        with Side("flowbed_rows") as side:
            side.ask("begin", folder=folder, rows=data.folder, model="seeded:384")
            side.ask("build", count=count)
        found[str(size)] = _size(options, data, size, best, changed)
    return {"changed": changed, "best": best, "sweep": sweep, "found": found, "scale": options.scale}


def _size(options: Options, data: Rows, size: int, best: int, changed: int) -> dict[str, Any]:
    """Publish in turn; another process opens what was built, so that its memory is that of publishing."""
    count = options.scaled(size, fewest=500)
    ours: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    small = build.rows(options)
    store = build.chroma(small, count) if size in COPIED else None
    memory = 0
    folder = options.work / f"bed-{size}"
    with Side("flowbed_rows") as side, Side("flowbed_rows") as reader:
        for each in (side, reader):
            each.ask("open", folder=folder, rows=data.folder)
        for turn in range(1 + (options.rounds or ROUNDS)):
            run = side.ask("publish", count=count, changed=changed, edition=turn + 1)
            run["reader"] = reader.ask("look", row=run.pop("row"), edition=turn + 1)
            run["seconds"] += run["reader"]
            ours += [run] if turn else []  # the first one opens files
            if store is not None and turn < 4:
                with Side("peer_rows", python=PEERS) as peer:
                    arguments = {"store": store, "rows": small.folder, "work": options.work, "count": count}
                    run = peer.ask("publish", changed=changed, edition=turn + 1, add_size=best, **arguments)
                    memory = max(memory, peer.memory.peak)
                theirs += [run] if turn else []
        held = side.memory.peak
    return {
        "rows": count,
        "Flowbed": {**_medians(ours), "memory": held},
        "chromadb": {**_medians(theirs), "memory": memory} if theirs else None,
    }


def figures(found: dict[str, Any]) -> list[Figure]:
    """Compare at 100,000 rows, and the largest with the smallest."""
    sizes = found["found"]
    here, small, large = sizes[str(COMPARED)], sizes[str(ROWS[0])], sizes[str(ROWS[-1])]
    ours, changed = here["Flowbed"], found["changed"]
    grown = {name: large["Flowbed"][name] / small["Flowbed"][name] for name in ("seconds", "memory")}
    return [
        Figure(
            what=f"Publishing {changed:,} changed rows into {here['rows']:,}, against copying a Chroma directory",
            value=here["chromadb"]["seconds"] / ours["seconds"],
            target=20,
        ),
        Figure(
            what="Bytes written by it",
            value=max(ours["files"], ours["written"]) / 1e6,
            target=5,
            at_most=True,
            form="{:.1f} MB",
        ),
        Figure(
            what=f"Time of publishing, {large['rows']:,} rows against {small['rows']:,}",
            value=grown["seconds"],
            target=4,
            at_most=True,
        ),
        Figure(
            what=f"Memory of publishing, {large['rows']:,} rows against {small['rows']:,}",
            value=grown["memory"],
            target=1.2,
            at_most=True,
            form="{:.2f}x",
        ),
    ]


def section(found: dict[str, Any]) -> str:
    """Write what was measured."""
    lines, details = [], []
    for each in found["found"].values():
        ours, theirs = each["Flowbed"], each["chromadb"]
        lines.append(
            [
                f"{each['rows']:,}",
                f"{ours['seconds'] * 1e3:,.0f}",
                f"{max(ours['files'], ours['written']) / 1e6:.1f}",
                f"{ours['memory'] / 2**20:,.0f}",
                f"{theirs['seconds'] * 1e3:,.0f}" if theirs else "",
                f"{2 * theirs['files'] / 1e6:,.0f}" if theirs else "",
                f"{theirs['memory'] / 2**20:,.0f}" if theirs else "",
            ]
        )
        parts = ", ".join(
            f"{name} {ours[name] * 1e3:.0f}" for name in ("delta", "ledger", "commit", "reader")
        )
        copied = ""
        if theirs:
            names = ("copy", "upsert", "copy back", "reader")
            copied = ", ".join(f"{name} {theirs[name] * 1e3:,.0f}" for name in names)
        details.append([f"{each['rows']:,}", parts, copied])
    heads = ["rows", "Flowbed, ms", "MB written", "MiB", "copying Chroma, ms", "MB written", "MiB"]
    sweep = ", ".join(f"{size}: {seconds:.2f} s" for size, seconds in found["sweep"].items())
    return f"""## Publishing what changed

{found["changed"]:,} random rows have a new vector and document, which already exist. Flowbed writes a delta, records
its run, merges it and marks its chunks. chromadb's directory is copied, the rows are upserted ({sweep} by rows per
call), and it is copied back. Both end when a new reader of the store finds one of the rows; Flowbed's reader is another
process. Flowbed syncs what it writes to disk; the copies are not synced. Bytes are those of new and changed files, or
of all write calls if that is more. Memory is that of a process that only publishes.

![Time of publishing against the number of rows](cost.svg)

{table(heads, lines)}

Milliseconds of each step:

{table(["rows", "Flowbed", "copying Chroma"], details)}
"""


def curve(found: dict[str, Any], side: str) -> list[tuple[float, float]]:
    """List (rows, seconds) of one side."""
    return [(each["rows"], each[side]["seconds"]) for each in found["found"].values() if each[side]]


def _sweep(options: Options, changed: int, data: Rows) -> tuple[int, dict[int, float]]:
    """Return chromadb's best number of rows per upsert."""
    count = options.scaled(COPIED[0], fewest=500)
    store = build.chroma(data, count)
    sweep = {}
    with Side("peer_rows", python=PEERS) as peer:
        for place, size in enumerate(ADDS):
            arguments = {"store": store, "rows": data.folder, "work": options.work, "count": count}
            run = peer.ask("publish", changed=changed, edition=100 + place, add_size=size, **arguments)
            sweep[size] = run["upsert"]
    return min(sweep, key=lambda size: sweep[size]), sweep


def _medians(runs: list[dict[str, Any]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}
