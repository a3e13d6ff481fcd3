"""A million records: memory, a rate that holds, and a second run that finds nothing to do."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.process import Side
from benchmarks.results import Figure, table
from benchmarks.vectors import rows_of

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.results import Options

ROWS = 1_000_000
ROWS_384 = 250_000


def measure(options: Options) -> dict[str, Any]:
    """Index records with vectors of 64 and of 384 dimensions; run again, untouched, and with the file written anew."""
    found = {}
    for dimensions, count in ((64, options.rows or ROWS), (384, options.rows_384 or ROWS_384)):
        wanted = options.scaled(count, fewest=2_000)
        file = options.work / f"records-{dimensions}.jsonl"
        write_records(file, wanted, options)
        folder = options.work / f"bed-{dimensions}"
        runs = {"first": _run(folder, file, dimensions)}
        if dimensions == 64:
            runs["untouched"] = _run(folder, file, dimensions)
            shutil.copyfile(file, file.with_suffix(".new"))
            file.with_suffix(".new").replace(file)
            runs["written anew"] = _run(folder, file, dimensions)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        found[str(dimensions)] = {"rows": wanted, "runs": runs, "size": size, "file": file.stat().st_size}
        shutil.rmtree(folder)
    return {"found": found}


def figures(found: dict[str, Any]) -> list[Figure]:
    """Hold the million of 64 dimensions against its limits."""
    small = found["found"]["64"]
    first, again = small["runs"]["first"], small["runs"]["written anew"]
    rows = small["rows"]
    return [
        Figure(
            what=f"{rows:,} records, 64 dimensions: memory of all processes",
            value=first["memory"] / 1e9,
            target=1,
            at_most=True,
            form="{:.2f} GB",
        ),
        Figure(
            what="Rate of the last tenth against the first, compaction apart",
            value=_held(first),
            target=0.8,
            form="{:.2f}",
        ),
        Figure(
            what="Running again, every record read and none changed",
            value=rows / again["seconds"],
            target=30_000,
            form="{:,.0f} rows/s",
        ),
        Figure(
            what="Texts embedded by that",
            value=again["report"]["embedded"],
            target=0,
            at_most=True,
            form="{:.0f}",
        ),
    ]


def section(found: dict[str, Any]) -> str:
    """Write what was measured."""
    lines, rates = [], []
    for dimensions, each in found["found"].items():
        for what, run in each["runs"].items():
            lines.append(
                [
                    f"{each['rows']:,} of {dimensions} dimensions, {what}",
                    f"{run['seconds']:,.1f}",
                    f"{run['compaction']:,.1f}",
                    f"{each['rows'] / run['seconds']:,.0f}",
                    f"{run['memory'] / 1e6:,.0f}",
                    f"{run['report']['embedded']:,}",
                ]
            )
        for stage, tenths in each["runs"]["first"]["tenths"].items():
            if tenths:
                rates.append([f"{dimensions} dimensions, {stage}", *(f"{rate:,.0f}" for rate in tenths)])
    sizes = "; ".join(
        f"{dimensions} dimensions: {each['file'] / 1e6:,.0f} MB of JSON became {each['size'] / 1e6:,.0f} MB"
        for dimensions, each in found["found"].items()
    )
    heads = ["", "seconds", "of which compaction", "rows/s", "memory, MB", "embedded"]
    return f"""## A million records

Records of JSON Lines, a sentence each, no two alike; their vectors are made from the text (`seeded:64`), so that it is
Flowbed that is measured and no model. Fetching, chunking, ledger, embedding, commits, vector index and compaction run
in one process tree, whose resident memory is counted together. "Untouched" runs again over the same file;
"written anew" over a copy in its place, so that every record is read and compared.

{table(heads, lines)}

Rows a second in each tenth of a run, compaction apart; the figure above is the lower ratio of the stages:

{table(["stage", *(str(tenth) for tenth in range(1, 11))], rates)}

On disk, deltas and cache included: {sizes}.
"""


def _held(run: dict[str, Any]) -> float:
    """Take the lower ratio of last to first tenth among the stages."""
    return min(tenths[-1] / tenths[0] for tenths in run["tenths"].values() if tenths)


def _run(folder: Path, file: Path, dimensions: int) -> dict[str, Any]:
    with Side("flowbed_texts") as side:
        run = side.ask("records", folder=folder, file=file, model=f"seeded:{dimensions}")
        if run["report"]["failed"]:
            raise RuntimeError(f"{run['report']['failed']} records failed")
        return {**run, "memory": side.memory.peak}


def write_records(file: Path, count: int, options: Options) -> None:
    """Write records: sentences of the test data, each with its number behind it."""
    data = rows_of(options.data, 2_000, texts=600)
    texts = json.loads((data.folder / "texts.json").read_text("utf-8"))
    chosen = np.random.default_rng(5).integers(0, len(texts), count)
    with file.open("w", encoding="utf-8") as written:
        for row, at in enumerate(chosen):
            record = {"id": f"{row:07d}", "text": f"{texts[at]} {row}"}
            written.write(json.dumps(record) + "\n")
