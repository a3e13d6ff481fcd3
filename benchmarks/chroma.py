"""Changed rows published as a Chroma directory: what changed, against download, upsert and upload of everything."""

from __future__ import annotations

import shutil
import statistics
import sys
from typing import TYPE_CHECKING, Any

from benchmarks import build
from benchmarks.process import PEERS, Side
from benchmarks.results import Figure, table

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.results import Options

ROWS = (10_000, 100_000, 300_000)
COMPARED = 100_000
CHANGED = 1_000
ADD_SIZE = 1_000  # rows of a call of the plain way, the best of those that the benchmark of commits tries
ROUNDS = 3
EXPLAINED = """\
{changed:,} random rows are changed and committed, and the collection is published as a Chroma directory. Flowbed writes
only these rows, on a copy that it has kept from the last time, or that another machine downloads first; compares the
result with the index in another process; and uploads the directory. The plain way copies the directory from the store,
upserts, and copies it back, unverified. The store of both is a folder on the same disk, so transfers cost less here
than over a network. Bytes are those read from and written to the store; memory is the peak of all processes
together."""


def measure(options: Options) -> dict[str, Any]:
    """Publish at every size, in turn with the plain way; `--rows` takes only sizes up to that."""
    changed = options.scaled(CHANGED, fewest=50)
    sizes = [each for each in ROWS if not options.rows or each <= options.rows]
    found = {str(size): _size(options, size, changed) for size in sizes}
    return {"changed": changed, "found": found}


def _size(options: Options, size: int, changed: int) -> dict[str, Any]:
    count = options.scaled(size, fewest=500)
    data = build.rows(options, count=size)
    folder, store = options.work / f"bed-{size}", options.work / f"store-{size}"
    # With the peers' environment if it is installed; chromadb is the same.
    python = PEERS if PEERS.exists() else sys.executable
    with Side("peer_rows", python=python) as peer:
        plain_build = peer.ask("build", store=store, rows=data.folder, count=count, add_size=5_000)
    with Side("snapshots") as side:
        side.ask("begin", folder=folder, rows=data.folder, model="seeded:384")
        side.ask("configure", folder=folder)
        side.ask("build", count=count)
    with Side("snapshots") as side:
        side.ask("open", folder=folder, rows=data.folder)
        first = side.ask("snapshot")
    ours: list[dict[str, Any]] = []
    away: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    for turn in range(options.rounds or ROUNDS):
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
        "plain build": plain_build["add"],
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
    firsts = ", ".join(
        f"{each['rows']:,} in {each['first']:.0f} s (chromadb alone loads them in {each['plain build']:.0f} s)"
        for each in found["found"].values()
    )
    explained = EXPLAINED.format(changed=found["changed"])
    heads = ["rows", "", "time", "transferred", "memory"]
    return f"## Chroma directories\n\n{explained}\n\n{table(heads, rows)}\n\nFirst publications: {firsts}.\n"


def _medians(runs: list[dict[str, Any]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def _remove(*folders: Path) -> None:
    for each in folders:
        shutil.rmtree(each, ignore_errors=True)
