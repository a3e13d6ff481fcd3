"""Search over 100,000 rows: Flowbed against chromadb, in turn, by vector, by filter, by text, and from a cold start."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from benchmarks import build
from benchmarks.process import PEERS, ROOT, Side
from benchmarks.results import Figure, table
from benchmarks.vectors import BUCKETS, EXPLAINED, MODEL, MODELS, QUERIES, TOPICS, recall
from flowbed.embedding.local.weights import find_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from benchmarks.results import Options
    from benchmarks.vectors import Rows

BLOCK = 20  # queries of one side before the other takes its turn
WARM = 100  # uncounted queries that open files and fill caches
SWEPT = 200  # queries for each setting of chromadb
LOOKS = (20, 50, 100, 200, 400)  # chromadb's ef_search; 100 is its default
WANTED = 0.98  # recall@10
COMMITS = 10  # commits in which the unindexed rows arrive
COLD = 9
WHERES: dict[str, dict[str, Any]] = {
    "1 % of the rows": {"bucket": 7},
    "10 % of the rows": {"bucket": {"$lt": BUCKETS // 10}},
    "10 % of the rows, by topic": {"topic": TOPICS - 1},
}


def measure(options: Options) -> dict[str, Any]:
    """Build both, then send both the same queries, alternating by block."""
    data, count = build.rows(options), options.scaled(build.ROWS, fewest=2_000)
    bed, chroma = options.work / "bed", options.work / "chroma"
    with Side("flowbed_rows") as side:
        side.ask("begin", folder=bed, rows=data.folder, model=MODEL)
        side.ask("build", count=count)
    shutil.copytree(build.chroma(data, count), chroma)
    first = _cut(data, count)
    queries = min(QUERIES, options.scaled(QUERIES, fewest=2 * BLOCK))
    with Side("flowbed_rows") as ours, Side("peer_rows", python=PEERS) as theirs:
        ours.ask("open", folder=bed, rows=data.folder)
        theirs.ask("open", store=chroma, rows=data.folder)
        chosen, sweep = _sweep(theirs, data, min(SWEPT, queries), first)
        found = {"no filter": _paired(ours, theirs, data, queries, mask=first)}
        for what, where in WHERES.items():
            mask = first & _mask(data, where)
            found[what] = _paired(ours, theirs, data, queries // 2, where=where, mask=mask)
        memory = {"Flowbed": ours.memory.peak, "chromadb": theirs.memory.peak}
        cold = _cold(bed, chroma, data)
        model = str(find_checkpoint("", cache=MODELS, download=False).folder)
        theirs.ask("load", folder=model)
        found["by text"] = _paired(ours, theirs, data, queries // 3, mask=first, model=model)
        spare = options.scaled(build.SPARE, fewest=200)
        for each in (ours, theirs):
            each.ask("add", start=count, stop=count + spare, commits=COMMITS)
        found["with unindexed rows"] = _paired(
            ours, theirs, data, queries // 2, mask=_cut(data, count + spare)
        )
    return {
        "rows": count,
        "spare": spare,
        "queries": queries,
        "found": found,
        "ef": chosen,
        "sweep": sweep,
        "cold": cold,
        "memory": memory,
    }


def figures(found: dict[str, Any]) -> list[Figure]:
    """Compare medians and recall."""
    plain, cold = found["found"]["no filter"], found["cold"]
    reached = [
        Figure(
            what=f"Search among {found['rows']:,} rows: p50 against chromadb's",
            value=plain["Flowbed"]["p50"] / plain["chromadb"]["p50"],
            target=1.3,
            at_most=True,
            form="{:.2f}x",
        ),
        _recall("Recall@10 of it", plain),
    ]
    reached += [_recall(f"Recall@10, a filter for {what}", found["found"][what]) for what in WHERES]
    reached.append(
        _recall(f"Recall@10 with {found['spare']:,} unindexed rows", found["found"]["with unindexed rows"])
    )
    reached.append(
        Figure(
            what="Cold open, new process to first answer, against chromadb's",
            value=statistics.median(cold["flowbed"]) / statistics.median(cold["chromadb"]),
            target=1 / 3,
            at_most=True,
            form="{:.2f}x",
        )
    )
    return reached


def section(found: dict[str, Any]) -> str:
    """Write what was measured."""
    lines = []
    for what, sides in found["found"].items():
        for side in ("Flowbed", "chromadb"):
            run = sides[side]
            lines.append(
                [f"{what}, {side}", f"{run['p50']:.2f}", f"{run['p95']:.2f}", f"{run['recall']:.4f}"]
            )
    cold = [
        [name, *(f"{statistics.median(found['cold'][side]):.2f}" for side in ("flowbed", "chromadb"))]
        for name in ("seconds, median of " + str(len(found["cold"]["flowbed"])),)
    ]
    sweep = ", ".join(
        f"{looks}: {run['p50']:.2f} ms at {run['recall']:.4f}" for looks, run in found["sweep"].items()
    )
    memory = ", ".join(f"{side} {held / 2**20:,.0f} MiB" for side, held in found["memory"].items())
    return f"""## Search

{found["rows"]:,} rows of 384 dimensions. Searches by vector return the ten nearest rows with id, document and metadata;
warm, {found["queries"]:,} queries in blocks of {BLOCK}, alternating with chromadb in another process. Recall@10 is by
distance: a row as near as the tenth nearest counts. chromadb's `ef_search` is the fastest that reaches {WANTED:.0%}
({sweep}): {found["ef"]}. By text, the query is embedded during the search, by Flowbed's local model and by
sentence-transformers. The {found["spare"]:,} unindexed rows came in {COMMITS} commits after the vector index was built.

{table(["", "p50, ms", "p95, ms", "recall@10"], lines)}

{EXPLAINED}

Peak memory of the process that searched by vector: {memory}.

A new Python process, from its start to its first answer (files in the page cache):

{table(["", "Flowbed", "chromadb"], cold)}
"""


def _recall(what: str, sides: dict[str, Any]) -> Figure:
    return Figure(what=what, value=sides["Flowbed"]["recall"], target=WANTED, form="{:.3f}")


def _sweep(peer: Side, data: Rows, queries: int, mask: NDArray[np.bool_]) -> tuple[int, dict[int, Any]]:
    """Return chromadb's fastest setting that reaches the recall; the one with the highest recall if none does."""
    sweep = {}
    for looks in LOOKS:
        peer.ask("ef", ef_search=looks)
        peer.ask("search", start=0, stop=min(WARM, queries))
        sweep[looks] = _summary(peer.ask("search", start=0, stop=queries), data, mask)
    enough = [looks for looks in LOOKS if sweep[looks]["recall"] >= WANTED]
    best = min(enough, key=lambda looks: sweep[looks]["p50"]) if enough else LOOKS[-1]
    peer.ask("ef", ef_search=best)
    return best, sweep


def _paired(
    ours: Side,
    theirs: Side,
    data: Rows,
    queries: int,
    *,
    mask: NDArray[np.bool_],
    where: dict[str, Any] | None = None,
    model: str = "",
) -> dict[str, Any]:
    """Send both the same queries, alternating by block."""
    seen: dict[str, dict[str, list[Any]]] = {
        side: {"ms": [], "found": []} for side in ("Flowbed", "chromadb")
    }
    # Texts are not repeated, because an embedding may be cached: the model is warmed with others.
    warm = [QUERIES - BLOCK] if model else list(range(0, min(WARM, queries), BLOCK))
    for turn, start in enumerate((*warm, *range(0, queries, BLOCK))):
        stop = start + BLOCK if turn < len(warm) else min(start + BLOCK, queries)
        for name, side in (("Flowbed", ours), ("chromadb", theirs)):
            arguments = {"start": start, "stop": stop}
            if model:
                more = {} if side is ours else {"folder": model}
                answer = side.ask("texts", **arguments, **more)
            else:
                answer = side.ask("search", **arguments, where=where)
            if turn >= len(warm):
                seen[name]["ms"] += answer["ms"]
                seen[name]["found"] += answer["found"]
    return {name: _summary(answer, data, mask) for name, answer in seen.items()}


def _summary(answer: dict[str, Any], data: Rows, mask: NDArray[np.bool_]) -> dict[str, float]:
    return {
        "p50": statistics.median(answer["ms"]),
        "p95": statistics.quantiles(answer["ms"], n=20)[18],
        "recall": recall(data, answer["found"], mask=mask),
    }


def _mask(data: Rows, where: dict[str, Any]) -> NDArray[np.bool_]:
    ((name, wanted),) = where.items()
    values = {"bucket": data.buckets, "topic": data.topics}[name]
    return values < wanted["$lt"] if isinstance(wanted, dict) else values == wanted


def _cut(data: Rows, count: int) -> NDArray[np.bool_]:
    """Return a mask of the first `count` rows."""
    mask = data.buckets >= 0
    mask[count:] = False
    return mask


def _cold(bed: Path, chroma: Path, data: Rows) -> dict[str, list[float]]:
    """Time new processes from their start to their first answer, in turn."""
    taken: dict[str, list[float]] = {"flowbed": [], "chromadb": []}
    for turn in range(COLD + 1):
        for side, python, store in (("flowbed", sys.executable, bed), ("chromadb", PEERS, chroma)):
            command = [str(python), "-m", "benchmarks.sides.cold", side, str(store)]
            began = time.perf_counter()
            with subprocess.Popen(
                [*command, str(data.folder / "queries.npy"), str(turn)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                text=True,
            ) as process:
                answer = process.stdout.readline() if process.stdout is not None else ""
                seconds = time.perf_counter() - began
            if not answer.startswith("rows#"):
                raise RuntimeError(f"{side} gave no answer from a cold start")
            if turn:  # the first brings files into the page cache
                taken[side].append(seconds)
    return taken
