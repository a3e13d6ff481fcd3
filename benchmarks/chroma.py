"""Changed rows published as a Chroma directory: what changed, against download, upsert and upload of everything."""

from __future__ import annotations

import shutil
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

from benchmarks import build
from benchmarks.process import PEERS, Side
from benchmarks.results import Figure, table

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.results import Options
    from benchmarks.vectors import Rows

ROWS = (10_000, 100_000, 300_000)
COMPARED = 100_000
CHANGED = 1_000
ADD_SIZE = 1_000  # rows of a call of the plain way, the best of those that the benchmark of commits tries
ROUNDS = {10_000: 3, 100_000: 3, 300_000: 2}  # the largest takes half of the time
COLLECTION = "rows"
EXPLAINED = """\
{changed:,} random rows are changed and committed, and the collection is published as a Chroma directory. Flowbed writes
only these rows, on a copy that it has kept from the last time, or that another machine downloads first; compares the
result with the index in another process; and uploads the directory. The plain way copies a directory from the store,
upserts, and copies it back, unverified. It starts with the directory that Flowbed published first, so both have the
same rows and the same settings of the graph. The store of both is a folder on the same disk, so transfers cost less
here than over a network. Bytes are those read from and written to the store; memory is the peak of all processes
together. Each way takes its turn {rounds}."""


def measure(options: Options) -> dict[str, Any]:
    """Publish at every size, in turn with the plain way; `--rows` takes only sizes up to that."""
    changed = options.scaled(CHANGED, fewest=50)
    sizes = [each for each in ROWS if not options.rows or each <= options.rows]
    data = build.rows(options, count=max(sizes))  # each size takes the first of these rows
    found = {}
    for size in sizes:
        began = time.monotonic()
        found[str(size)] = _size(options, data, size, changed)
        print(f"  {size:,} rows: {time.monotonic() - began:.0f} s", flush=True)
    return {"changed": changed, "found": found}


def _size(options: Options, data: Rows, size: int, changed: int) -> dict[str, Any]:
    count = options.scaled(size, fewest=500)
    folder, store = options.work / f"bed-{size}", options.work / f"store-{size}"
    # With the peers' environment if it is installed; chromadb is the same.
    python = PEERS if PEERS.exists() else sys.executable
    with Side("snapshots") as side:
        side.ask("begin", folder=folder, rows=data.folder, model="seeded:384")
        side.ask("configure", folder=folder)
        side.ask("build", count=count)
    with Side("snapshots") as side:
        side.ask("open", folder=folder, rows=data.folder)
        first = side.ask("snapshot")
    shutil.copytree(_published(folder), store)
    ours: list[dict[str, Any]] = []
    away: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    for turn in range(options.rounds or ROUNDS[size]):
        for runs, elsewhere in ((ours, False), (away, True)):
            with Side("snapshots") as side:
                side.ask("open", folder=folder, rows=data.folder)
                side.ask("publish", count=count, changed=changed, edition=2 * turn + elsewhere + 1)
                runs.append({**side.ask("snapshot", elsewhere=elsewhere), "memory": side.memory.peak})
        with Side("peer_rows", python=python) as peer:
            run = peer.ask(
                "publish",
                store=store,
                rows=data.folder,
                work=options.work,
                count=count,
                changed=changed,
                edition=turn + 1,
                add_size=ADD_SIZE,
            )
            run["seconds"] -= run["reader"]
            theirs.append({**run, "memory": peer.memory.peak})
    _remove(folder, store)
    return {
        "rows": count,
        "first": first["seconds"],
        "Flowbed": _medians(ours),
        "elsewhere": _medians(away),
        "plain": _medians(theirs),
    }


def figures(found: dict[str, Any]) -> list[Figure]:
    """Compare with the plain way at the middle size, if it was measured."""
    here = found["found"].get(str(COMPARED))
    if here is None:
        return []
    return [
        Figure(
            what=f"Publishing {found['changed']:,} changed rows as a Chroma directory of {here['rows']:,},"
            " against download, upsert and upload",
            value=here["plain"]["seconds"] / here["Flowbed"]["seconds"],
            target=1.0,
        )
    ]


def section(found: dict[str, Any]) -> str:
    """Write what was measured."""
    rows = []
    for each in found["found"].values():
        for name, key in (
            ("Flowbed", "Flowbed"),
            ("Flowbed, on another machine", "elsewhere"),
            ("plain", "plain"),
        ):
            run = each[key]
            moved = run.get("uploaded", run.get("files", 0)) * (1 if key == "Flowbed" else 2)
            rows.append(
                [
                    f"{each['rows']:,}",
                    name,
                    f"{run['seconds']:.1f} s",
                    f"{moved / 1e6:,.0f} MB",
                    f"{run['memory'] / 1e6:,.0f} MB",
                ]
            )
    firsts = ", ".join(f"{each['rows']:,} in {each['first']:.0f} s" for each in found["found"].values())
    rounds = f"{ROUNDS[COMPARED]} times, {ROUNDS[ROWS[-1]]} at {ROWS[-1]:,} rows"
    explained = EXPLAINED.format(changed=found["changed"], rounds=rounds)
    heads = ["rows", "", "time", "transferred", "memory"]
    return f"## Chroma directories\n\n{explained}\n\n{table(heads, rows)}\n\nFirst publications: {firsts}.\n"


def _published(folder: Path) -> Path:
    """Return the directory that the pointer of a project's publication names."""
    snapshots = folder / ".flowbed" / "store" / COLLECTION / "snapshot"
    return snapshots / "timestamped" / (snapshots / "latest-pointer.txt").read_text("utf-8").strip()


def _medians(runs: list[dict[str, Any]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def _remove(*folders: Path) -> None:
    for each in folders:
        shutil.rmtree(each, ignore_errors=True)
